"""Operators that cut, join, repeat or pad along axes: Concat, Split, Slice, Gather, Pad, Resize."""

from __future__ import annotations

from functools import partial

import numpy as np

from onnx_admm.model.channels.labels import Axis
from onnx_admm.model.channels.survey import Keep, NotFollowed, Survey
from onnx_admm.model.edit import NodeRef
from onnx_admm.model.view import ModelView

_MOST_INT = 2**31 - 1


def concat(survey: Survey, node: NodeRef) -> None:
    """Label Concat: the labels of its inputs one behind the other; other axes are united."""
    parts = [value for value in node.inputs if value is not None]
    shapes = [survey.shape(value) for value in parts]
    axes = [survey.of(value) for value in parts]
    rank = len(shapes[0])
    along = node.attribute("axis") % rank
    result: list[Axis | None] = list(axes[0])
    for place in range(rank):
        if place == along:
            result[place] = _joined(
                survey, node, [(a[along], s[along]) for a, s in zip(axes, shapes, strict=True)]
            )
        else:
            for other in axes[1:]:
                reason = f"{node.name} joins them with others that stay"
                result[place] = survey.join(result[place], other[place], reason)
    survey.axes[node.outputs[0]] = tuple(result)


def _joined(survey: Survey, node: NodeRef, parts: list[tuple[Axis | None, int | None]]) -> Axis | None:
    """Return labels one behind the other; positions without any get labels that stay."""
    if all(axis is None for axis, _ in parts):
        return None
    filled = []
    for axis, extent in parts:
        if axis is None and extent is None:
            survey.block([a for a, _ in parts], f"an input of {node.name} has an unknown extent")
            return None
        filled.append(_staying(survey, extent or 0, node) if axis is None else axis)
    survey.take(sum(map(len, filled)))
    return np.concatenate(filled)


def _staying(survey: Survey, count: int, node: NodeRef) -> Axis:
    """Return labels of positions that are no layer's channels."""
    survey.take(count + 2)
    made = survey.labels.fresh(count + 2)
    axis = np.zeros(0, np.int64) if made is None else made[:count]
    survey.labels.block(axis, f"{node.name} joins positions that no layer writes")
    return axis


def split(survey: Survey, node: NodeRef) -> None:
    """Label Split: each output gets its part of the labels (Split-13)."""
    source = node.input(0)
    axes, shape = survey.of(source), survey.shape(source)
    along = node.attribute("axis", 0) % len(shape)
    sizes = [survey.shape(output)[along] for output in node.outputs]
    if axes[along] is None:
        for output in node.outputs:
            survey.axes[output] = axes
        return
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or sum(known) != shape[along]:
        raise NotFollowed(f"the parts of Split {node.name} are not known")
    parts = np.split(_labels(axes[along]), np.cumsum(known)[:-1])
    for output, part in zip(node.outputs, parts, strict=True):
        survey.axes[output] = (*axes[:along], part, *axes[along + 1 :])
    survey.adjust(node, partial(_set_split, node, parts))


def _set_split(node: NodeRef, parts: list[Axis], model: ModelView, keep: Keep) -> None:
    counts = [int(np.count_nonzero(keep(part))) for part in parts]
    if model.opset >= 13:
        model.add_constant(node, 1, np.array(counts, np.int64), f"{node.name}_split")
        model.remove_attribute(node, "num_outputs")
    else:
        model.set_attribute(node, "split", counts)


def slice_(survey: Survey, node: NodeRef) -> None:
    """Label Slice with constant bounds (Slice-13; before opset 10 they are attributes)."""
    source = node.input(0)
    axes, shape = list(survey.of(source)), survey.shape(source)
    is_old = node.input(1) is None
    starts, ends = (
        (node.attribute("starts", ()), node.attribute("ends", ()))
        if is_old
        else (_stored(survey, node, 1), _stored(survey, node, 2))
    )
    given = node.attribute("axes") if is_old else _optional(survey, node, 3)
    along = [int(a) % len(shape) for a in (range(len(starts)) if given is None else given)]
    steps = [1] * len(starts) if is_old or (taken := _optional(survey, node, 4)) is None else taken
    cuts: list[tuple[Axis, slice]] = []
    for place, start, end, step in zip(along, starts, ends, steps, strict=True):
        axis = axes[place]
        part = slice(int(start), int(end) if abs(int(end)) < _MOST_INT else None, int(step))
        if axis is None:
            cuts.append((np.zeros(0, np.int64), part))
            continue
        if step != 1:
            survey.labels.block(axis, f"Slice {node.name} takes every {step}th of them")
        first, last, _ = part.indices(len(axis))
        cuts.append((axis, slice(first, max(first, last), 1)))
        axes[place] = axis[part] if len(axis[part]) else None
    survey.axes[node.outputs[0]] = tuple(axes)
    if any(len(axis) for axis, _ in cuts):
        bounds = [(int(s), int(e)) for s, e in zip(starts, ends, strict=True)]
        survey.adjust(node, partial(_set_slice, node, cuts, bounds, is_old=is_old))


