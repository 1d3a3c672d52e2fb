"""Checks of a model file before its sizes and paths are trusted.

The checks read the protobuf alone: no tensor is decoded and no external file is opened before its declared
length, its place and the length of the file are known to agree.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_ir as ir

from onnx_admm.errors import ModelError, UnsupportedModel
from onnx_admm.model.files.file_bytes import FileBytes
from onnx_admm.model.files.file_tensor import KEPT_IN_FILES_FROM_BYTES

_TYPED_FIELDS = (
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
)
_MOST_AXES = 32  # numpy 1.26 has no more
_MOST_ELEMENTS = 2**60
_MOST_EXTENT_OF_NONE = 2**24
"""Largest extent of a weight without elements: its channels are still counted and listed."""

_FREE_BYTES = 64 * 2**20
_EXPANSION = 1000
_MOST_EMBEDDED = 1 << 30

TRUSTED_FOLDERS = "ONNX_ADMM_TRUSTED_FOLDERS"
"""Environment variable: folders, separated as in PATH, that links to external data may lead into."""

_Owner: TypeAlias = onnx.GraphProto | onnx.AttributeProto


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One stored tensor and its owner."""

    tensor: onnx.TensorProto
    owner: _Owner


def expansion_limit(stored_bytes: int) -> int:
    """Return the most bytes that ``stored_bytes`` may expand to: 1000-fold, and 64 MiB in any case."""
    return max(_FREE_BYTES, _EXPANSION * stored_bytes)


def check_storage(proto: onnx.ModelProto, path: Path | None, where: str) -> None:
    """Refuse tensors whose stored bytes do not match their shape and type.

    Args:
        proto: the parsed file, or its skeleton: large tensors then refer to their places in the file itself.
        path: absolute path of the file; external data must lie in its folder. None refuses external data.
        where: name of the model in errors.

    Raises:
        ModelError: a length, shape, type or path that does not match.
        UnsupportedModel: training information, or a sparse tensor where none is defined.
    """
    if len(proto.training_info):
        raise UnsupportedModel(
            "the file carries training information, which would be lost",
            where=where,
            hint="Export the model for inference.",
        )
    for found in stored_tensors(proto):
        tensor = found.tensor
        place = f"{where}: tensor {tensor.name or 'without a name'}"
        elements = count_elements(tensor.dims, place)
        expected = _stored_bytes(tensor.data_type, elements, place)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, expected, path, place)
        else:
            _check_inline(tensor, elements, expected, place)


def embed_small_tensors(proto: onnx.ModelProto, path: Path) -> None:
    """Read small external tensors, and those of node attributes, into the model.

    Larger initializers stay in their files. So do small ones once so much has been read that many of them
    must share their files.

    Args:
        proto: a model whose storage was checked.
        path: absolute path of its file.

    Raises:
        ModelError: a file cannot be read, or has become shorter.
    """
    left = _MOST_EMBEDDED
    for found in stored_tensors(proto):
        tensor = found.tensor
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries["location"] == path.name:
            continue
        dtype = ir.DataType(tensor.data_type)
        size = -(-math.prod(tensor.dims) * dtype.bitwidth // 8)
        is_small = size < KEPT_IN_FILES_FROM_BYTES and size <= left
        if is_small or dtype.bitwidth < 8 or isinstance(found.owner, onnx.AttributeProto):
            left -= size
            file = _external_file(entries["location"], path, f"tensor {tensor.name}")
            tensor.raw_data = _read_piece(file, int(entries.get("offset", "0")), size)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]


def _read_piece(file: Path, offset: int, size: int) -> bytes:
    try:
        with FileBytes(file) as data:
            piece = data[offset : offset + size]
    except OSError as error:
        raise ModelError(f"cannot read the weights ({error.strerror})", where=file) from error
    if len(piece) != size:
        raise ModelError("the file that holds the weights has become shorter", where=file)
    return piece


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, subgraphs and functions included."""
    for graph in all_graphs(proto):
        yield from graph.node
    for function in proto.functions:
        yield from function.node


# -- walking ---------------------------------------------------------------------------------


def all_graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the main graph and every subgraph, those inside functions included."""
    pending = [graph for function in reversed(proto.functions) for graph in subgraphs(function.node)]
    pending.append(proto.graph)
    while pending:
        graph = pending.pop()
        yield graph
        pending += subgraphs(graph.node)


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> list[onnx.GraphProto]:
    """Return the graphs directly inside nodes, the last first."""
    found: list[onnx.GraphProto] = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH or attribute.HasField("g"):
                found.append(attribute.g)
            found += attribute.graphs
    return found[::-1]


