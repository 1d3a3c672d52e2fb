"""Reads and checks model files, and serialises models; `saving` writes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from onnx_admm.errors import ModelError, OutputError, reading
from onnx_admm.limits import current_budget
from onnx_admm.model.files.file_bytes import FileBytes
from onnx_admm.model.files.file_tensor import is_large, leave_in_files
from onnx_admm.model.files.guards import all_graphs, check_storage, embed_small_tensors
from onnx_admm.model.files.model_size import check_size
from onnx_admm.model.files.node_order import sort_nodes
from onnx_admm.model.files.protobuf_wire import Piece, Reference, reinsert_tensors, strip_tensors
from onnx_admm.model.files.sparse_tensors import SPARSE_BYTES, densify_sparse, forget_marks, write_sparse
from onnx_admm.model.files.text_fields import check_text
from onnx_admm.model.loading.checker import check_input, check_shapes, first_line
from onnx_admm.model.loading.default_inputs import list_mandatory, unlist_mandatory
from onnx_admm.model.loading.map_outputs import attach_tail, cut_tail, put_back, tail_of

PROTOBUF_LIMIT = 2**31 - 1
"""Largest size of a protobuf message; larger models keep their weights in an external file."""

INLINE_LIMIT = 2_000_000_000
"""Most bytes of weights that are written into the model file."""

EXTERNAL = "onnx_admm.external_data"
"""Key in the graph's ``meta``: weights were in an external file, and are written to one again."""


def load_model(path: str | os.PathLike[str], refusals: list[ModelError] | None = None) -> ir.Model:
    """Load, check and parse a model file; large weights stay in their files until they are read.

    Args:
        path: path of the file.
        refusals: receives what the checker refuses, and the model is loaded all the same; None raises it.
            Limits and guards hold either way.

    Raises:
        ModelError: missing, not ONNX, truncated, unsafe sizes or paths, refused by the checker.
    """
    file, where = Path(path).absolute(), os.fspath(path)
    proto = read_skeleton(file, where)
    current_budget().add_stored(file.stat().st_size)
    check_size(proto, where)
    check_storage(proto, file, where)
    sort_nodes(proto)
    has_outside = _refers_outside(proto, file)
    embed_small_tensors(proto, file)
    with _collected(refusals):
        check_input(proto, where)
    forget_marks(proto)  # marks in a file are not from this project
    dense_bytes = densify_sparse(proto, file.parent, where)
    with _collected(refusals):
        check_shapes(proto, where)  # inference has no shape of a sparse initializer
    model = _to_ir(proto, where)
    current_budget().keep_with(model, dense_bytes)
    ir.external_data.set_base_dir(model.graph, file.parent)
    if has_outside:
        model.graph.meta[EXTERNAL] = True
    leave_in_files(model)
    return model


@contextmanager
def _collected(refusals: list[ModelError] | None) -> Iterator[None]:
    """Add the checker's refusal to a list, where there is one."""
    try:
        yield
    except ModelError as error:
        if refusals is None:
            raise
        refusals.append(error)


def parse_model(data: bytes) -> ir.Model:
    """Parse a serialised ModelProto with every weight inside.

    Raises:
        ModelError: as ``load_model``, and external data.
    """
    where = "serialised model"
    proto = _parse(data, where)
    current_budget().add_stored(len(data))
    check_size(proto, where)
    check_storage(proto, None, where)
    sort_nodes(proto)
    check_input(proto, where)
    forget_marks(proto)
    dense_bytes = densify_sparse(proto, None, where)
    model = _to_ir(proto, where)
    current_budget().keep_with(model, dense_bytes)
    return model


def serialize_model(model: ir.Model, *, sparse: bool = True, maps: bool = False) -> bytes:
    """Serialise with every weight inside.

    Args:
        model: the model.
        maps: with outputs that are maps, as in the file; else with the tensors that they are made of.
        sparse: write sparse tensors as such; else dense, for readers without sparse tensors.

    Raises:
        OutputError: the model is larger than a protobuf can be.
    """
    if weight_bytes(model) > INLINE_LIMIT:
        raise OutputError(
            "a model of over 2 GB cannot be held in one message", hint="Save it to a file instead."
        )
    pieces = model_pieces(model, write_sparse if sparse else forget_marks, maps=maps)
    return b"".join(piece if isinstance(piece, bytes) else piece.tobytes() for piece in pieces)


def file_bytes(model: ir.Model) -> int:
    """Return the bytes of a file with every weight inside; no weight is read for it."""
    return sum(
        len(piece) if isinstance(piece, bytes) else piece.nbytes
        for piece in model_pieces(model, write_sparse, maps=True)
    )


