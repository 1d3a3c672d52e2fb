"""A tensor as a protobuf message: in the smaller of its two forms, and the bytes of the form it has."""

from __future__ import annotations

import onnx

from onnx_admm.model.files.wire_sizes import Array, prefers_varints, varint_bytes

_TYPED_FIELDS: dict[int, str] = {
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT32: "uint64_data",
    onnx.TensorProto.UINT64: "uint64_data",
}


def tensor_proto(name: str, array: Array) -> onnx.TensorProto:
    """Return a tensor in the smaller of its two forms: varints in the typed field, or ``raw_data``."""
    tensor = onnx.numpy_helper.from_array(array, name)
    if prefers_varints(array):
        tensor.ClearField("raw_data")
        getattr(tensor, _TYPED_FIELDS.get(tensor.data_type, "int32_data")).extend(
            int(value) for value in array.flat
        )
    return tensor


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of the content inside the message; external content does not count."""
    integers = (*tensor.int32_data, *tensor.int64_data, *tensor.uint64_data)
    return (
        len(tensor.raw_data)
        + sum(map(varint_bytes, integers))
        + 4 * len(tensor.float_data)
        + 8 * len(tensor.double_data)
        + sum(map(len, tensor.string_data))
    )
