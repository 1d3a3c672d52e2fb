"""Model files: read with suspicion, write atomically."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from onnx_admm.errors import ModelError, OutputError


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Load, check and parse a model file."""
    file = Path(path).absolute()
    if not file.is_file():
        raise ModelError("no such model file", where=str(path))
    try:
        onnx.checker.check_model(str(file))
        return ir.load(file)
    except (google.protobuf.message.DecodeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"not a valid ONNX model ({_first_line(error)})", where=str(path)) from error


def parse_model(data: bytes) -> ir.Model:
    """Parse a serialised ModelProto."""
    try:
        return ir.from_proto(onnx.load_from_string(data))
    except google.protobuf.message.DecodeError as error:
        raise ModelError("not a serialised ONNX model") from error


def serialize_model(model: ir.Model) -> bytes:
    """Serialise with every weight inside."""
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> int:
    """Check, write to a temporary neighbour, then rename over ``path``."""
    target = Path(path).absolute()
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise OutputError(
            f"the checker refuses the result ({_first_line(error)})", where=str(path)
        ) from error
    handle, temporary = tempfile.mkstemp(prefix=target.name, suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(proto.SerializeToString())
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", where=str(path)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return target.stat().st_size


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
