"""Writes linear layers whose data has no stored grid: dynamic int8 and weight-only int8.

Dynamic: the range of the data is found at each run, over the whole tensor. A runtime turns the nodes into one
kernel, DynamicQuantizeMatMul, or MatMulIntegerToFloat where several layers read the same quantised data::

    q, s, z = DynamicQuantizeLinear (x)
    y = Cast (MatMulInteger (q, W, z)) * (s * scale of W) + bias

Weight-only: ``y = MatMul (x, DequantizeLinear (W)) + bias``, which runtimes from 1.26 on turn into
MatMulNBits. It reads the weight in blocks of rows with a scale each; each column keeps its one scale here, so
blocks only set the speed. There is no kernel where several products read one weight: the runtime joins equal
DequantizeLinear nodes, and replaces none with several readers.

Source: operators DynamicQuantizeLinear, opset 11; MatMulInteger, opset 10; DequantizeLinear, opset 13 (scale
per channel) and 21 (blocks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model.edit import free_name, replace_node
from onnx_admm.model.integers.plan import IntegerWeight, LinearProduct
from onnx_admm.model.integers.stored_integers import StoredIntegers, give_names
from onnx_admm.model.view import ModelView

BLOCK = 128
"""Rows of a block: larger ones are no faster, smaller ones slower."""

BLOCKS_SINCE = 21
"""Opset from which on DequantizeLinear has blocks."""

Quantised = tuple[ir.Value, ir.Value, ir.Value]
"""Codes, scale and zero point of a value."""


def write_dynamic(view: ModelView, products: Sequence[LinearProduct]) -> None:
    """Write products in the dynamic form, in place.

    Args:
        view: opset 11 or newer.
        products: in the order of the graph.

    Raises:
        UsageError: no such node in the main graph.
    """
    graph, stored, nodes = view.graph_ir.graph, StoredIntegers(view), _nodes(view)
    quantised: dict[ir.Value, Quantised] = {}
    stored_codes: dict[str, ir.Value] = {}

    def made(place: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], count: int = 1) -> ir.Node:
        node = ir.node(op_type, inputs, num_outputs=count)
        for value in node.outputs:
            value.name = free_name(f"{place.outputs[0].name}_{op_type}", stored.taken)
        graph.insert_before(place, node)
        return node

    for product in products:
        node, weight = _found(nodes, product), product.weight
        data = node.inputs[0]
        if data is None:
            raise UsageError("a product without data", where=product.output)
        if data not in quantised:
            codes, scale, zero = made(node, "DynamicQuantizeLinear", [data], 3).outputs
            quantised[data] = (codes, scale, zero)
        codes, scale, zero = quantised[data]
        matrix = weight.codes if weight.axis else np.ascontiguousarray(weight.codes.T)
        stored_codes[product.name] = stored.constant(f"{product.name}_codes", matrix)
        sums = made(node, "MatMulInteger", [codes, stored_codes[product.name], zero])
        steps = made(node, "Mul", [scale, stored.constant(f"{product.name}_scale", weight.scales)])
        cast = made(node, "Cast", [sums.outputs[0]])
        cast.attributes.add(ir.AttrInt64("to", ir.DataType.FLOAT.value))
        factors = [cast.outputs[0], steps.outputs[0]]
        if product.bias is None:
            replace_node(node, "Mul", factors, {})
        else:
            bias = stored.constant(f"{product.name}_bias", product.bias)
            replace_node(node, "Add", [made(node, "Mul", factors).outputs[0], bias], {})
    view.strip_unused()
    give_names(view, stored_codes)


def write_weight_only(view: ModelView, products: Sequence[LinearProduct]) -> None:
    """Write products in the weight-only form, in place: in blocks from opset 21 on, else a scale per column.

    Args:
        view: opset 13 or newer.
        products: nodes and weights, each weight once.

    Raises:
        UsageError: no such node in the main graph.
    """
    stored, nodes = StoredIntegers(view), _nodes(view)
    written: dict[str, ir.Value] = {}
    for product in products:
        node, weight = _found(nodes, product), product.weight
        value = stored.dequantized(node, product.name, weight.codes, weight.scales, weight.axis)
        if view.opset >= BLOCKS_SINCE:
            _use_blocks(stored, value, product.name, weight)
        node.replace_input_with(1, value)
        written[product.name] = value
    view.strip_unused()
    give_names(view, written)


def _use_blocks(stored: StoredIntegers, value: ir.Value, name: str, weight: IntegerWeight) -> None:
    """Give a DequantizeLinear the scale of each column once per block of rows."""
    node, along = value.producer(), 1 - weight.axis
    if node is None:
        return
    extents = list(weight.codes.shape)
    extents[along] = -(-extents[along] // BLOCK)
    scales = weight.scales.reshape((-1, 1) if weight.axis == 0 else (1, -1))
    blocks = np.broadcast_to(scales, extents).astype(np.float32)
    node.replace_input_with(1, stored.constant(f"{name}_scales", blocks))
    node.replace_input_with(2, stored.constant(f"{name}_zero_points", np.zeros(extents, np.int8)))
    node.attributes.add(ir.AttrInt64("axis", along))
    node.attributes.add(ir.AttrInt64("block_size", BLOCK))


def _nodes(view: ModelView) -> dict[str | None, ir.Node]:
    return {node.outputs[0].name: node for node in view.graph_ir.graph}


def _found(nodes: Mapping[str | None, ir.Node], product: LinearProduct) -> ir.Node:
    node = nodes.get(product.output)
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        found = None if node is None else node.op_type
        raise UsageError("no such product", where=product.output, got=found, expected="Gemm or MatMul")
    return node
