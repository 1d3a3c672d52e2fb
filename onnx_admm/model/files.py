"""Model files: read with suspicion, write atomically."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from onnx_admm.errors import ModelError, OutputError
from onnx_admm.model.checker import check_input, check_output, check_shapes, first_line
from onnx_admm.model.default_inputs import list_mandatory, unlist_mandatory
from onnx_admm.model.file_tensor import FileTensor, is_large, leave_in_files
from onnx_admm.model.guards import all_graphs, check_storage, embed_attribute_tensors
from onnx_admm.model.sparse_storage import SPARSE_BYTES, densify_sparse, forget_marks, write_sparse
from onnx_admm.model.wire import Piece, Reference, lift, refer, reference_of, spliced

PROTOBUF_LIMIT = 2**31 - 1
"""No protobuf message is larger; larger models keep their weights in a file beside."""

_INLINE_LIMIT = 2_000_000_000
_EXTERNAL_THRESHOLD = 1024
_ALIGNMENT = 4096  # of large external tensors, so that pages can be mapped

_EXTERNAL = "onnx_admm.external_data"
"""Key in the graph's ``meta``: weights lay outside the model file, and are to lie there again."""


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Load, check and parse a model file; large weights stay in it, or beside it, until they are read.

    Raises:
        ModelError: missing, not ONNX, cut short, unsafe sizes or paths, refused by the checker.
    """
    file, where = Path(path).absolute(), os.fspath(path)
    proto = _read_skeleton(file, where)
    check_storage(proto, file, where)
    embed_attribute_tensors(proto, file.parent)
    check_input(proto, where)
    densify_sparse(proto, file.parent, where)
    check_shapes(proto, where)  # inference knows no shape of a sparse initializer
    model = _to_ir(proto, where)
    ir.external_data.set_base_dir(model.graph, file.parent)
    outside = (tensor for tensor in _tensors(model) if isinstance(tensor, ir.ExternalTensor))
    if any(Path(tensor.path) != file for tensor in outside):
        model.graph.meta[_EXTERNAL] = True
    leave_in_files(model)
    return model


def parse_model(data: bytes) -> ir.Model:
    """Parse a serialised ModelProto with every weight inside.

    Raises:
        ModelError: as ``load_model``, and external data.
    """
    where = "serialised model"
    proto = _parse(data, where)
    check_storage(proto, None, where)
    check_input(proto, where)
    densify_sparse(proto, None, where)
    return _to_ir(proto, where)


def serialize_model(model: ir.Model, *, sparse: bool = True) -> bytes:
    """Serialise with every weight inside.

    Args:
        model: the model.
        sparse: write what is stored sparse so; else dense, for readers that know no sparse tensors.

    Raises:
        OutputError: the model is larger than a protobuf can be.
    """
    if weight_bytes(model) > _INLINE_LIMIT:
        raise OutputError(
            "a model of over 2 GB cannot be held in one message", hint="Save it to a file instead."
        )
    pieces = _pieces(model, write_sparse if sparse else forget_marks)
    return b"".join(piece if isinstance(piece, bytes) else piece.tobytes() for piece in pieces)


def file_bytes(model: ir.Model) -> int:
    """Bytes that a file with every weight inside would have; no weight is read for it."""
    return sum(
        len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in _pieces(model, write_sparse)
    )


def skeleton_of(model: ir.Model) -> onnx.ModelProto:
    """The model as it would be written, with references in the place of large weights."""
    return _skeleton(model, write_sparse, is_large)[0]


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> int:
    """Write into a temporary folder beside ``path``, check what was written, then rename over ``path``.

    Weights lie in ``<name>.data`` beside the model where they did so before or exceed 2 GB. They are written
    one after the other: what is not in memory is never there as a whole.

    Returns:
        Bytes on disk, external data included.

    Raises:
        OutputError: the checker or the disk refuses; what was at ``path`` is still there.
    """
    where = os.fspath(path)
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise OutputError("cannot write over something that is not a plain file", where=where)
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        written = _write(model, temporary / target.name)
        check_output(_read_skeleton(temporary / target.name, where), where)
        _keep_readable(model, target.parent)
        for file in written:
            if (target.parent / file.name).exists():
                shutil.copymode(target.parent / file.name, file)
            os.replace(file, target.parent / file.name)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror or error})", where=where) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return sum((target.parent / file.name).stat().st_size for file in written)


# -- reading ---------------------------------------------------------------------------------


def _read_skeleton(file: Path, where: str) -> onnx.ModelProto:
    """The parsed file, its large initializers left where they are."""
    _check_readable(file, where)
    try:
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                content = lift(data, file.name)
            except ValueError:  # no model: the parser says so
                content = bytes(data)
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
    return proto


def _guess(data: bytes) -> str | None:
    """What a file that is no model may be instead."""
    if data.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer: run `git lfs pull` to fetch the model itself."
    start = data[:512]
    if start and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in start):
        return "It looks like text; an .onnx file is binary."
    return None


def _to_ir(proto: onnx.ModelProto, where: str) -> ir.Model:
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError) as error:
        raise ModelError(f"the graph cannot be built ({first_line(error)})", where=where) from error
    unlist_mandatory(model)
    return model


# -- writing ---------------------------------------------------------------------------------


def _write(model: ir.Model, file: Path) -> tuple[Path, ...]:
    """Write the model to ``file``; every file written, external data first."""
    data = file.with_name(f"{file.name}.data")
    if model.graph.meta.get(_EXTERNAL) or weight_bytes(model) > _INLINE_LIMIT:
        proto, contents = _skeleton(model, write_sparse, lambda tensor: tensor.nbytes >= _EXTERNAL_THRESHOLD)
        if contents:
            _write_pieces(data, _outside(proto, contents, data.name))
        _write_pieces(file, [_serialized(proto)])
    else:
        _write_pieces(file, _pieces(model, write_sparse))
    return (data, file) if data.exists() else (file,)


def _write_pieces(file: Path, pieces: Iterable[Piece]) -> None:
    with open(file, "wb") as stream:
        for piece in pieces:
            match piece:
                case bytes():
                    stream.write(piece)
                case FileTensor():
                    piece.tofile(stream)
                case _:
                    stream.write(piece.tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def _outside(proto: onnx.ModelProto, contents: Sequence[ir.TensorProtocol], location: str) -> Iterator[Piece]:
    """The content of a data file; the skeleton's references are turned into places in it."""
    position = 0
    for tensor in (tensor for graph in all_graphs(proto) for tensor in graph.initializer):
        number = reference_of(tensor)
        if number is None:
            continue
        content = contents[number]
        padding = -position % _ALIGNMENT if is_large(content) else 0
        refer(tensor, location, position + padding, content.nbytes)
        yield bytes(padding)
        yield content
        position += padding + content.nbytes