def _set_slice(
    node: NodeRef,
    cuts: list[tuple[Axis, slice]],
    bounds: list[tuple[int, int]],
    model: ModelView,
    keep: Keep,
    *,
    is_old: bool,
) -> None:
    new = list(bounds)
    for place, (axis, part) in enumerate(cuts):
        if len(axis) and not keep(axis).all():
            before = np.concatenate([[0], np.cumsum(keep(axis))])
            new[place] = int(before[part.start]), int(before[part.stop])
    starts, ends = [start for start, _ in new], [end for _, end in new]
    if is_old:
        model.set_attribute(node, "starts", starts)
        model.set_attribute(node, "ends", ends)
    else:
        model.add_constant(node, 1, np.array(starts, np.int64), f"{node.name}_starts")
        model.add_constant(node, 2, np.array(ends, np.int64), f"{node.name}_ends")
        retyped = {3: node.input(3), 4: node.input(4)}
        for index, value in retyped.items():  # all of one type
            array = None if value is None else value.constant()
            if array is not None and array.dtype != np.int64:
                model.add_constant(node, index, array.astype(np.int64), f"{node.name}_input{index}")


def gather(survey: Survey, node: NodeRef) -> None:
    """Label Gather: with constant indices they choose labels; a position chosen by one number stays."""
    source, indices = node.input(0), node.input(1)
    axes, shape = survey.of(source), survey.shape(source)
    along = node.attribute("axis", 0) % len(shape)
    array = None if indices is None else indices.constant()
    rank = len(survey.shape(indices))
    middle: tuple[Axis | None, ...] = (None,) * rank
    axis = axes[along]
    if array is None:
        survey.block(axes[along : along + 1], f"{node.name} looks them up by computed indices")
    elif axis is not None:
        chosen = axis[array]
        if rank == 1 and len(array) > 1:
            middle = (chosen,)
        else:
            survey.labels.block(np.atleast_1d(chosen), f"{node.name} looks single ones up")
        survey.adjust(node, partial(_set_indices, node, axis, array))
    survey.axes[node.outputs[0]] = (*axes[:along], *middle, *axes[along + 1 :])
    if source is not None and source.constant_shape is not None and array is None:
        for place in range(len(axes)):
            if place != along:
                survey.layer(node, source, place, reads=False)


def _set_indices(node: NodeRef, axis: Axis, indices: np.ndarray, model: ModelView, keep: Keep) -> None:
    stay = keep(axis)
    places = np.cumsum(stay) - 1
    wrapped = np.where(indices < 0, indices + len(axis), indices)
    new = places[wrapped] if indices.ndim != 1 else places[wrapped[stay[wrapped]]]
    if not np.array_equal(new, indices):
        model.add_constant(node, 1, np.asarray(new, indices.dtype), f"{node.name}_indices")


def pad(survey: Survey, node: NodeRef) -> None:
    """Label Pad: padded positions along a labelled axis stay (Pad-18; before opset 11 by attributes)."""
    axes = survey.of(node.input(0))
    rank = len(axes)
    stored = node.attribute("pads") if node.input(1) is None else survey.stored(node, 1)
    chosen = range(rank) if (given := _optional(survey, node, 3)) is None else [int(a) % rank for a in given]
    if stored is None or len(stored) != 2 * len(chosen):
        raise NotFollowed(f"the widths of {node.name} are not known")
    result = list(axes)
    for number, place in enumerate(chosen):
        before, after = int(stored[number]), int(stored[number + len(chosen)])
        axis = axes[place]
        if axis is None or not (before or after):
            continue
        if before < 0 or after < 0 or node.attribute("mode", "constant") != "constant":
            survey.labels.block(axis, f"{node.name} cuts or mirrors them")
        front, back = (_staying(survey, max(0, width), node) for width in (before, after))
        inner = axis[max(0, -before) : len(axis) + min(0, after)]
        result[place] = np.concatenate([front, inner, back])
    survey.axes[node.outputs[0]] = tuple(result)


