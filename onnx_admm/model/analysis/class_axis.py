"""The class axes of a classifier's outputs, and of the scores behind them.

The first output of the main graph that nodes compute makes a model a classifier; then further outputs may
have classes too (several heads). The rule, for one output:

1. Operators that only move or convert values (``Transpose``, ``Reshape``, ``Cast``, ...) are followed back to
the ``Softmax``, ``LogSoftmax``, ``Hardmax``, ``ArgMax``, ``ArgMin`` or ``TopK`` in front of them, or to a
Softmax written out as ``Exp`` over its ``ReduceSum``. Of several in a row, the first in the graph counts. Its
``axis`` is the class axis of its input, the scores. A ``TopK`` that chooses rows (see ``choices``) has none.
Before opset 13 ``Softmax`` works on all axes from ``axis`` on together: those are one class axis.
2. Without such an operator there is no class axis in the graph. The shape of labels then determines it: axis
1 if the labels have the shape of the output without axis 1, else the last axis (``axis_by_labels``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnx_admm.model.analysis.choices import chooses_rows
from onnx_admm.model.operators import Trait, operators_with
from onnx_admm.model.view import ModelView

CHOOSING = operators_with(Trait.CHOOSES)
"""Operators that give or compare the scores of classes along their ``axis``."""

MOVING = operators_with(Trait.REARRANGES, Trait.CASTS) | {"Expand"}
_DEFAULT_AXIS = {"ArgMax": 0, "ArgMin": 0}
_SHAPE_KEEPING = {"Softmax", "LogSoftmax", "Hardmax", "Identity", "Cast"}
_FLATTENING = {"Softmax", "LogSoftmax", "Hardmax"}
_SEPARATE_AXES = 13
"""The opset from which ``Softmax`` works on its own axis alone."""


@dataclass(frozen=True, slots=True)
class ClassAxis:
    """The class axis of a classifier.

    Attributes:
        name: name of the output that has the classes.
        scores: axis of the scores, as the operator states it (it may be negative).
        joint: whether all axes of the scores from ``scores`` on are one class axis.
        gives: content of the output: a score for each class, the numbers of the likeliest classes, or
            something that does not determine the likeliest class.
        output: axis of that output where it has scores (with ``joint`` the first of several), or along which
            class numbers are ranked; negative where the rank is not known; None where class numbers have no
            such axis, or the graph does not determine it.
        classes: number of classes, where the graph determines it.
    """

    name: str
    scores: int
    joint: bool = False
    gives: Literal["scores", "numbers", "nothing"] = "scores"
    output: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Head:
    """A class axis and the value that holds the scores."""

    value: ir.Value
    axis: ClassAxis


def class_axis(model: ModelView) -> ClassAxis | None:
    """Return the class axis of the first output; None where the graph does not make it a classifier."""
    head = classifier_head(model.graph_ir)
    return None if head is None else head.axis


def further_classes(model: ModelView) -> tuple[ClassAxis, ...]:
    """Return the class axes of a classifier's other outputs, in their order; none of any other model."""
    first = class_axis(model)
    if first is None:
        return ()
    outputs = [each for each in model.graph_ir.graph.outputs if each.name != first.name]
    heads = [_head(model.graph_ir, output) for output in outputs]
    return tuple(head.axis for head in heads if head is not None)


def classifier_head(model: ir.Model) -> Head | None:
    """Return the scores of the classes behind the first output; see the rule at the top of this module."""
    return _head(model, first_computed(model.graph)) if model.graph.outputs else None


def _head(model: ir.Model, result: ir.Value) -> Head | None:
    """Return the scores of the classes behind an output."""
    value: ir.Value | None = result
    found: ir.Value | None = None
    passed: list[ir.Value] = []
    while value is not None and (node := value.producer()) is not None:
        if node.domain not in ("", "ai.onnx"):
            break
        passed.append(value)
        if node.op_type in MOVING:
            value = node.inputs[0] if node.inputs else None
        elif (node.op_type in CHOOSING and not chooses_rows(node)) or written_out(node) is not None:
            found = value
            value = _scores(node)
        else:
            break
    choosing = None if found is None else found.producer()
    if found is None or choosing is None or (scores := _scores(choosing)) is None:
        return None
    axis, joint = _axis(choosing, scores, model.opset_imports.get("", _SEPARATE_AXES))
    if axis == 0:
        return None
    gives, output = _given(passed[: passed.index(found) + 1], axis, joint=joint)
    classes = _extent(scores, axis, joint)
    return Head(scores, ClassAxis(result.name or "", axis, joint, gives, output, classes))