def _pieces(model: ir.Model, settle_marks: Callable[[onnx.ModelProto], None]) -> Iterator[Piece]:
    """The serialised model, large weights as tensors."""
    main = set(map(id, (value.const_value for value in model.graph.initializers.values())))
    proto, contents = _skeleton(model, settle_marks, lambda tensor: is_large(tensor) and id(tensor) in main)
    return spliced(_serialized(proto), contents)


def _skeleton(
    model: ir.Model,
    settle_marks: Callable[[onnx.ModelProto], None],
    is_left_out: Callable[[ir.TensorProtocol], bool],
) -> tuple[onnx.ModelProto, list[ir.TensorProtocol]]:
    """The model's message with references in the place of some initializers, and what they refer to."""
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
    settle_marks(proto)
    _leave_out_repetition(proto)
    return proto, contents


def _serialized(proto: onnx.ModelProto) -> bytes:
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (ValueError, google.protobuf.message.EncodeError) as error:
        raise OutputError(f"the model cannot be serialised ({first_line(error)})") from error
    return data


def _leave_out_repetition(proto: onnx.ModelProto) -> None:
    """Shapes that the initializers themselves tell, and the name of the operator set that has none."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    for index in reversed(range(len(proto.graph.value_info))):
        info = proto.graph.value_info[index]
        if info.name in stored and not info.metadata_props and not info.doc_string:
            del proto.graph.value_info[index]
    for entry in proto.opset_import:
        if not entry.domain:
            entry.ClearField("domain")


def _keep_readable(model: ir.Model, folder: Path) -> None:
    """Map external weights of ``folder`` into memory before a file they lie in is replaced."""
    for tensor in _tensors(model):
        match tensor:
            case FileTensor():
                pass  # holds its file open
            case ir.ExternalTensor() if Path(tensor.path).parent == folder:
                tensor.numpy()


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, dense."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def _tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return [value.const_value for value in values if value.const_value is not None]
