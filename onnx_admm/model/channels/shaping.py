"""Operators that give the same elements other axes: Reshape and its kin, Transpose, DepthToSpace."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from onnx_admm.model.channels.labels import Axes, Axis
from onnx_admm.model.channels.reshaping import Block, blocks_of
from onnx_admm.model.channels.survey import Keep, NotFollowed, Survey
from onnx_admm.model.edit import NodeRef
from onnx_admm.model.view import ModelView


def transpose(survey: Survey, node: NodeRef) -> None:
    """Label Transpose: axes change places."""
    axes = survey.of(node.input(0))
    order = node.attribute("perm", tuple(reversed(range(len(axes)))))
    survey.axes[node.outputs[0]] = tuple(axes[place] for place in order)


def reshape(survey: Survey, node: NodeRef) -> None:
    """Label Reshape, Flatten, Squeeze and Unsqueeze, which keep the order of the elements.

    Axes that become one axis: the labelled one counts for all positions that come from it. An axis that is
    split keeps its channels along one of its parts; positions along the others go together.
    """
    before, after = survey.known_shape(node.input(0)), survey.known_shape(node.outputs[0])
    axes = survey.of(node.input(0))
    try:
        blocks = blocks_of(before, after)
    except ValueError as error:
        raise NotFollowed(f"{node.op_type} {node.name}: {error}") from None
    result: list[Axis | None] = [None] * len(after)
    for block in blocks:
        if block.is_same_axis:
            result[block.first_out] = axes[block.first_in]
            continue
        inner = before[block.first_in : block.end_in]
        flat = _merged(survey, node, axes[block.first_in : block.end_in], inner)
        if flat is not None:
            _split(survey, node, flat, block, after, result)
    survey.axes[node.outputs[0]] = tuple(result)
    if node.op_type == "Reshape" and any(axis is not None for axis in result):
        _reshape_target(survey, node, blocks, tuple(result), after)


def _merged(survey: Survey, node: NodeRef, axes: Axes, extents: tuple[int, ...]) -> Axis | None:
    """Return the labels of consecutive axes as one axis; all but the longest labelled one stay."""
    labelled = [place for place, axis in enumerate(axes) if axis is not None]
    if not labelled:
        return None
    kept = max(labelled, key=lambda place: extents[place])
    for place in labelled:
        if place != kept:
            survey.labels.block(axes[place], f"{node.op_type} {node.name} merges two axes of channels")
    survey.take(math.prod(extents))
    shape = [1] * len(extents)
    shape[kept] = extents[kept]
    return np.broadcast_to(_known(axes[kept]).reshape(shape), extents).reshape(-1)


def _split(
    survey: Survey,
    node: NodeRef,
    flat: Axis,
    block: Block,
    after: tuple[int, ...],
    result: list[Axis | None],
) -> None:
    """Set the labels of the axes that one axis is split into."""
    extents = after[block.first_out : block.end_out]
    wide = [place for place, extent in enumerate(extents) if extent > 1]
    if not wide:
        return
    parts = tuple(extents[place] for place in wide)
    roots = survey.labels.roots(flat).reshape(parts)
    free = [place for place in range(len(parts)) if _depends_on_alone(roots, place)]
    if free:
        kept = free[0]
    else:
        survey.met_splits.setdefault(parts, parts)
        kept = survey.splits.get(parts, int(np.argmax(parts)))
    rows = np.moveaxis(flat.reshape(parts), kept, -1).reshape(-1, parts[kept])
    result[block.first_out + wide[kept]] = survey.labels.unite_rows(rows)


def _depends_on_alone(roots: Axis, place: int) -> bool:
    """Return whether labels differ along one axis alone."""
    first = np.moveaxis(roots, place, -1).reshape(-1, roots.shape[place])
    return bool((first == first[0]).all())


def _reshape_target(
    survey: Survey, node: NodeRef, blocks: list[Block], result: Axes, after: tuple[int, ...]
) -> None:
    """Record the new target shape of a Reshape; a computed one becomes a constant where that is possible."""
    target = node.input(1)
    stored = None if target is None else target.constant()
    if target is None:
        raise NotFollowed(f"Reshape {node.name} has its shape as an attribute")
    if stored is not None:
        survey.adjust(node, partial(_set_target, node, result, [int(extent) for extent in stored]))
        return
    opened = survey.open_shapes.get(node.outputs[0])
    dynamic = range(len(after)) if opened is None else [i for i, e in enumerate(opened) if e is None]
    same = {b.first_out for b in blocks if b.is_same_axis and b.first_in == b.first_out}
    extents = list(after)
    for place in dynamic:
        extents[place] = 0 if place in same and not node.attribute("allowzero", 0) else -1
    if extents.count(-1) > 1:
        raise NotFollowed(f"the shape of {node.name} is computed, and several of its axes are open")
    survey.adjust(node, partial(_set_target, node, result, extents))


def _set_target(node: NodeRef, axes: Axes, extents: list[int], model: ModelView, keep: Keep) -> None:
    counts = [
        int(np.count_nonzero(keep(axis))) if axis is not None and extent > 0 else extent
        for axis, extent in zip(axes, extents, strict=True)
    ]
    model.add_constant(node, 1, np.array(counts, np.int64), f"{node.name}_shape")


def depth_to_space(survey: Survey, node: NodeRef) -> None:
    """Label DepthToSpace: the channels that become the places of one block go together (DepthToSpace-13)."""
    axes = survey.of(node.input(0))
    block = node.attribute("blocksize") ** 2
    source = axes[1]
    if source is not None:
        columns = node.attribute("mode", "DCR") == "CRD"
        rows = source.reshape(-1, block).T if columns else source.reshape(block, -1)
        source = survey.labels.unite_rows(rows)
        if len(source) == 1:
            survey.labels.block(source, f"{node.op_type} {node.name} gives one channel")
            source = None
    survey.axes[node.outputs[0]] = (axes[0], source, None, None)


def space_to_depth(survey: Survey, node: NodeRef) -> None:
    """Label SpaceToDepth: each channel is there once for each place of a block (SpaceToDepth-13)."""
    axes = survey.of(node.input(0))
    block = node.attribute("blocksize") ** 2
    survey.take(0 if axes[1] is None else len(axes[1]) * block)
    written = None if axes[1] is None else np.tile(axes[1], block)
    survey.axes[node.outputs[0]] = (axes[0], written, None, None)


def _known(axis: Axis | None) -> Axis:
    if axis is None:
        raise NotFollowed("an axis has no labels")
    return axis
