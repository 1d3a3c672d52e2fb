"""Nodes that choose rows by their scores: small differences change which rows outputs show, and their order.

Detectors choose boxes so: with ``NonMaxSuppression``, with a ``TopK`` whose indices gather what belongs to
the best scores, or with a ``NonZero`` of the scores that pass a threshold. After any rounding two rows of
nearly equal scores may change places, or one pass that did not. Neither is wrong, but the outputs cannot be
compared row by row.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.operators import Trait, operator_of, operators_with

_GATHERS = frozenset({"Gather", "GatherElements", "GatherND"})

_OF_INDICES = operators_with(Trait.REARRANGES, Trait.CASTS, Trait.REPEATS, Trait.CUTS) | {
    "Add", "Concat", "Div", "Floor", "Mod", "Mul", "Sub",
}  # fmt: skip
"""Operators whose result on indices is indices."""

_PASSING = _OF_INDICES | _GATHERS
_COMPARISONS = operators_with(Trait.COMPARES) - {"Equal"}

_OF_TRUTH = operators_with(Trait.REARRANGES, Trait.CASTS, Trait.REPEATS, Trait.CUTS) | {
    "And", "Concat", "Not", "Or", "Xor",
}  # fmt: skip
"""Operators whose result on results of comparisons depends on these alone."""

_OF_SHAPES = frozenset({"Shape", "Size"})

_STANDARD = ("", "ai.onnx")
_MOST_DECODING = 64
"""Nodes up to which a value is followed back to constants: more than a decoder has."""


def choosing_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Graph]]:
    """Yield the nodes that choose rows, and the graph of each; subgraphs included."""
    for graph in model.graphs():
        for node in graph:
            if chooses_rows(node):
                yield node, graph


def chooses_rows(node: ir.Node) -> bool:
    """Return whether a node chooses rows of values by their scores.

    A ``TopK`` does where its indices gather values other than its own scores and constants, such as boxes.
    One that only ranks classes does not. A ``NonZero`` does where learned values pass a comparison, and its
    indices gather values.
    """
    if node.domain not in _STANDARD or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "NonMaxSuppression":
        return len(node.inputs) > 1 and node.inputs[1] is not None
    if node.op_type == "NonZero":
        return _gathers(node.outputs[0], None) and bool(scores_of(node))
    is_top = node.op_type == "TopK" and len(node.inputs) > 1 and len(node.outputs) > 1
    return is_top and not _is_constant(node.inputs[0]) and _gathers(node.outputs[1], node.inputs[0])


def scores_of(node: ir.Node) -> list[ir.Value]:
    """Return the values that a node chooses rows by."""
    if node.op_type == "NonZero":
        return [value for value in _compared(node.inputs[0]) if _is_learned(value)]
    scores = node.inputs[0 if node.op_type == "TopK" else 1]
    return [] if scores is None else [scores]


def _compared(truth: ir.Value | None) -> list[ir.Value]:
    """Return the values whose comparisons a truth value is made of; of a compared class the scores."""
    pending, found, seen = [truth], list[ir.Value](), {truth}
    while pending:
        value = pending.pop()
        node = None if value is None else value.producer()
        if node is None or node.domain not in _STANDARD:
            continue
        if node.op_type in _COMPARISONS:
            found += [_scored(each) for each in node.inputs if each is not None]
        elif node.op_type in _OF_TRUTH:
            fresh = [each for each in node.inputs if each is not None and each not in seen]
            seen.update(fresh)
            pending += fresh
    return list(dict.fromkeys(found))


def _scored(value: ir.Value) -> ir.Value:
    """Return the scores that a class is the largest of; any other value itself."""
    node = value.producer()
    is_class = node is not None and node.op_type == "ArgMax" and node.inputs[0] is not None
    return node.inputs[0] if is_class else value  # type: ignore[union-attr, return-value]


def _is_learned(value: ir.Value) -> bool:
    """Return whether a value is computed with a layer's weights, and not from shapes or inputs alone."""
    pending, seen = [value], {value}
    while pending:
        node = pending.pop().producer()
        if node is None or node.op_type in _OF_SHAPES:
            continue
        operator = operator_of(node)
        if operator is not None and operator.weights:
            return True
        fresh = [each for each in node.inputs if each is not None and each not in seen]
        seen.update(fresh)
        pending += fresh
    return False


def _gathers(indices: ir.Value, scores: ir.Value | None) -> bool:
    """Return whether indices, or what is computed of them alone, gather other values than the scores."""
    pending, seen = [indices], {indices}
    while pending:
        for use in pending.pop().uses():
            node, data = use.node, use.node.inputs[0]
            if node.domain not in _STANDARD or data is None:
                continue
            if node.op_type in _GATHERS and use.idx == 1:
                if data is not scores and not _is_constant(data):
                    return True
            elif node.op_type in _PASSING:
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                pending += fresh
    return False


def _is_constant(value: ir.Value) -> bool:
    """Return whether a value is stored, or decoded from stored values."""
    pending, seen = [value], {value}
    while pending:
        value = pending.pop()
        if constant_tensor(value) is not None:
            continue
        node = value.producer()
        if node is None or len(seen) > _MOST_DECODING:
            return False
        fresh = [source for source in node.inputs if source is not None and source not in seen]
        seen.update(fresh)
        pending += fresh
    return True