def first_computed(graph: ir.Graph) -> ir.Value:
    """Return the first output that nodes compute; the first where all are weights or inputs."""
    outputs = graph.outputs
    return next((value for value in outputs if value.producer() is not None), outputs[0])


def written_out(node: ir.Node) -> ir.Value | None:
    """Return the x of ``Exp(x) / Expand(ReduceSum(Exp(x)))``; None for any other node."""
    if node.op_type != "Div":
        return None
    exponential, total = _producers(node.inputs)
    while total is not None and total.op_type in MOVING and total.inputs[0] is not None:
        total = total.inputs[0].producer()
    if exponential is None or exponential.op_type != "Exp" or total is None or total.op_type != "ReduceSum":
        return None
    return exponential.inputs[0] if total.inputs[0] is node.inputs[0] else None


def axis_by_labels(output: Sequence[int], labels: Sequence[int]) -> int | None:
    """Return the class axis of an output with labels of this shape: 1, or the last; None if neither fits.

    Args:
        output: shape of scores, (n, ...).
        labels: shape of the labels, (n, ...). Axes of extent 1 do not count.
    """
    for axis in (1, len(output) - 1):
        places = [*output[:axis], *output[axis + 1 :]]
        if 0 < axis < len(output) and output[axis] > 1 and _same_places(places, labels):
            return axis
    return None


def _same_places(places: Sequence[int], labels: Sequence[int]) -> bool:
    first, *others = places
    return len(labels) > 0 and first == labels[0] and _long(others) == _long(labels[1:])


def _long(shape: Sequence[int]) -> list[int]:
    return [extent for extent in shape if extent != 1]


def _producers(values: Sequence[ir.Value | None]) -> list[ir.Node | None]:
    return [None if value is None else value.producer() for value in values]


def _scores(node: ir.Node) -> ir.Value | None:
    """Return the scores that a choosing node compares."""
    return written_out(node) if node.op_type == "Div" else node.inputs[0]


def _axis(node: ir.Node, scores: ir.Value, opset: int) -> tuple[int, bool]:
    """Return the class axis of the scores, not negative where their rank is known; whether it is joint."""
    rank = _rank(scores)
    flattening = opset < _SEPARATE_AXES and node.op_type in _FLATTENING
    if node.op_type == "Div":
        axis = _summed_axis(node)
    else:
        axis = node.attributes.get_int("axis", 1 if flattening else _DEFAULT_AXIS.get(node.op_type, -1))
    if axis < 0 and rank is not None:
        axis += rank
    return axis, flattening and axis != -1 and (rank is None or axis != rank - 1)


def _summed_axis(node: ir.Node) -> int:
    """Return the one axis that a written-out Softmax sums over; the last where there are several."""
    total = node.inputs[1].producer() if node.inputs[1] is not None else None
    while total is not None and total.op_type in MOVING and total.inputs[0] is not None:
        total = total.inputs[0].producer()
    axes = [] if total is None else _axes(total)
    return axes[0] if axes is not None and len(axes) == 1 else -1


