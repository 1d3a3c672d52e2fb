"""Types and places of quantised activations: int8 where values branch, and DequantizeLinear before a view.

On x86 the runtime turns int8 activations into uint8, one QuantizeLinear and its DequantizeLinear at a time,
and leaves those that several nodes read. An operator between the two kinds then has inputs and outputs of
different types, and so no integer kernel. With uint8 throughout, scales as they are and zero points 128
higher, every operator has its kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_admm.model.operators import STANDARD
from onnx_admm.model.rewrite.for_runtime.expressions import is_inner, producer
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.quantised.dequantised import dequantised, stored_array
from onnx_admm.model.rewrite.for_runtime.replacing import constant_for, insert_before, replace

_VIEWS = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_LAYERS = ("Conv", "Gemm", "MatMul")
_INTEGER_POOL_SINCE = 12


def find_int8_activations(context: RewriteContext) -> Iterator[Match]:
    """Yield all int8 activations as one place, where one of them is read by several nodes."""
    groups = [group for node in context.nodes("QuantizeLinear") if (group := _group(node)) is not None]
    branching = [group[0] for group in groups if _branches(group)]
    if branching:
        nodes = tuple(dict.fromkeys((*branching, *(group[0] for group in groups))))
        every = tuple(dict.fromkeys(node for group in groups for node in group))
        what = f"{len(groups)} int8 activations become uint8"
        yield Match(nodes, what, 10, partial(_to_uint8, context, every))


def _group(quantise: ir.Node) -> tuple[ir.Node, ...] | None:
    """Return a QuantizeLinear of int8 and every DequantizeLinear of its result; None where others read it."""
    if not _has_int8_point(quantise) or quantise.outputs[0].is_graph_output():
        return None
    group, pending = [quantise], [quantise.outputs[0]]
    while pending:
        for use in pending.pop().uses():
            node = use.node
            if node.domain not in STANDARD or use.idx != 0:
                return None
            if node.op_type in _VIEWS and not node.outputs[0].is_graph_output():
                pending.append(node.outputs[0])
            elif node.op_type == "DequantizeLinear" and _has_int8_point(node):
                group.append(node)
            else:
                return None
    return tuple(group)


def _has_int8_point(node: ir.Node) -> bool:
    point = stored_array(node.inputs[2]) if len(node.inputs) > 2 else None
    return point is not None and point.dtype == np.int8 and point.size == 1


def _branches(group: Sequence[ir.Node]) -> bool:
    """Return whether several nodes read the quantised value, or what it is dequantised to."""
    return len(group) > 2 or any(len(node.outputs[0].uses()) > 1 for node in group)


def _to_uint8(context: RewriteContext, nodes: Sequence[ir.Node]) -> None:
    for node in nodes:
        point = stored_array(node.inputs[2])
        if point is not None:
            name = node.inputs[2].name if node.inputs[2] is not None else node.name
            constant_for(context, node, 2, (point.astype(np.int16) + 128).astype(np.uint8), f"{name}_uint8")
            value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
            if value is not None:
                value.type = None


def find_views_behind_dequantise(context: RewriteContext) -> Iterator[Match]:
    """Yield views of dequantised activations that a layer reads: they hide the DequantizeLinear from it."""
    for view in context.nodes(*_VIEWS, "MaxPool"):
        data = dequantised(view.inputs[0], context.dtypes)
        if data is None or not data.is_per_tensor or context.is_constant(data.codes) or data.bits != 8:
            continue
        output = view.outputs[0]
        if view.graph is not data.node.graph or not _leads_to_layers(output):
            continue
        if view.op_type == "MaxPool" and (len(view.outputs) > 1 or not _is_flattened(output)):
            continue  # the runtime moves DequantizeLinear past a MaxPool itself
        if producer(data.codes, "QuantizeLinear") is None and not is_inner(data.codes):
            continue
        what = f"{view.op_type} is done on the codes, in front of DequantizeLinear"
        opset = _INTEGER_POOL_SINCE if view.op_type == "MaxPool" else 10
        yield Match((view, data.node), what, opset, partial(_move, context, view))


def _leads_to_layers(value: ir.Value) -> bool:
    """Return whether layers read a value as their data, directly or through views, and nothing else does."""
    uses = tuple(value.uses())
    if value.is_graph_output() or not uses:
        return False
    return all(
        use.idx == 0
        and use.node.domain in STANDARD
        and (
            use.node.op_type in _LAYERS
            or (use.node.op_type in _VIEWS and _leads_to_layers(use.node.outputs[0]))
        )
        for use in uses
    )


def _is_flattened(value: ir.Value) -> bool:
    return all(use.node.op_type in _VIEWS for use in value.uses())


def _move(context: RewriteContext, view: ir.Node) -> None:
    data = dequantised(view.inputs[0])
    if data is None:
        return
    attributes = {name: attribute.value for name, attribute in view.attributes.items()}
    moved = insert_before(context, view, view.op_type, [data.codes, *view.inputs[1:]], attributes)
    replace(context, view, "DequantizeLinear", [moved, *data.node.inputs[1:]])
