"""Parts of outputs that a closing Concat joins: boxes beside scores, say, of very different size.

The error of such an output as a whole is that of its largest part. So each part is judged by itself. A part
behind a Sigmoid or a Softmax is judged by the scores in front of it, about their mean: probabilities of
nearly 0 or 1 hide changes, and their usual level is no signal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.analysis.shapes import Shape, infer_open_shapes
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import ValueRef
from onnx_admm.model.operators import STANDARD, Trait, operators_with
from onnx_admm.model.view import ModelView

_KEEPING = {"Identity", *operators_with(Trait.CASTS)}
_MOVING = operators_with(Trait.REARRANGES, Trait.CASTS)
_INVERTIBLE = ("Sigmoid", "Softmax")
_LEAST = 1e-7
"""Least probability, and least difference from 1, that float32 tells well enough; half floats tell less."""

_MOST_PARTS = 64
"""Operands of a Concat from which on its result counts as a whole: so many are no parts with a meaning."""

_UNTOLD = operators_with(Trait.COMPARES, Trait.DISCRETE)
"""Operators whose results are no amplitudes: comparisons, numbers of classes."""


@dataclass(frozen=True, slots=True)
class OutputPart:
    """A part of an output.

    Attributes:
        axis: axis that the output is joined along, not negative.
        start, stop: the part's indices on it.
        size: extent of the axis.
        squashing: the operator that gives it, where its scores can be found again: Sigmoid or Softmax.

    Example:
        >>> import numpy as np
        >>> from onnx_admm.model.analysis.output_parts import OutputPart
        >>> part = OutputPart(1, 4, 6, 6)
        >>> part.of(np.zeros((1, 6, 8))).shape, part.label
        ((1, 2, 8), '[:, 4:6]')
    """

    axis: int
    start: int
    stop: int
    size: int
    squashing: str | None = None

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the part, or its scores; an array of another extent is returned whole."""
        if array.ndim <= self.axis or array.shape[self.axis] != self.size:
            return array
        found = array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]
        if self.squashing is None or not np.issubdtype(found.dtype, np.floating):
            return found
        least, found = max(_LEAST, float(np.finfo(found.dtype).eps)), found.astype(np.float64)
        scores: npt.NDArray[Any] = np.log(np.maximum(found, least))
        if self.squashing == "Sigmoid":
            scores -= np.log(np.maximum(1 - found, least))
        return scores

    def pair(
        self, expected: npt.NDArray[Any], got: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the part of two arrays; scores about the mean of the expected ones."""
        right, found = self.of(expected), self.of(got)
        centre = self.centre(right)
        return right - centre, found - centre

    def centre(self, part: npt.NDArray[Any]) -> float:
        """Return what is subtracted before a part is compared: the mean of scores, else 0."""
        if self.squashing is None:
            return 0.0
        finite = part[np.isfinite(part)]
        return float(finite.mean()) if finite.size else 0.0

    @property
    def plain(self) -> OutputPart:
        """The part by its own values: padded places are 0, and have no scores."""
        return replace(self, squashing=None)

    @property
    def label(self) -> str:
        """The part as an index, for reports."""
        return f"[{':, ' * self.axis}{self.start}:{self.stop}]"


Parts = Mapping[str, tuple[OutputPart, ...]]
"""Parts by output."""


def part_name(output: str, part: OutputPart) -> str:
    """Return the name of a part in reports: ``boxes[:, 0:4]``."""
    return f"{output}{part.label}"


def output_parts(view: ModelView) -> dict[str, tuple[OutputPart, ...]]:
    """Return the parts of each output that is joined of several along an axis of known extents.

    Of nested Concats the innermost counts, if all that the outer ones join are joined alike: scales of a
    detector, each made of boxes and scores.
    """
    graph = view.graph_ir.graph
    makers = _makers(graph)
    joined = [output for output in graph.outputs if _made_by(output, makers) == "Concat"]
    found = _parts(graph, makers, _shapes(view)) if joined else {}
    return {output.name or "": found[output] for output in joined if output in found}


def _shapes(view: ModelView) -> dict[ValueRef, Shape]:
    """Return inferred shapes, with stored extents where inference does not know them.

    A stored extent may be wrong. Then the output has another one as it is run, and counts as a whole.
    """
    found = infer_open_shapes(view)
    for reference, shape in found.items():
        stored = reference.shape
        if None in shape and stored is not None and len(stored) == len(shape):
            found[reference] = tuple(
                other if extent is None and isinstance(other, int) and other >= 0 else extent
                for extent, other in zip(shape, stored, strict=True)
            )
    return found


Makers = Mapping[ir.Value, ir.Node]
"""Node that computes a value, before any that only move or convert it."""

Found = Mapping[ir.Value, tuple[OutputPart, ...]]
"""Parts of values, as axes and indices of these."""


def _makers(graph: ir.Graph) -> Makers:
    found: dict[ir.Value, ir.Node] = {}
    for node in graph:
        source = node.inputs[0] if node.inputs and _is_standard(node, _MOVING) else None
        maker = node if source is None else found.get(source, node)
        found.update(dict.fromkeys(node.outputs, maker))
    return found


def _made_by(value: ir.Value, makers: Makers) -> str | None:
    node = makers.get(value)
    return node.op_type if node is not None and node.domain in STANDARD else None


def _is_standard(node: ir.Node, operators: Collection[str]) -> bool:
    return node.domain in STANDARD and node.op_type in operators


def _parts(graph: ir.Graph, makers: Makers, shapes: Mapping[ValueRef, Shape]) -> Found:
    found: dict[ir.Value, tuple[OutputPart, ...]] = {}
    for node in graph:
        if not _is_standard(node, {"Concat", *_MOVING}) or not node.inputs:
            continue
        value, source = node.outputs[0], node.inputs[0]
        shape = shapes.get(ValueRef(value))
        if shape is None:
            continue
        if node.op_type == "Concat":
            parts = _of_concat(node, len(shape), shapes, makers, found)
        else:
            parts = None if source is None else _behind(node, source, shape, shapes, found)
        if parts is not None:
            found[value] = parts
    return found


def _behind(
    node: ir.Node, source: ir.Value, shape: Shape, shapes: Mapping[ValueRef, Shape], found: Found
) -> tuple[OutputPart, ...] | None:
    """Return the parts behind a node that moves or converts values."""
    parts, before = found.get(source), shapes.get(ValueRef(source))
    if parts is None or before is None or node.op_type in _KEEPING:
        return parts
    axis = _moved(node, parts[0].axis, before, shape)
    return None if axis is None else tuple(replace(part, axis=axis) for part in parts)


def _of_concat(
    node: ir.Node, rank: int, shapes: Mapping[ValueRef, Shape], makers: Makers, inner: Found
) -> tuple[OutputPart, ...] | None:
    axis = node.attributes.get_int("axis", 0) % rank
    if axis == 0:  # samples
        return None
    operands = {value for value in node.inputs if value is not None and constant_tensor(value) is None}
    if len(node.inputs) > _MOST_PARTS:
        return None
    each = {inner.get(operand) for operand in operands}
    if len(each) == 1 and (parts := each.pop()) is not None and parts[0].axis != axis:
        return parts  # scales of a detector, each of boxes and scores
    extents = [_extent(value, axis, shapes) for value in node.inputs]
    known = [extent for extent in extents if extent is not None]
    if len([value for value in node.inputs if value in operands]) < 2 or len(known) < len(extents):
        return None
    found, start = list[OutputPart](), 0
    for value, extent in zip(node.inputs, known, strict=True):
        maker = None if value is None else _made_by(value, makers)
        if value in operands and maker not in _UNTOLD:
            squashing = maker if maker in _INVERTIBLE else None
            found.append(OutputPart(axis, start, start + extent, sum(known), squashing))
        start += extent
    return tuple(found) or None


def _moved(node: ir.Node, axis: int, before: Shape, after: Shape) -> int | None:
    """Return where an axis is behind a node that moves values; None where it is not kept."""
    if node.op_type == "Transpose":
        order = list(node.attributes.get_ints("perm", tuple(reversed(range(len(before))))))
        return order.index(axis)
    if before[axis] is None:
        return None
    if axis == len(before) - 1 and after and after[-1] == before[-1]:
        return len(after) - 1
    return axis if _same_up_to(axis, before, after) else None


def _same_up_to(axis: int, before: Sequence[object], after: Sequence[object]) -> bool:
    """Return whether a reshape keeps all axes up to this one; a first axis is the batch."""
    left, right = list(before[1 : axis + 1]), list(after[1 : axis + 1])
    return axis > 0 and None not in left and left == right


def _extent(value: ir.Value | None, axis: int, shapes: Mapping[ValueRef, Shape]) -> int | None:
    shape = None if value is None else shapes.get(ValueRef(value))
    if value is not None and shape is None and (tensor := constant_tensor(value)) is not None:
        shape = tuple(tensor.shape.numpy())
    extent = None if shape is None or len(shape) <= axis else shape[axis]
    return extent if isinstance(extent, int) else None
