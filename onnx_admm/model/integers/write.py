"""Writes integer activations into a model, as QuantizeLinear and DequantizeLinear.

A runtime turns a node between DequantizeLinear and QuantizeLinear into an integer kernel. What it needs for
that differs by operator and version; what is written here is the form that all of them take:

- each value on a grid has one QuantizeLinear and one DequantizeLinear; a value that an integer node gives is
  read dequantised by every reader, since a second reader of the float value blocks the kernel;
- weights are int8 behind a DequantizeLinear with an explicit zero point; biases int32, with the scale of the
  products;
- a bias that is added to an integer MatMul of more than two axes has as many axes: one of a single axis is
  merged with the MatMul into a Gemm with a float bias , which has no integer kernel;
- a float MaxPool in front of a QuantizeLinear has LeakyRelu(alpha = 1), the identity, behind it: else the
  runtime moves the QuantizeLinear in front of the pool, where there are four times as many elements;
- a Relu that reads the floats of an integer Gemm or MatMul becomes ThresholdedRelu(alpha = 0): the same
  function, and the only form of it that does not block the kernel. That of a unit stays where the unit gives
  integers;
- a Flatten becomes Reshape, which older runtimes pass integers through, where its columns have a known
  extent: with -1 in its place, a batch of no samples has no shape.

Source: operators QuantizeLinear and DequantizeLinear, opset 13; ThresholdedRelu, opset 10; Reshape, opset 14.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnx_admm.model.analysis.shapes import infer_open_shapes
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import ValueRef, free_name, replace_node
from onnx_admm.model.integers.plan import IntegerPlan, IntegerProduct, TensorGrid
from onnx_admm.model.integers.stored_integers import StoredIntegers, give_names
from onnx_admm.model.view import ModelView

OLDEST_OPSET = 13
"""Opset from which on DequantizeLinear has a scale per channel."""

_FLOAT_OUTPUT = ("Gemm", "MatMul")
_QUANTISED_EARLY = ("MaxPool",)
"""Operators that runtimes move a QuantizeLinear in front of, to its disadvantage."""

_MATRIX = 2


def write_integers(view: ModelView, plan: IntegerPlan) -> None:
    """Write the plan into the model, in place.

    Args:
        view: opset 13 or newer; indices of the plan count the nodes of its main graph.
        plan: nodes and grids.
    """
    writer = _Writer(view)
    writer.write(plan)
    view.strip_unused()
    give_names(view, writer.weights)


class _Writer:
    def __init__(self, view: ModelView) -> None:
        self._graph = view.graph_ir.graph
        self._nodes = list(self._graph)
        self._stored = StoredIntegers(view)
        self._values = {value.name: value for value in self._graph.inputs}
        self._values |= {value.name: value for node in self._nodes for value in node.outputs}
        self._columns = _columns_of_flattens(view)
        self.weights: dict[str, ir.Value] = {}

    def write(self, plan: IntegerPlan) -> None:
        """Write grids of values, then weights and biases."""
        integer = {product.node for product in plan.products} | set(plan.others)
        readers = {self._nodes[index] for index in integer}
        for product in plan.products:
            self._threshold(self._nodes[product.node], plan)
            self._keep_bias_apart(self._nodes[product.node], product.rank)
        for name, grid in plan.grids.items():
            value = self._values[name]
            uses = tuple(value.uses())
            if name not in plan.given:
                uses = tuple(use for use in uses if use.node in readers and _is_data(use.node, use.idx))
            pairs = [(use.node, use.idx) for use in uses]
            self._put_grid(value, grid, pairs, is_float=name not in plan.given)
        for product in plan.products:
            self._write_product(product)
        for index in plan.others:
            self._reshape(self._nodes[index])

    def _write_product(self, product: IntegerProduct) -> None:
        node, weight = self._nodes[product.node], product.weight
        data = node.inputs[0]
        source = None if data is None else data.producer()
        if source is None or source.op_type != "DequantizeLinear" or source.inputs[1] is None:
            raise ValueError(f"the input of {node.name} is on no grid")
        step = source.inputs[1].const_value
        scale = np.float32(0 if step is None else step.numpy())
        name = "weight" if node.inputs[1] is None else node.inputs[1].name or "weight"
        codes = self._stored.dequantized(node, name, weight.codes, weight.scales, weight.axis)
        node.replace_input_with(1, codes)
        self.weights[name] = codes
        if product.bias is not None:
            bias = node.inputs[2]
            products = np.asarray(scale * weight.scales, np.float32)
            name = "bias" if bias is None else bias.name or "bias"
            node.replace_input_with(2, self._stored.dequantized(node, name, product.bias, products, 0))

    def _keep_bias_apart(self, node: ir.Node, rank: int) -> None:
        """Give the bias that is added to a MatMul of more than two axes as many axes."""
        uses = tuple(node.outputs[0].uses())
        if node.op_type != "MatMul" or rank <= _MATRIX or len(uses) != 1 or uses[0].node.op_type != "Add":
            return
        add, place = uses[0].node, 1 - uses[0].idx
        bias = add.inputs[place]
        tensor = None if bias is None else constant_tensor(bias)
        if bias is not None and tensor is not None and len(tensor.shape) < rank:
            array = np.array(tensor.numpy())
            wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
            add.replace_input_with(place, self._stored.constant(f"{bias.name}_wide", wide))

    def _threshold(self, node: ir.Node, plan: IntegerPlan) -> None:
        """Replace each Relu that reads the float output of a product."""
        output = node.outputs[0]
        if node.op_type not in _FLOAT_OUTPUT or output.name in plan.given:
            return
        for user in [use.node for use in output.uses()]:
            clipped = user.outputs[0].name
            if user.op_type != "Relu" or user.graph is not self._graph or clipped in plan.given:
                continue
            fresh = replace_node(user, "ThresholdedRelu", [output], {"alpha": 0.0})
            self._values[clipped] = fresh.outputs[0]

    def _reshape(self, node: ir.Node) -> None:
        """Replace a Flatten by Reshape."""
        columns = self._columns.get(node.outputs[0].name)
        if node.op_type != "Flatten" or node.attributes.get_int("axis", 1) != 1 or not columns:
            return
        extents = self._stored.constant("extents", np.array([0, columns], np.int64))
        replace_node(node, "Reshape", [node.inputs[0], extents], {})

    def _put_grid(
        self, value: ir.Value, grid: TensorGrid, uses: Iterable[tuple[ir.Node, int]], *, is_float: bool
    ) -> None:
        scale = self._stored.constant("scale", np.array(grid.scale, np.float32))
        zero = self._stored.constant("zero_point", np.array(grid.zero_point, np.uint8))
        quantized = ir.node("QuantizeLinear", [value, scale, zero])
        quantized.outputs[0].name = free_name(f"{value.name}_quantized", self._stored.taken)
        dequantized = ir.node("DequantizeLinear", [quantized.outputs[0], scale, zero])
        dequantized.outputs[0].name = free_name(f"{value.name}_dequantized", self._stored.taken)
        producer = value.producer()
        if producer is not None and is_float and producer.op_type in _QUANTISED_EARLY:
            kept = ir.node("LeakyRelu", [value], {"alpha": 1.0})
            kept.outputs[0].name = free_name(f"{value.name}_float", self._stored.taken)
            quantized.replace_input_with(0, kept.outputs[0])
            self._graph.insert_after(producer, [kept, quantized, dequantized])
        elif producer is not None:
            self._graph.insert_after(producer, [quantized, dequantized])
        else:
            self._graph.insert_before(self._graph[0], [quantized, dequantized])
        for node, index in uses:
            node.replace_input_with(index, dequantized.outputs[0])


def _columns_of_flattens(view: ModelView) -> dict[str | None, int]:
    """Return the extent of the second axis that Flatten gives, by value, where open axes do not change it."""
    flattened = [node.outputs[0] for node in view.graph_ir.graph if node.op_type == "Flatten"]
    shapes = infer_open_shapes(view) if flattened else {}
    known = {value.name: shapes.get(ValueRef(value), ())[1:] for value in flattened}
    return {name: shape[0] for name, shape in known.items() if shape and shape[0] is not None}


def _is_data(node: ir.Node, index: int) -> bool:
    """Return whether an integer node reads that input as data: not as the extents of a Reshape."""
    return index == 0 or node.op_type in ("Add", "Concat")