def stored_tensors(proto: onnx.ModelProto) -> Iterator[StoredTensor]:
    """Yield every stored tensor of a model, those of subgraphs and functions included."""
    for graph in all_graphs(proto):
        for tensor in graph.initializer:
            yield StoredTensor(tensor, graph)
        for sparse in graph.sparse_initializer:
            yield StoredTensor(sparse.values, graph)
            yield StoredTensor(sparse.indices, graph)
    for node in all_nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield StoredTensor(attribute.t, attribute)
            for tensor in attribute.tensors:
                yield StoredTensor(tensor, attribute)
            if attribute.HasField("sparse_tensor"):
                yield StoredTensor(attribute.sparse_tensor.values, attribute)
                yield StoredTensor(attribute.sparse_tensor.indices, attribute)


# -- sizes and places ------------------------------------------------------------------------


def count_elements(dims: Iterable[int], place: str) -> int:
    """Return the number of elements of a stored tensor.

    Raises:
        ModelError: a negative extent, more axes or elements than an array can have, or no elements and a very
            large extent.
    """
    extents = [int(extent) for extent in dims]
    if any(extent < 0 for extent in extents):
        raise ModelError("a stored tensor with a negative extent", where=place, got=extents)
    if len(extents) > _MOST_AXES:
        raise ModelError(
            "a stored tensor of too many axes",
            where=place,
            got=len(extents),
            expected=f"at most {_MOST_AXES}",
        )
    elements = math.prod(extents)
    if elements > _MOST_ELEMENTS:
        raise ModelError(
            "a stored tensor of too many elements", where=place, got=f"shape {extents}", expected="below 2^60"
        )
    if not elements and math.prod(extent for extent in extents if extent) > _MOST_EXTENT_OF_NONE:
        raise ModelError(
            "a stored tensor without elements that has a very large extent",
            where=place,
            got=f"shape {extents}",
            expected=f"at most {_MOST_EXTENT_OF_NONE} without the axes of extent 0",
        )
    return elements


def _stored_bytes(data_type: int, elements: int, place: str) -> int | None:
    """Return the bytes of the raw form; None for strings."""
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
    needed = elements
    if expected is not None and expected < elements:  # types below one byte are packed
        needed = expected
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        needed = 2 * elements
    if stored != needed:
        raise ModelError(
            "the stored values do not fill the shape",
            where=place,
            got=f"{stored} values",
            expected=f"{needed}",
        )


def _check_external(tensor: onnx.TensorProto, expected: int | None, path: Path | None, place: str) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if path is None:
        raise ModelError("external data has no folder here", where=place, hint="Load the model by its path.")
    if expected is None:
        raise ModelError("strings cannot lie outside the model file", where=place)
    file = path if location == path.name else _external_file(location, path, place)
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


def _external_file(location: str, model: Path, place: str) -> Path:
    """Return the data file: a regular file, in the model's folder by name, and at an allowed place.

    It may lie in the model's folder, in the folder that the model's own link leads to (caches keep model and
    data as links to files of one folder), and in folders that the user trusts.
    """
    plain = Path(location)
    if not location or "\0" in location or plain.is_absolute() or ".." in plain.parts:
        raise ModelError(
            "external data outside the model's folder",
            where=place,
            got=repr(location),
            expected="a file beside it",
        )
    file = (model.parent / plain).resolve()
    stated = os.environ.get(TRUSTED_FOLDERS, "").split(os.pathsep)
    trusted = [Path(folder).resolve() for folder in stated if folder]
    folders = (model.parent.resolve(), model.resolve().parent, *trusted)
    if not any(file.is_relative_to(folder) for folder in folders):
        raise ModelError(
            "external data behind a link out of the model's folder",
            where=place,
            got=f"{location}, a link to {file}",
            expected=f"a file in {folders[0]}",
            hint=f"If it may be read, set {TRUSTED_FOLDERS}={file.parent}, or copy it beside the model.",
        )
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
