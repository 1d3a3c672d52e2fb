"""Integer weights as floats that are put on their grid, for training; and back.

Before: ``DequantizeLinear(codes, scale, zero point)``. During training:
``DequantizeLinear(QuantizeLinear(weight, scale, zero point), scale, zero point)``, so that the loss sees the
grid and the gradient goes straight through it. Int32 biases have tiny steps: they are plain floats meanwhile.

Source: operators QuantizeLinear and DequantizeLinear, opset 13, with one scale or one for each channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import free_name, new_initializer, taken_names
from onnx_admm.model.integers.stored_integers import StoredIntegers
from onnx_admm.model.operators import biased_operators
from onnx_admm.model.sites import FoundSite, WeightSite
from onnx_admm.model.view import ModelView

_CODES = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)
_BIASED = biased_operators()
_GRID = 3
"""Inputs of a DequantizeLinear that states its zero point."""


@dataclass(frozen=True, eq=False)
class FloatWeights:
    """A model whose integer weights are floats on their grid.

    Attributes:
        view: the model; initializers have the names of the weights and biases.
        sites: the weights that were integers, as weights that can be trained; by name.
        steps: step of the grid of each bias that was an integer, () or (channels,); by name.
    """

    view: ModelView
    sites: Mapping[str, WeightSite]
    steps: Mapping[str, npt.NDArray[np.float32]]

    def to_integers(self) -> ModelView:
        """Return the model with weights and biases as integers again, on the grids that they had."""
        view = self.view.fork()
        graph, stored = view.graph_ir.graph, StoredIntegers(view)
        for name in self.sites:
            weight = graph.initializers[name]
            [quantize] = [use.node for use in weight.uses()]
            [dequantize] = [use.node for use in quantize.outputs[0].uses()]
            codes = _Grid.of(dequantize).codes_of(_array(weight))
            dequantize.replace_input_with(0, stored.constant(f"{name}_codes", codes))
            graph.remove(quantize, safe=True)
            _take_name(graph, weight, dequantize.outputs[0])
        for name, step in self.steps.items():
            bias = graph.initializers[name]
            codes = _Grid(step, np.zeros(step.shape, np.int32), 0).codes_of(_array(bias))
            readers = [use.node for use in bias.uses() if use.node.graph is graph]
            place = readers[0] if readers else graph[0]  # others are in subgraphs
            made = stored.dequantized(place, name, codes.astype(np.int32), step, 0)
            for use in tuple(bias.uses()):
                use.node.replace_input_with(use.idx, made)
            _take_name(graph, bias, made)
        view.strip_unused()
        return view


def integer_sites(model: ModelView) -> Mapping[str, WeightSite]:
    """Return the weights that `with_float_weights` makes floats, as weights that can be trained; by name.

    Weights of the main graph behind a DequantizeLinear with one scale, or one for each channel. Layers that a
    recipe fixes are left out, and codes that have other readers.
    """
    return {
        name: replace(found.site, editable=True, dtype="float32") for name, found in _integer(model).items()
    }


def with_float_weights(model: ModelView) -> FloatWeights | None:
    """Return a copy of the model in which integer weights can be trained; None where it has none.

    The weights are those of `integer_sites`; others stay as they are.
    """
    sites = integer_sites(model)
    if not sites:
        return None
    view = model.fork()
    graph, taken = view.graph_ir.graph, taken_names(view.graph_ir)
    found = _integer(view)
    arrays = {name: np.asarray(view.read(name), np.float32) for name in found}
    steps: dict[str, npt.NDArray[np.float32]] = {}
    for name, each in found.items():
        node = _producer(each.value)
        each.value.name = free_name(f"{name}_rounded", taken)
        weight = new_initializer(graph, name, arrays[name])
        axis = {"axis": node.attributes.get_int("axis", 1)}
        quantize = ir.node("QuantizeLinear", [weight, *node.inputs[1:]], axis)
        quantize.outputs[0].name = free_name(f"{name}_on_grid", taken)
        graph.insert_before(node, quantize)
        node.replace_input_with(0, quantize.outputs[0])
        for reader, _ in each.uses:
            steps |= _float_bias(graph, reader, taken)
    view.strip_unused()
    return FloatWeights(view, sites, steps)


def _integer(view: ModelView) -> dict[str, FoundSite]:
    fixed = view.conditions.fixed
    return {
        name: each for name, each in view.found_sites().items() if name not in fixed and _is_on_grid(each)
    }


@dataclass(frozen=True, eq=False)
class _Grid:
    """Scale and zero point of a DequantizeLinear, (), or (extent,) of an axis."""

    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.integer]
    axis: int

    @classmethod
    def of(cls, node: ir.Node) -> _Grid:
        scale, zero = (_array(value) for value in node.inputs[1:3] if value is not None)
        return cls(scale, zero, node.attributes.get_int("axis", 1))

    def codes_of(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.integer]:
        """Return the nearest codes."""
        shape = [1] * values.ndim
        if self.scale.ndim and values.ndim:
            shape[self.axis] = self.scale.size
        scale, zero = (np.reshape(each, shape if each.size > 1 else ()) for each in (self.scale, self.zero))
        limits = np.iinfo(self.zero.dtype)
        steps = np.where(scale == 0, np.inf, scale.astype(np.float64))  # a scale of 0 stands for zeros alone
        codes = np.rint(values / steps) + zero
        found: npt.NDArray[np.integer] = np.clip(codes, limits.min, limits.max).astype(self.zero.dtype)
        return found


def _is_on_grid(found: FoundSite) -> bool:
    """Return whether a weight is read behind one DequantizeLinear of the main graph that has its own grid."""
    node = found.value.producer()
    if found.site.scope or node is None or node.op_type != "DequantizeLinear" or len(node.inputs) != _GRID:
        return False
    if node.domain not in ("", "ai.onnx") or found.site.dtype != "float32" or found.value.is_graph_output():
        return False
    if node.attributes.get_int("block_size", 0):
        return False
    codes = node.inputs[0]
    if codes is None or len(tuple(codes.uses())) > 1 or codes.is_graph_output():  # of other weights too
        return False
    scale, zero = (None if value is None else constant_tensor(value) for value in node.inputs[1:])
    return scale is not None and zero is not None and len(scale.shape) <= 1 and zero.dtype in _CODES


def _float_bias(
    graph: ir.Graph, reader: ir.Node, taken: set[str | None]
) -> Mapping[str, npt.NDArray[np.float32]]:
    """Give a node its int32 bias as floats; its step by name, none where it has no such bias."""
    place = _BIASED.get(reader.op_type)
    bias = reader.inputs[place] if place is not None and len(reader.inputs) > place else None
    node = None if bias is None else bias.producer()
    if bias is None or node is None or node.op_type != "DequantizeLinear" or len(tuple(bias.uses())) != 1:
        return {}
    if bias.is_graph_output():
        return {}
    codes, step = (None if value is None else constant_tensor(value) for value in node.inputs[:2])
    if codes is None or step is None or codes.dtype != ir.DataType.INT32 or len(step.shape) > 1:
        return {}
    name = bias.name or free_name("bias", taken)
    bias.name = free_name(f"{name}_codes", taken)
    steps = np.array(step.numpy(), np.float32)
    values = codes.numpy().astype(np.float64) * steps
    reader.replace_input_with(place or 0, new_initializer(graph, name, values.astype(np.float32)))
    return {name: steps}


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None:
        raise ValueError(f"{value.name} is computed by no node")
    return node


def _array(value: ir.Value) -> npt.NDArray[Any]:
    tensor = constant_tensor(value)
    if tensor is None:
        raise ValueError(f"{value.name} is no constant")
    return np.array(tensor.numpy())


def _take_name(graph: ir.Graph, initializer: ir.Value, value: ir.Value) -> None:
    """Remove an initializer that nothing reads any more, and give its name to another value."""
    name = initializer.name or ""
    del graph.initializers[name]
    value.name = name
