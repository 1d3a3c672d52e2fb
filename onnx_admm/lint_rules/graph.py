"""Questions that several rules ask about quantised graphs, in terms of handles."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_admm.contracts import ModelView
from onnx_admm.model import NodeRef, ValueRef

VNNI = "x86 with VNNI, one thread, batch 1, onnxruntime 1.32"
"""What predicted costs were measured on."""

REDUNDANT = ("Relu", "Clip")
"""Operators that a QuantizeLinear behind them makes redundant, and that may stand before it."""


def dequantise(value: ValueRef | None) -> NodeRef | None:
    """Return the DequantizeLinear that computes a value; None where another node does."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def is_stored(value: ValueRef | None) -> bool:
    """Return whether a value is stored, or is the dequantised form of stored codes."""
    if value is None:
        return False
    if value.constant_shape is not None:
        return True
    node = dequantise(value)
    return node is not None and node.input(0) is not None and is_stored(node.input(0))


def quantised_data(node: NodeRef, index: int = 0) -> NodeRef | None:
    """Return the DequantizeLinear of computed codes in front of an input; None for weights and floats."""
    found = dequantise(node.input(index))
    return None if found is None or is_stored(found.input(0)) else found


def quantised_layers(model: ModelView, *op_types: str) -> Iterator[NodeRef]:
    """Yield nodes of these operators whose data and weight both arrive through DequantizeLinear."""
    for op_type in op_types:
        for node in model.nodes(op_type):
            if quantised_data(node) is not None and dequantise(node.input(1)) is not None:
                yield node


def only_reader(value: ValueRef) -> NodeRef | None:
    """Return the node that reads a value, where only one input of one node does."""
    uses = value.uses()
    return uses[0] if len(uses) == 1 and not value.is_output else None


def quantise_behind(node: NodeRef) -> NodeRef | None:
    """Return the QuantizeLinear behind a node, past one Relu or Clip; None where another node reads too."""
    reader = only_reader(node.outputs[0])
    if reader is not None and reader.op_type in REDUNDANT:
        reader = only_reader(reader.outputs[0])
    return reader if reader is not None and reader.op_type == "QuantizeLinear" else None


def scale_size(node: NodeRef) -> int | None:
    """Return the number of scales of a QuantizeLinear or DequantizeLinear; None where they are computed."""
    scale = node.input(1)
    shape = None if scale is None else scale.constant_shape
    if shape is None:
        return None
    size = 1
    for extent in shape:
        size *= extent
    return size


def stored_codes(value: ValueRef | None) -> ValueRef | None:
    """Return the stored codes behind a dequantised weight; None where they are computed, or not codes."""
    node = dequantise(value)
    codes = None if node is None else node.input(0)
    return codes if codes is not None and codes.constant_shape is not None else None
