"""Models in memory as files: every function that takes a path takes them too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_ir as ir

from onnx_admm.errors import ModelError, UsageError

ModelLike: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
"""A path, the bytes of a model file, or a model in memory."""

ModelProto: TypeAlias = onnx.ModelProto

_NAME = "model.onnx"


def model_file(model: ModelLike, folder: Path, what: str = "the model") -> Path:
    """Return the path of a model; write one in memory into a folder first, without changing it.

    Args:
        model: a path, a serialised ModelProto, an ``onnx.ModelProto`` or an ``onnx_ir.Model``.
        folder: folder for a model in memory.
        what: its name in errors.

    Raises:
        UsageError: a value of another type.
        ModelError: a model that cannot be serialised, for instance one over 2 GB.
    """
    match model:
        case str() | os.PathLike():
            return Path(model)
        case bytes():
            content = model
        case onnx.ModelProto():
            content = _serialised(model, what)
        case ir.Model():
            content = _serialised(ir.serde.serialize_model(model), what)
        case _:
            raise UsageError(
                f"{what} is of an unknown kind",
                got=type(model).__name__,
                expected="a path, bytes, onnx.ModelProto or onnx_ir.Model",
            )
    path = folder / _NAME
    path.write_bytes(content)
    return path


def read_proto(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read a written model, weights of its data file included."""
    return onnx.load(os.fspath(path))


def _serialised(proto: onnx.ModelProto, what: str) -> bytes:
    try:
        content: bytes = proto.SerializeToString()
    except Exception as error:  # protobuf's own kinds differ between its implementations
        raise ModelError(
            f"{what} cannot be serialised ({error})", hint="Save it to a file with external data."
        ) from error
    return content