def skeleton_of(model: ir.Model) -> onnx.ModelProto:
    """Return the model as it would be written, with references in place of large weights."""
    return model_skeleton(model, write_sparse, is_large, maps=True)[0]


# -- reading ---------------------------------------------------------------------------------


def read_skeleton(file: Path, where: str) -> onnx.ModelProto:
    """Return the parsed file, with large initializers left in the file."""
    _check_readable(file, where)
    try:
        with FileBytes(file) as data:
            try:
                content = strip_tensors(data, file.name)
            except (ValueError, google.protobuf.message.DecodeError):  # no model: the parser says so
                content = data[:]
    except OSError as error:
        raise ModelError(f"cannot read the file ({error.strerror})", where=where) from error
    return _parse(content, where)


def _check_readable(file: Path, where: str) -> None:
    if not file.exists():
        raise ModelError("no such model file", where=where)
    if file.is_dir():
        raise ModelError("a folder, not a model file", where=where)
    if not file.is_file():
        raise ModelError("not a plain file", where=where)
    size = file.stat().st_size
    if size == 0:
        raise ModelError("the file is empty", where=where)
    if size > PROTOBUF_LIMIT:
        raise ModelError(
            "larger than an ONNX file can be",
            where=where,
            got=f"{size} bytes",
            expected=f"at most {PROTOBUF_LIMIT}, with weights as external data",
        )


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    try:
        proto = onnx.load_from_string(data)
    except google.protobuf.message.DecodeError as error:
        raise ModelError("not an ONNX model, or one cut short", where=where, hint=_guess(data)) from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError("not an ONNX model", where=where, hint=_guess(data))
    check_text(proto, where)
    return proto


def _guess(data: bytes) -> str | None:
    """Return a hint on what a file that is no model may be."""
    if data.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer: run `git lfs pull` to fetch the model itself."
    start = data[:512]
    if start and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in start):
        return "It looks like text; an .onnx file is binary."
    return None


def _to_ir(proto: onnx.ModelProto, where: str) -> ir.Model:
    tail = cut_tail(proto, where)
    with reading(where, ModelError, "the graph cannot be built"):
        model = ir.from_proto(proto)
    unlist_mandatory(model)
    attach_tail(model, tail)
    return model


# -- writing ---------------------------------------------------------------------------------


def model_pieces(
    model: ir.Model, update_marks: Callable[[onnx.ModelProto], None], *, maps: bool
) -> Iterator[Piece]:
    """Return the serialised model, large weights as tensors; ``maps`` as in `serialize_model`."""
    main = set(map(id, (value.const_value for value in model.graph.initializers.values())))
    proto, contents = model_skeleton(
        model, update_marks, lambda tensor: is_large(tensor) and id(tensor) in main, maps=maps
    )
    return reinsert_tensors(serialized(proto), contents)


def model_skeleton(
    model: ir.Model,
    update_marks: Callable[[onnx.ModelProto], None],
    is_left_out: Callable[[ir.TensorProtocol], bool],
    *,
    maps: bool,
) -> tuple[onnx.ModelProto, list[ir.TensorProtocol]]:
    """Return the model's message with references in place of some initializers, and their tensors."""
    copy, contents = model.clone(), list[ir.TensorProtocol]()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            notes = dict(tensor.metadata_props)
            if SPARSE_BYTES not in notes and is_left_out(tensor):
                value.const_value = Reference(len(contents), tensor)
                contents.append(tensor)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), name=tensor.name, metadata_props=notes)
    list_mandatory(copy)
    proto = ir.to_proto(copy)
    update_marks(proto)
    if maps:
        put_back(proto, tail_of(model))
    _leave_out_repetition(proto)
    return proto, contents


def serialized(proto: onnx.ModelProto) -> bytes:
    """Return the bytes of a message.

    Raises:
        OutputError: it is larger than a protobuf can be.
    """
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (ValueError, google.protobuf.message.EncodeError) as error:
        raise OutputError(f"the model cannot be serialised ({first_line(error)})") from error
    return data


def _leave_out_repetition(proto: onnx.ModelProto) -> None:
    """Remove shapes that initializers imply, and the name of the default operator set."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    for index in reversed(range(len(proto.graph.value_info))):
        info = proto.graph.value_info[index]
        if info.name in stored and not info.metadata_props and not info.doc_string:
            del proto.graph.value_info[index]
    for entry in proto.opset_import:
        if not entry.domain:
            entry.ClearField("domain")


def _refers_outside(proto: onnx.ModelProto, file: Path) -> bool:
    """Return whether weights of the main graph or a subgraph are in external files."""
    return any(
        entry.key == "location" and entry.value != file.name
        for graph in all_graphs(proto)
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
    )


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers, dense."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def _tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return [value.const_value for value in values if value.const_value is not None]
