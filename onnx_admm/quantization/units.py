"""Units: the nodes of a model that a runtime may compute with integers.

Proposed from the table of operators: products (Conv, Gemm, MatMul with a stored weight), kernels without a
weight (Add, Concat, pools), and nodes that pass integers through (MaxPool, Reshape). A Relu or Clip behind a
unit belongs to it: the grid of the unit's output makes it redundant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import ModelView, Skip
from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.model.operators import Trait, operators_with

_PRODUCTS = operators_with(Trait.INTEGER_PRODUCT)
_KERNELS = operators_with(Trait.INTEGER_KERNEL)
_PASSING = operators_with(Trait.PASSES_INTEGERS)
_CLIPS = ("Relu", "Clip")
_MAX_POOL_SINCE = 12

Floats = npt.NDArray[np.float32]


class Kind(Enum):
    """What a unit does with integers."""

    PRODUCT = "product"
    KERNEL = "kernel"
    PASSING = "passing"


@dataclass(frozen=True, eq=False)
class Unit:
    """A node that may be integer.

    Attributes:
        node: index in the main graph.
        name: name of the node.
        op_type: its operator.
        kind: what it does with integers.
        inputs: values that it reads as data.
        output: its output, behind a Relu or Clip that belongs to it.
        must_quantise: whether its kernel gives integers in any case; Gemm and MatMul may give floats.
        weight: dense weight of a product.
        weight_name: its name.
        axis: axis of the weight's output channels.
        bias: (channels,), of a product with one.
    """

    node: int
    name: str
    op_type: str
    kind: Kind
    inputs: tuple[str, ...]
    output: str
    must_quantise: bool
    weight: Floats | None = field(default=None, repr=False)
    weight_name: str = ""
    axis: int = 0
    bias: Floats | None = field(default=None, repr=False)

    @property
    def layer(self) -> str:
        """Name in reports: the weight's, else the node's."""
        return self.weight_name or self.name


class NotAUnit(Exception):
    """The reason why a product stays float; its text becomes a line of the report."""


def find_units(view: ModelView) -> tuple[tuple[Unit, ...], tuple[Skip, ...]]:
    """Return the units of the main graph in order, and the products that stay float, with reasons."""
    units, skipped = list[Unit](), list[Skip]()
    for index, node in enumerate(main_nodes(view)):
        try:
            unit = _unit(index, node, view.opset)
        except NotAUnit as reason:
            skipped.append(Skip(_layer_name(node), str(reason)))
            continue
        if unit is not None:
            units.append(unit)
    return tuple(units), tuple(skipped)


def _unit(index: int, node: NodeRef, opset: int) -> Unit | None:
    if node.op_type in _PRODUCTS:
        return _product(index, node)
    if node.op_type in _KERNELS:
        return _kernel(index, node)
    return _passing(index, node, opset) if node.op_type in _PASSING else None


def main_nodes(view: ModelView) -> tuple[NodeRef, ...]:
    """Return the nodes of the main graph, in order."""
    return tuple(node for node in view.nodes() if not node.scope)


def roots_of(units: Sequence[Unit]) -> Mapping[str, str]:
    """Return the value that each passing unit passes through, by the unit's output."""
    roots: dict[str, str] = {}
    for unit in units:
        if unit.kind is Kind.PASSING:
            roots[unit.output] = roots.get(unit.inputs[0], unit.inputs[0])
    return roots


def _layer_name(node: NodeRef) -> str:
    weight = node.input(1)
    return node.name if weight is None or weight.constant_shape is None else weight.name


def _product(index: int, node: NodeRef) -> Unit:
    data, stored = node.input(0), node.input(1)
    if data is None or stored is None or data.constant_shape is not None:
        raise NotAUnit("its data is a constant")
    if stored.constant_shape is None:
        raise NotAUnit("its second operand is computed: two activations")
    weight = stored.constant()
    if weight is None or weight.dtype != np.float32:
        raise NotAUnit(f"a weight of {'unknown type' if weight is None else weight.dtype} has no kernel here")
    if not np.isfinite(weight).all() or not weight.size:
        raise NotAUnit("its weight has values that are not finite, or none")
    axis, bias = _axis(node, weight), _bias(node)
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), (weight.shape[axis],)).astype(np.float32)
    output, clipped = _behind_clip(node)
    if node.op_type == "Conv" and output.is_output:
        raise NotAUnit("it gives an output of the model")
    return Unit(
        index, node.name, node.op_type, Kind.PRODUCT, (data.name,), output.name if clipped else
        node.outputs[0].name, node.op_type == "Conv", weight, stored.name, axis, bias,
    )  # fmt: skip


def _axis(node: NodeRef, weight: Floats) -> int:
    """Return the axis of the weight's output channels."""
    match node.op_type:
        case "Conv":
            return 0
        case "Gemm":
            if node.attribute("alpha", 1.0) != 1.0 or node.attribute("transA", 0):
                raise NotAUnit("alpha or transA has no integer kernel")
            return 0 if node.attribute("transB", 0) else 1
        case _:
            if weight.ndim != 2:
                raise NotAUnit(f"a weight of rank {weight.ndim} has no integer kernel")
            return 1


def _bias(node: NodeRef) -> Floats | None:
    value = node.input(2)
    if value is None:
        return None
    bias = value.constant()
    if bias is None:
        raise NotAUnit("its bias is computed")
    if node.op_type == "Gemm" and node.attribute("beta", 1.0) != 1.0:
        raise NotAUnit("beta has no integer kernel")
    if sum(extent != 1 for extent in bias.shape) > 1 or (bias.ndim == 2 and bias.shape[1] == 1 < bias.size):
        raise NotAUnit("its bias is a matrix")
    return bias


def _kernel(index: int, node: NodeRef) -> Unit | None:
    """Return a kernel without a weight; None where an operand is a constant or the result an output."""
    values = [value for value in node.inputs if value is not None]
    output, _ = _behind_clip(node)
    if output.is_output or any(value.constant_shape is not None for value in values):
        return None
    names = tuple(value.name for value in values)
    return Unit(index, node.name, node.op_type, Kind.KERNEL, names, output.name, True)


def _passing(index: int, node: NodeRef, opset: int) -> Unit | None:
    data, output = node.input(0), node.outputs[0]
    if data is None or output.is_output or len([each for each in node.outputs if each.name]) > 1:
        return None
    if node.op_type == "MaxPool" and opset < _MAX_POOL_SINCE:
        return None
    return Unit(index, node.name, node.op_type, Kind.PASSING, (data.name,), output.name, True)


def _behind_clip(node: NodeRef) -> tuple[ValueRef, bool]:
    """Return the output behind a Relu or a Clip from 0 on, and whether there is one."""
    output = node.outputs[0]
    readers = output.uses()
    if output.is_output or len(readers) != 1 or readers[0].scope != node.scope:
        return output, False
    clip = readers[0]
    if clip.op_type not in _CLIPS or not clip.shares_graph(node):
        return output, False
    if clip.op_type == "Clip" and (clip.input(0) != output or not _clips_at_zero(clip)):
        return output, False
    return clip.outputs[0], True


def _clips_at_zero(clip: NodeRef) -> bool:
    least = clip.input(1)
    value = clip.attribute("min") if least is None else least.constant()
    return value is not None and np.size(value) == 1 and float(np.asarray(value).reshape(())) == 0.0


def readers_of(units: Sequence[Unit]) -> Iterator[tuple[str, Unit]]:
    """Yield each value that a unit reads as data, with the unit."""
    for unit in units:
        for name in unit.inputs:
            yield name, unit
