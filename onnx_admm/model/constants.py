"""Constants of a graph, whether initializers or Constant nodes: read and replace."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor behind an initializer or a Constant node's output; None for anything else."""
    if value.is_initializer():
        return value.const_value
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and producer.domain in ("", "ai.onnx"):
        stored = producer.attributes.get("value")
        if stored is not None and not stored.is_ref():
            return stored.as_tensor()  # the library's way names it after the value, and the file grows
        return ir.convenience.get_const_tensor(value)
    return None


def is_editable_constant(value: ir.Value) -> bool:
    """True where ``replace_constant`` can write."""
    return constant_tensor(value) is not None


def replace_constant(value: ir.Value, array: npt.NDArray[np.generic]) -> None:
    """Store a copy of ``array`` as the constant's new content, shape and type."""
    producer = value.producer()
    tensor = ir.tensor(np.array(array, order="C"), name=value.name if producer is None else None)
    if producer is not None:
        producer.attributes.clear()
        producer.attributes.add(ir.AttrTensor("value", tensor))
        value.const_value = None
    else:
        value.const_value = tensor
    # What the file does not state about a Constant node's output stays unstated.
    if producer is None or value.shape is not None:
        value.shape = ir.Shape(array.shape)
    if producer is None or value.dtype is not None:
        value.dtype = tensor.dtype
