"""Model files without their large tensors: a skeleton to parse and check, contents stay in the file.

A serialised ModelProto is a sequence of fields (a varint tag, then a varint, 4 or 8 bytes, or a length and so
many bytes), and fields that are messages nest. ``strip_tensors`` walks over model, graph and initializers
alone, and turns every large ``raw_data`` into a reference to its place in the file, as ``external_data`` is
one; ``reinsert_tensors`` is the inverse. So neither direction needs more memory than the skeleton takes.

Source: protobuf encoding, wire types 0, 1, 2 and 5; onnx.proto for the field numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import onnx
import onnx_ir as ir

from onnx_admm.model.files.file_bytes import FileBytes
from onnx_admm.model.files.file_tensor import KEPT_IN_FILES_FROM_BYTES
from onnx_admm.model.files.wire_sizes import varint_bytes

Bytes = bytes | FileBytes
Piece = bytes | ir.TensorProtocol
"""Part of a file: bytes, or a tensor whose content they are."""

_VARINT, _EIGHT, _MESSAGE, _FOUR = 0, 1, 2, 5
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # in ModelProto, GraphProto, TensorProto
_PLAIN_FIELDS = frozenset({1, 2, 8, 9, 12, 16})
"""Fields of a TensorProto: dims, data_type, name, raw_data, doc_string, metadata_props."""


class Malformed(ValueError):
    """The bytes are no sequence of fields."""


class _Field(NamedTuple):
    """One field: number, wire type, start, start of its content, and end."""

    number: int
    wire_type: int
    start: int
    content: int
    stop: int


def strip_tensors(data: Bytes, location: str) -> bytes:
    """Return a serialised model whose large initializers refer to their places in ``data``.

    Args:
        data: a serialised ModelProto.
        location: name of its file.

    Raises:
        Malformed: no protobuf message, or a truncated one.
    """
    return b"".join(_lift_model(data, location))


def _lift_model(data: Bytes, location: str) -> Iterator[bytes]:
    for field in _fields(data, 0, len(data)):
        if field.number == _GRAPH and field.wire_type == _MESSAGE:
            graph = b"".join(
                _lifted(data, inner, location) for inner in _fields(data, field.content, field.stop)
            )
            yield _message(_GRAPH, graph)
        else:
            yield data[field.start : field.stop]


def _lifted(data: Bytes, field: _Field, location: str) -> bytes:
    """Return one field of a graph, without the content of a large initializer."""
    size = field.stop - field.content
    if field.number == _INITIALIZER and field.wire_type == _MESSAGE and size >= KEPT_IN_FILES_FROM_BYTES:
        parts = list(_fields(data, field.content, field.stop))
        raw = [part for part in parts if part.number == _RAW_DATA and part.wire_type == _MESSAGE]
        if len(raw) == 1 and {part.number for part in parts} <= _PLAIN_FIELDS:
            rest = b"".join(data[p.start : p.stop] for p in parts if p is not raw[0])
            tensor = onnx.TensorProto.FromString(rest)
            make_external(tensor, location, raw[0].content, raw[0].stop - raw[0].content)
            return _message(_INITIALIZER, tensor.SerializeToString(deterministic=True))
    return data[field.start : field.stop]


def make_external(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Replace the content of a tensor by the place where it is stored."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))


class Reference(ir.ExternalTensor):
    """Placeholder in a skeleton for a tensor that is written elsewhere: content ``number`` of a list."""

    def __init__(self, number: int, tensor: ir.TensorProtocol) -> None:
        super().__init__(
            "",
            number,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )


def reference_of(tensor: onnx.TensorProto) -> int | None:
    """Return the number of a serialised `Reference`; None for any other tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    is_reference = tensor.data_location == onnx.TensorProto.EXTERNAL and not entries.get("location")
    return int(entries["offset"]) if is_reference else None


def reinsert_tensors(skeleton: bytes, contents: Sequence[ir.TensorProtocol]) -> Iterator[Piece]:
    """Yield a serialised model, in pieces, with contents in place of the main graph's references.

    Args:
        skeleton: a serialised ModelProto.
        contents: contents of its references; yielded where their bytes are to be written.
    """
    for field in _fields(skeleton, 0, len(skeleton)):
        if field.number != _GRAPH:
            yield skeleton[field.start : field.stop]
            continue
        inner = _fields(skeleton, field.content, field.stop)
        pieces = [piece for part in inner for piece in _with_content(skeleton, part, contents)]
        yield _head(_GRAPH, sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in pieces))
        yield from pieces


def _with_content(data: bytes, field: _Field, contents: Sequence[ir.TensorProtocol]) -> list[Piece]:
    whole: list[Piece] = [data[field.start : field.stop]]
    if field.number != _INITIALIZER:
        return whole
    tensor = onnx.TensorProto.FromString(data[field.content : field.stop])
    number = reference_of(tensor)
    if number is None:
        return whole
    for name in ("external_data", "data_location"):
        tensor.ClearField(name)
    plain = tensor.SerializeToString(deterministic=True)  # fields in the order of their numbers
    parts = list(_fields(plain, 0, len(plain)))
    first = b"".join(plain[part.start : part.stop] for part in parts if part.number < _RAW_DATA)
    last = b"".join(plain[part.start : part.stop] for part in parts if part.number > _RAW_DATA)
    content = contents[number]
    first += _head(_RAW_DATA, content.nbytes)
    return [_head(_INITIALIZER, len(first) + content.nbytes + len(last)) + first, content, last]


# -- fields ----------------------------------------------------------------------------------


def _fields(data: Bytes, start: int, stop: int) -> Iterator[_Field]:
    while start < stop:
        tag, content = _read_varint(data, start, stop)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, end = _read_varint(data, content, stop)
        elif wire_type == _MESSAGE:
            length, content = _read_varint(data, content, stop)
            end = content + length
        elif wire_type in (_EIGHT, _FOUR):
            end = content + (8 if wire_type == _EIGHT else 4)
        else:
            raise Malformed(f"wire type {wire_type}")
        if end > stop:
            raise Malformed("a field reaches beyond its message")
        yield _Field(tag >> 3, wire_type, start, content, end)
        start = end


def _read_varint(data: Bytes, start: int, stop: int) -> tuple[int, int]:
    """Return the number, and the offset behind it."""
    value = 0
    for place, position in enumerate(range(start, min(start + 10, stop))):
        byte = data[position]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position + 1
    raise Malformed("a number without an end")


def _head(number: int, length: int) -> bytes:
    """Return the tag and length of a field that is a message or bytes."""
    return _varint(number << 3 | _MESSAGE) + _varint(length)


def _message(number: int, content: bytes) -> bytes:
    return _head(number, len(content)) + content


def _varint(value: int) -> bytes:
    last = varint_bytes(value) - 1
    return bytes(value >> (7 * place) & 0x7F | (0x80 if place < last else 0) for place in range(last + 1))
