"""Weight sites: the places in a graph where compressible weights stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor, is_editable_constant

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}
_RESHAPING = {"Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze"}


@dataclass(frozen=True, slots=True)
class WeightSite:
    """One compressible weight.

    Attributes:
        name: unique key: the value's name, prefixed by its scope inside subgraphs and functions.
        op_type: operator that consumes it first in graph order.
        shape: shape of the stored tensor.
        dtype: element type, as numpy names it.
        out_axis: axis of the output channels, None where a Reshape hides it.
        in_axis: axis of the input channels (of one group), None where a Reshape hides it.
        group: groups of a grouped convolution, else 1.
        users: names of every node that consumes it; more than one where weights are tied.
        scope: path of the subgraph or function that holds it; empty for the main graph.
        editable: False where standard operators decode it (an already encoded weight).
    """

    name: str
    op_type: str
    shape: tuple[int, ...]
    dtype: str
    out_axis: int | None
    in_axis: int | None
    group: int
    users: tuple[str, ...]
    scope: str = ""
    editable: bool = True

    @property
    def size(self) -> int:
        """Number of elements."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where an operator keeps a weight: input index and the axes of its channels."""

    index: int
    out_axis: int | None
    in_axis: int | None


def _slots(node: ir.Node) -> tuple[_Slot, ...]:
    match node.op_type:
        case "Conv" | "ConvInteger":
            return (_Slot(1, 0, 1),)
        case "ConvTranspose":
            return (_Slot(1, 1, 0),)
        case "Gemm":
            transposed = node.attributes.get_int("transB", 0)
            return (_Slot(1, 0, 1) if transposed else _Slot(1, 1, 0), _Slot(0, None, None))
        case "MatMul":
            return (_Slot(1, -1, -2), _Slot(0, -2, -1))
        case "LSTM" | "GRU" | "RNN":
            return (_Slot(1, 1, 2), _Slot(2, 1, 2))
        case "Gather":
            return (_Slot(0, 0, 1),)
        case _:
            return ()


def find_sites(
    scopes: Iterator[tuple[str, ir.Graph | ir.Function]],
) -> dict[str, tuple[WeightSite, ir.Value]]:
    """Every compressible weight of the graphs in ``scopes``, in graph order, tied weights once."""
    found: dict[int, tuple[WeightSite, ir.Value]] = {}
    for scope, graph in scopes:
        for node in graph:
            for slot in _slots(node):
                _visit(node, slot, scope, found)
    return {site.name: (site, value) for site, value in found.values()}


def _visit(node: ir.Node, slot: _Slot, scope: str, found: dict[int, tuple[WeightSite, ir.Value]]) -> None:
    value = node.inputs[slot.index] if slot.index < len(node.inputs) else None
    if value is None:
        return
    value, reshaped = _source(value)
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype not in _FLOATS or len(tensor.shape) < 2:
        return
    user = node.name or (node.outputs[0].name or node.op_type)
    known = found.get(id(value))
    if known is not None:
        found[id(value)] = (replace(known[0], users=(*known[0].users, user)), value)
        return
    rank = len(tensor.shape)
    key = value.name or user
    site = WeightSite(
        name=f"{scope}/{key}" if scope else key,
        op_type=node.op_type,
        shape=tuple(tensor.shape.numpy()),
        dtype=str(tensor.dtype.numpy()),
        out_axis=None if reshaped or slot.out_axis is None else slot.out_axis % rank,
        in_axis=None if reshaped or slot.in_axis is None else slot.in_axis % rank,
        group=node.attributes.get_int("group", 1),
        users=(user,),
        scope=scope,
        editable=is_editable_constant(value),
    )
    found[id(value)] = (site, value)


def _source(value: ir.Value) -> tuple[ir.Value, bool]:
    """The stored constant behind a chain of reshapes, and whether there was one."""
    reshaped = False
    while constant_tensor(value) is None:
        producer = value.producer()
        if producer is None or producer.op_type not in _RESHAPING or producer.inputs[0] is None:
            break
        value, reshaped = producer.inputs[0], reshaped or producer.op_type != "Identity"
    return value, reshaped
