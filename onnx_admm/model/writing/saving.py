"""Saves a model: its file and its external weights, moved in place by one rename."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from onnx_admm.errors import OutputError
from onnx_admm.model.files.file_tensor import FileTensor, is_large
from onnx_admm.model.files.guards import all_graphs
from onnx_admm.model.files.protobuf_wire import Piece, make_external, reference_of
from onnx_admm.model.files.sparse_tensors import write_sparse
from onnx_admm.model.loading.checker import check_output
from onnx_admm.model.loading.model_files import (
    EXTERNAL,
    INLINE_LIMIT,
    model_pieces,
    model_skeleton,
    read_skeleton,
    serialized,
    weight_bytes,
)
from onnx_admm.model.writing.atomic_output import OutputFile, prepare_output
from onnx_admm.model.writing.external_files import data_files_of_output, data_stem, same_file

_EXTERNAL_THRESHOLD = 1024
_ALIGNMENT = 4096  # of large external tensors, so that pages can be mapped


@dataclass(frozen=True)
class ModelFiles:
    """A written model: its file, the file that holds its external weights, and the bytes of both."""

    model: Path
    data: Path | None
    size: int

    def remove(self) -> None:
        """Remove both files."""
        for file in (self.model, self.data):
            if file is not None:
                file.unlink(missing_ok=True)


def save_model(model: ir.Model, path: str | os.PathLike[str], *, inputs: Collection[Path] = ()) -> int:
    """Write and check a model, then move it in place by one rename.

    Weights that were in an external file before, or exceed 2 GB, go to ``NAME.<8 hex digits>.data`` next to
    it; the digits are a digest of the content. Tensors are written one after the other: those that are in
    files are never in memory as a whole.

    Args:
        model: the model.
        path: target path; a link stays a link.
        inputs: files that must stay, by any name.

    Returns:
        Bytes on disk, external data included.

    Raises:
        OutputError: the checker or the disk refuses; an earlier file at ``path`` is unchanged.
        UsageError: another run writes the file, or the target is no regular file.
    """
    with prepare_output(path) as output:
        written = write_model(model, output, inputs)
        commit_model(output, written, inputs)
    return written.size


def write_model(model: ir.Model, output: OutputFile, inputs: Collection[Path] = ()) -> ModelFiles:
    """Write a model into the folder of an output, under its final names, and check it.

    Raises:
        OutputError: the checker or the disk refuses.
    """
    where = os.fspath(output.named)
    try:
        written = _write(model, output, inputs)
        check_output(read_skeleton(written.model, where), where)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror or error})", where=where) from error
    return written


def commit_model(output: OutputFile, written: ModelFiles, inputs: Collection[Path] = ()) -> None:
    """Move a written model in place, and remove a data file that only the earlier one used.

    Raises:
        OutputError: the disk refuses.
    """
    earlier = data_files_of_output(output.target)
    kept = None if written.data is None else written.data.name
    obsolete = tuple(file for file in earlier if file.name != kept and not same_file(file, inputs))
    output.commit(written.model, data=written.data, obsolete=obsolete)


# -- inside ----------------------------------------------------------------------------------


def _write(model: ir.Model, output: OutputFile, inputs: Collection[Path]) -> ModelFiles:
    """Write the model, and its external weights first where it has some."""
    file, data = output.folder / output.target.name, None
    if model.graph.meta.get(EXTERNAL) or weight_bytes(model) > INLINE_LIMIT:
        proto, contents = model_skeleton(
            model, write_sparse, lambda tensor: tensor.nbytes >= _EXTERNAL_THRESHOLD, maps=True
        )
        if contents:
            data = _write_data(proto, contents, output, inputs)
        _write_pieces(file, [serialized(proto)])
    else:
        _write_pieces(file, model_pieces(model, write_sparse, maps=True))
    size = sum(path.stat().st_size for path in (file, data) if path is not None)
    return ModelFiles(file, data, size)


def _write_data(
    proto: onnx.ModelProto,
    contents: Sequence[ir.TensorProtocol],
    output: OutputFile,
    inputs: Collection[Path],
) -> Path:
    """Write external weights, name the file by their digest, and refer to it in the skeleton."""
    if output.named.absolute().parent.resolve() != output.target.parent:
        raise OutputError(
            "the result is a link into another folder, and its weights need a file beside it",
            where=output.named,
            hint=f"Name the file itself: {output.target}.",
        )
    prepared = output.folder / "weights"
    places: list[tuple[onnx.TensorProto, int, int]] = []
    digest = _write_pieces(prepared, _outside(proto, contents, places))
    file = output.folder / _data_name(output, prepared, digest, inputs)
    os.replace(prepared, file)
    for tensor, offset, length in places:
        make_external(tensor, file.name, offset, length)
    return file


def _data_name(output: OutputFile, prepared: Path, digest: str, inputs: Collection[Path]) -> str:
    """Return an unused name next to the target, or the name of a file with the same content."""
    earlier = data_files_of_output(output.target)
    for start in range(0, len(digest) - 7):
        place = output.target.with_name(f"{data_stem(output.target)}.{digest[start : start + 8]}.data")
        if not os.path.lexists(place):
            return place.name
        is_earlier = same_file(place, earlier) and not same_file(place, inputs)
        if is_earlier and filecmp.cmp(place, prepared, shallow=False):
            return place.name
    raise OutputError("no name is left for the file of weights", where=output.named)


def _write_pieces(file: Path, pieces: Iterable[Piece]) -> str:
    """Write pieces of a file; return their hexadecimal SHA-256."""
    digest = hashlib.sha256()
    with open(file, "wb") as stream:
        sink = _Tee(stream, digest)
        for piece in pieces:
            match piece:
                case bytes():
                    sink.write(memoryview(piece))
                case FileTensor():
                    piece.tofile(sink)
                case _:
                    sink.write(memoryview(piece.tobytes()))
    return digest.hexdigest()


@dataclass(frozen=True)
class _Tee:
    """Writes to several sinks."""

    stream: BinaryIO
    digest: hashlib._Hash

    def write(self, data: memoryview, /) -> None:
        self.stream.write(data)
        self.digest.update(data)


def _outside(
    proto: onnx.ModelProto,
    contents: Sequence[ir.TensorProtocol],
    places: list[tuple[onnx.TensorProto, int, int]],
) -> Iterator[Piece]:
    """Yield the content of a data file, and record the place of each tensor: offset and length."""
    position = 0
    for tensor in (tensor for graph in all_graphs(proto) for tensor in graph.initializer):
        number = reference_of(tensor)
        if number is None:
            continue
        content = contents[number]
        padding = -position % _ALIGNMENT if is_large(content) else 0
        places.append((tensor, position + padding, content.nbytes))
        yield bytes(padding)
        yield content
        position += padding + content.nbytes
