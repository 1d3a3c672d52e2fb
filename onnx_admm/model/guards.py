"""What a model file must satisfy before anybody believes its sizes and paths.

The checks read the protobuf alone: no tensor is decoded and no external file is opened before its declared
length, its place and the length of the file are known to agree.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_ir as ir
from onnx.external_data_helper import load_external_data_for_tensor

from onnx_admm.errors import ModelError, UnsupportedModel

_TYPED_FIELDS = (
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
)
_FREE_BYTES = 64 * 2**20
_EXPANSION = 1000

_Owner: TypeAlias = onnx.GraphProto | onnx.AttributeProto


@dataclass(frozen=True, slots=True)
class _Found:
    """One stored tensor and who holds it."""

    tensor: onnx.TensorProto
    owner: _Owner


def expansion_limit(stored_bytes: int) -> int:
    """Most bytes that ``stored_bytes`` of a compressed form may expand to: 1000-fold, and 64 MiB for free."""
    return max(_FREE_BYTES, _EXPANSION * stored_bytes)


def check_storage(proto: onnx.ModelProto, path: Path | None, where: str) -> None:
    """Refuse tensors whose stored bytes are not what their shape and type say.

    Args:
        proto: the parsed file, or its skeleton: large tensors then refer to their places in the file itself.
        path: absolute path of the file; external data must lie in its folder. None refuses external data.
        where: how errors name the model.

    Raises:
        ModelError: a length, shape, type or path that does not add up.
        UnsupportedModel: training information, or a sparse tensor where none is defined.
    """
    if len(proto.training_info):
        raise UnsupportedModel(
            "the file carries training information, which would be lost",
            where=where,
            hint="Export the model for inference.",
        )
    for found in _stored_tensors(proto):
        tensor = found.tensor
        place = f"{where}: tensor {tensor.name or 'without a name'}"
        elements = count_elements(tensor.dims, place)
        expected = _stored_bytes(tensor.data_type, elements, place)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, expected, path, place)
        else:
            _check_inline(tensor, elements, expected, place)


def embed_attribute_tensors(proto: onnx.ModelProto, folder: Path) -> None:
    """Read external tensors of node attributes into the model; initializers stay where they are."""
    for found in _stored_tensors(proto):
        external = found.tensor.data_location == onnx.TensorProto.EXTERNAL
        if external and isinstance(found.owner, onnx.AttributeProto):
            load_external_data_for_tensor(found.tensor, str(folder))
            found.tensor.data_location = onnx.TensorProto.DEFAULT
            del found.tensor.external_data[:]


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, subgraphs and functions included."""
    for graph in all_graphs(proto):
        yield from graph.node
    for function in proto.functions:
        yield from function.node


# -- walking ---------------------------------------------------------------------------------


def all_graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every subgraph, those inside functions included."""
    yield from _nested(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _inner_graphs(node)


def _nested(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from _inner_graphs(node)


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from _nested(attribute.g)
        for graph in attribute.graphs:
            yield from _nested(graph)


def _stored_tensors(proto: onnx.ModelProto) -> Iterator[_Found]:
    for graph in all_graphs(proto):
        for tensor in graph.initializer:
            yield _Found(tensor, graph)
        for sparse in graph.sparse_initializer:
            yield _Found(sparse.values, graph)
            yield _Found(sparse.indices, graph)
    for node in all_nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield _Found(attribute.t, attribute)
            for tensor in attribute.tensors:
                yield _Found(tensor, attribute)
            if attribute.HasField("sparse_tensor"):
                yield _Found(attribute.sparse_tensor.values, attribute)
                yield _Found(attribute.sparse_tensor.indices, attribute)


# -- sizes and places ------------------------------------------------------------------------


def count_elements(dims: object, place: str) -> int:
    """Elements of a stored tensor.

    Raises:
        ModelError: a negative extent.
    """
    extents = [int(extent) for extent in dims]  # type: ignore[attr-defined]
    if any(extent < 0 for extent in extents):
        raise ModelError("a stored tensor with a negative extent", where=place, got=extents)
    return math.prod(extents)


def _stored_bytes(data_type: int, elements: int, place: str) -> int | None:
    """Bytes of the raw form; None for strings."""
    try:
        dtype = ir.DataType(data_type)
    except ValueError as error:
        raise ModelError("a stored tensor of an unknown element type", where=place, got=data_type) from error
    if dtype == ir.DataType.UNDEFINED:
        raise ModelError("a stored tensor without an element type", where=place)
    return None if dtype == ir.DataType.STRING else -(-elements * dtype.bitwidth // 8)


def _check_inline(tensor: onnx.TensorProto, elements: int, expected: int | None, place: str) -> None:
    if tensor.raw_data:
        if expected is None or len(tensor.raw_data) != expected:
            raise ModelError(
                "the stored bytes do not fit shape and type",
                where=place,
                got=f"{len(tensor.raw_data)} bytes",
                expected=f"{expected} bytes",
            )
        return
    stored = max(len(getattr(tensor, field)) for field in _TYPED_FIELDS)
    wanted = elements
    if expected is not None and expected < elements:  # types below one byte are packed
        wanted = expected
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        wanted = 2 * elements
    if stored != wanted:
        raise ModelError(
            "the stored values do not fill the shape",
            where=place,
            got=f"{stored} values",
            expected=f"{wanted}",
        )


def _check_external(tensor: onnx.TensorProto, expected: int | None, path: Path | None, place: str) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if path is None:
        raise ModelError("external data has no folder here", where=place, hint="Load the model by its path.")
    if expected is None:
        raise ModelError("strings cannot lie outside the model file", where=place)
    file = path if location == path.name else _external_file(location, path.parent, place)
    offset = _count(entries.get("offset", "0"), "offset", place)
    length = _count(entries.get("length", str(expected)), "length", place)
    if length != expected:
        raise ModelError(
            "the stored bytes do not fit shape and type"
            if file == path
            else "the declared length of external data does not fit shape and type",
            where=place,
            got=f"{length} bytes",
            expected=f"{expected} bytes",
        )
    available = file.stat().st_size
    if offset + length > available:
        raise ModelError(
            "external data reaches beyond the end of its file",
            where=f"{place} in {file.name}",
            got=f"bytes {offset} to {offset + length} of {available}",
        )


def _external_file(location: str, folder: Path, place: str) -> Path:
    """The data file, a regular one, inside ``folder`` by name and by fact."""
    plain = Path(location)
    if not location or "\0" in location or plain.is_absolute() or ".." in plain.parts:
        raise ModelError(
            "external data outside the model's folder",
            where=place,
            got=repr(location),
            expected="a file beside it",
        )
    file = (folder / plain).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ModelError("external data behind a link out of the model's folder", where=place, got=location)
    try:
        facts = file.stat()
    except OSError as error:
        raise ModelError(f"no external data ({error.strerror})", where=place, got=location) from error
    if not stat.S_ISREG(facts.st_mode):
        raise ModelError("external data is not a plain file", where=place, got=location)
    if facts.st_nlink > 1:
        raise ModelError(
            "external data is hard-linked, so it may belong elsewhere",
            where=place,
            got=location,
            hint="Copy the model and its data to a folder of their own.",
        )
    return file


def _count(text: str, what: str, place: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ModelError(f"external data with an unreadable {what}", where=place, got=repr(text))
    return int(text)
