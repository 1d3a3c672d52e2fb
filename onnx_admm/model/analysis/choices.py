"""Nodes that choose rows by their scores: small differences change which rows outputs show, and their order.

Detectors choose boxes so, with ``NonMaxSuppression`` or with a ``TopK`` whose indices gather what belongs to
the best scores. After any rounding two rows of nearly equal scores may change places. Neither is wrong, but
the outputs cannot be compared row by row.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.operators import Trait, operators_with

_GATHERS = frozenset({"Gather", "GatherElements", "GatherND"})

_OF_INDICES = operators_with(Trait.REARRANGES, Trait.CASTS, Trait.REPEATS, Trait.CUTS) | {
    "Add", "Concat", "Div", "Floor", "Mod", "Mul", "Sub",
}  # fmt: skip
"""Operators whose result on indices is indices."""

_PASSING = _OF_INDICES | _GATHERS
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
    One that only ranks classes does not.
    """
    if node.domain not in _STANDARD or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "NonMaxSuppression":
        return len(node.inputs) > 1 and node.inputs[1] is not None
    is_top = node.op_type == "TopK" and len(node.inputs) > 1 and len(node.outputs) > 1
    return is_top and not _is_constant(node.inputs[0]) and _gathers(node.outputs[1], node.inputs[0])


def _gathers(indices: ir.Value, scores: ir.Value) -> bool:
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