def _axes(node: ir.Node) -> list[int] | None:
    """Return the attribute or the constant second input ``axes`` of a node; None where it has none."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    value = node.inputs[1] if len(node.inputs) > 1 else None
    constant = None if value is None else ir.convenience.get_const_tensor(value)
    return None if constant is None else [int(axis) for axis in constant.numpy().reshape(-1)]


def _given(
    values: Sequence[ir.Value], axis: int, *, joint: bool
) -> tuple[Literal["scores", "numbers", "nothing"], int | None]:
    """Return the content of the output, and its axis.

    Args:
        values: values from the output back to the result of the first choosing node.
        axis: class axis of the scores.
        joint: whether it stands for all axes from there on.
    """
    place: int | None = axis
    gives: Literal["scores", "numbers", "nothing"] = "scores"
    for value in reversed(values):
        node = value.producer()
        if node is None:
            break
        if node.op_type in ("ArgMax", "ArgMin"):
            gives = "numbers"
            place = place if node.attributes.get_int("keepdims", 1) else None
        elif node.op_type == "TopK":
            if value.index() == 0:
                return "nothing", None
            gives = "numbers"
        elif node.op_type in MOVING and place is not None:
            place = _moved_by(node, place, joint=joint)
    return gives, place


def _moved_by(node: ir.Node, axis: int, *, joint: bool) -> int | None:
    """Return the place of an axis behind a moving node; None where unknown."""
    if node.op_type in ("Identity", "Cast"):
        return axis
    source, result = node.inputs[0], node.outputs[0]
    rank = None if source is None else _rank(source)
    if joint or source is None or (axis < 0 and rank is None):
        return None
    axis += (rank or 0) if axis < 0 else 0
    if node.op_type == "Transpose":
        order = _order(node)
        if order is None:
            return None if rank is None else rank - 1 - axis
        return order.index(axis) if axis in order else None
    if node.op_type in ("Squeeze", "Unsqueeze") and (axes := _axes(node)) is not None:
        return _without(axes, axis, rank) if node.op_type == "Squeeze" else _among(axes, axis, rank)
    before, after = _shape(source), result.shape
    if before is None or after is None:
        return None
    return _reshaped(list(before), list(after), axis)


def _order(node: ir.Node) -> list[int] | None:
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None


def _rank(value: ir.Value) -> int | None:
    """Return the rank, also from a Transpose next to the value, or from nodes that keep the shape."""
    shape, producer = _shape(value), value.producer()
    if shape is not None:
        return len(shape)
    neighbours = [user for user, _ in value.uses()] + ([] if producer is None else [producer])
    orders = [_order(node) for node in neighbours if node.op_type == "Transpose"]
    known = next((order for order in orders if order is not None), None)
    if known is not None:
        return len(known)
    kept = (_rank(user.outputs[0]) for user, _ in value.uses() if user.op_type in _SHAPE_KEEPING)
    return next((rank for rank in kept if rank is not None), None)


def _shape(value: ir.Value) -> ir.Shape | None:
    """Return the shape, also from before or behind nodes that keep it."""
    before: ir.Value | None = value
    while before is not None and before.shape is None:
        node = before.producer()
        before = node.inputs[0] if node is not None and node.op_type in _SHAPE_KEEPING else None
    return _shape_behind(value) if before is None else before.shape


def _shape_behind(value: ir.Value) -> ir.Shape | None:
    if value.shape is not None:
        return value.shape
    kept = (_shape_behind(user.outputs[0]) for user, _ in value.uses() if user.op_type in _SHAPE_KEEPING)
    return next((shape for shape in kept if shape is not None), None)


def _without(axes: Sequence[int], axis: int, rank: int | None) -> int | None:
    """Return the place of an axis after a Squeeze of ``axes``."""
    if any(one < 0 for one in axes):
        if rank is None:
            return None
        axes = [one + rank if one < 0 else one for one in axes]
    return None if axis in axes else axis - sum(one < axis for one in axes)


def _among(axes: Sequence[int], axis: int, rank: int | None) -> int | None:
    """Return the place of an axis after an Unsqueeze that inserts ``axes``."""
    if any(one < 0 for one in axes):
        if rank is None:
            return None
        axes = [one + rank + len(axes) if one < 0 else one for one in axes]
    for one in sorted(axes):
        axis += one <= axis
    return axis


def _reshaped(before: list[object], after: list[object], axis: int) -> int | None:
    """Return the place of an axis if a reshape only adds or drops axes of extent 1; else None."""
    old = [place for place, extent in enumerate(before) if extent != 1]
    new = [place for place, extent in enumerate(after) if extent != 1]
    if axis not in old or len(old) != len(new):
        return None
    alike = all(
        before[i] == after[j] or not (isinstance(before[i], int) and isinstance(after[j], int))
        for i, j in zip(old, new, strict=True)
    )
    return new[old.index(axis)] if alike else None


def _extent(scores: ir.Value, axis: int, joint: bool) -> int | None:
    shape = _shape(scores)
    if shape is None or joint or not -len(shape) <= axis < len(shape):
        return None
    extent = shape[axis]
    return extent if isinstance(extent, int) else None
