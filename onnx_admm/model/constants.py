"""Constants of a graph, in initializers or Constant nodes: read, replace, and which must stay.

Two kinds of stored tensors belong to the contract with the model's users. A *default*, an initializer that is
also a graph input (IR version 4 and newer), may be overridden by a caller: it is no constant. A constant that
is an output may be used in computations, but its own values must stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.operators import Trait, operators_with

_HANDING_ON = operators_with(Trait.REARRANGES, Trait.CASTS)
"""Operators that pass their first input on, value by value."""


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or a Constant node's output; None for any other value.

    None for defaults of inputs too.
    """
    return None if is_default(value) else stored_tensor(value)


def is_default(value: ir.Value) -> bool:
    """Return whether it is an input with a stored default, which a caller may override."""
    return value.is_graph_input() and value.is_initializer()


def why_fixed(value: ir.Value) -> str | None:
    """Return why the values of a stored tensor must stay ("is an output of the model"), else None.

    An output also counts where operators that only reshape or cast stand between.
    """
    if is_default(value):
        return "is a default that a caller may override"
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        if current.is_graph_output():
            return "is an output of the model"
        for use in current.uses():
            if use.idx == 0 and use.node.op_type in _HANDING_ON and use.node.domain in ("", "ai.onnx"):
                handed = use.node.outputs[0]
                if handed not in seen:
                    seen.add(handed)
                    pending.append(handed)
    return None


def stored_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor behind an initializer or a Constant node's output; None for anything else."""
    if value.is_initializer():
        return value.const_value
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and producer.domain in ("", "ai.onnx"):
        stored = producer.attributes.get("value")
        if stored is not None and not stored.is_ref() and stored.type == ir.AttributeType.TENSOR:
            # ``get_const_tensor`` names the tensor after the value, and the file grows; ``as_tensor`` checks
            # its type, which takes longer than all else here.
            tensor: ir.TensorProtocol = stored.value
            return tensor
        return ir.convenience.get_const_tensor(value)
    return None


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
    # Properties of a Constant node's output that the file does not state stay unstated.
    if producer is None or value.shape is not None:
        value.shape = ir.Shape(array.shape)
    if producer is None or value.dtype is not None:
        value.dtype = tensor.dtype