def tile(survey: Survey, node: NodeRef) -> None:
    """Label Tile: a repeated axis has its labels several times."""
    axes, repeats = survey.of(node.input(0)), _stored(survey, node, 1)
    labelled = [len(axis) * int(count) for axis, count in zip(axes, repeats, strict=True) if axis is not None]
    survey.take(sum(labelled))
    survey.axes[node.outputs[0]] = tuple(
        None if axis is None else np.tile(axis, int(count)) for axis, count in zip(axes, repeats, strict=True)
    )


def expand(survey: Survey, node: NodeRef) -> None:
    """Label Expand with a constant shape; axes that it makes stay."""
    axes, shape = survey.of(node.input(0)), survey.shape(node.input(0))
    target = node.input(1)
    stored = None if target is None else target.constant()
    rank = len(survey.shape(node.outputs[0]))
    result: list[Axis | None] = [None] * rank
    for place in range(1, len(axes) + 1):
        result[-place] = axes[-place]
    survey.axes[node.outputs[0]] = tuple(result)
    if all(axis is None for axis in result):
        return
    if stored is None:
        opened = survey.open_shapes.get(node.outputs[0])
        extents = [
            1 if place > rank - 1 - len(axes) and shape[place - rank] != 1 else extent
            for place, extent in enumerate(opened or (None,) * rank)
        ]
        if None in extents:
            raise NotFollowed(f"the shape of {node.name} is computed")
        stored = np.array(extents, np.int64)
    survey.adjust(node, partial(_set_expansion, node, tuple(result), np.asarray(stored)))


def _set_expansion(
    node: NodeRef, axes: tuple[Axis | None, ...], target: np.ndarray, model: ModelView, keep: Keep
) -> None:
    new = target.copy()
    for place in range(1, len(target) + 1):
        axis = axes[-place]
        if axis is not None and new[-place] > 1:
            new[-place] = np.count_nonzero(keep(axis))
    model.add_constant(node, 1, new, f"{node.name}_shape")


def resize(survey: Survey, node: NodeRef) -> None:
    """Label Resize and Upsample, which keep channels where their factor is 1 (Resize-13)."""
    source, target = node.input(0), node.outputs[0]
    axes, shape, after = survey.of(source), survey.shape(source), survey.shape(target)
    for place, axis in enumerate(axes):
        if axis is not None and shape[place] != after[place]:
            survey.labels.block(axis, f"{node.op_type} {node.name} resizes them")
    survey.axes[target] = axes
    sizes = node.input(3) if node.op_type == "Resize" else None
    if sizes is None or all(axis is None for axis in axes) or node.attribute("axes") is not None:
        return
    stored = sizes.constant()
    if stored is None:
        opened = survey.open_shapes.get(target)
        if opened is None or None in opened:
            raise NotFollowed(f"the sizes of {node.name} are computed")
        stored = np.array(opened, np.int64)
    survey.adjust(node, partial(_set_sizes, node, axes, stored))


def _set_sizes(
    node: NodeRef, axes: tuple[Axis | None, ...], sizes: np.ndarray, model: ModelView, keep: Keep
) -> None:
    new = [
        int(size) if axis is None else int(np.count_nonzero(keep(axis)))
        for size, axis in zip(sizes, axes, strict=True)
    ]
    model.add_constant(node, 3, np.array(new, np.int64), f"{node.name}_sizes")


def _stored(survey: Survey, node: NodeRef, index: int) -> np.ndarray:
    array = survey.stored(node, index)
    if array is None:
        raise NotFollowed(f"input {index} of {node.name} is left out")
    return np.atleast_1d(array)


def _optional(survey: Survey, node: NodeRef, index: int) -> np.ndarray | None:
    array = survey.stored(node, index)
    return None if array is None else np.atleast_1d(array)


def _labels(axis: Axis | None) -> Axis:
    if axis is None:
        raise NotFollowed("an axis has no labels")
    return axis
