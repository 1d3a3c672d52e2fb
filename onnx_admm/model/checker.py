"""The ONNX checker, with its findings as this project's errors and its chatter kept off the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache

import onnx

from onnx_admm.errors import ModelError, OutputError, UnsupportedModel
from onnx_admm.model.guards import all_nodes

_REFUSALS = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)


def check_input(proto: onnx.ModelProto, source: str | bytes, where: str) -> None:
    """Check a model that came from outside.

    Args:
        proto: the parsed model, to name the node at fault.
        source: path of the file (the only way where weights lie outside it), or its bytes.
        where: how errors name the model.

    Raises:
        UnsupportedModel: an operator that no operator set of the default domain has.
        ModelError: anything else the checker refuses.
    """
    strangers = _unknown_nodes(proto)
    try:
        with _quiet_stdout(when=bool(strangers)):
            onnx.checker.check_model(source)
    except _REFUSALS as error:
        reason = first_line(error)
        for node in strangers:
            if node.op_type in reason:
                raise UnsupportedModel(
                    f"operator {node.op_type} is in no ONNX operator set (opset {_opset(proto)})",
                    where=f"{where}: node {node.name or (node.output[0] if node.output else '')}",
                    hint="Export the model with standard operators, or put this one in a domain of its own.",
                ) from error
        raise ModelError(f"not a valid ONNX model ({reason})", where=where) from error


def check_output(source: str | bytes, where: str) -> None:
    """Check a model that is about to be written, shape inference included.

    Raises:
        OutputError: the checker refuses it.
    """
    try:
        with _quiet_stdout(when=True):
            onnx.checker.check_model(source, full_check=True)
    except _REFUSALS as error:
        raise OutputError(f"the checker refuses the result ({first_line(error)})", where=where) from error


def first_line(error: Exception) -> str:
    """The first line of a message that may have many."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _unknown_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the default domain without a schema: unknown, or experimental and long removed."""
    opset = _opset(proto)
    own = {function.name for function in proto.functions if function.domain in ("", "ai.onnx")}
    return [
        node
        for node in all_nodes(proto)
        if node.domain in ("", "ai.onnx") and node.op_type not in own and not _has_schema(node.op_type, opset)
    ]


@cache
def _has_schema(op_type: str, opset: int) -> bool:
    return onnx.defs.has(op_type, opset, "")


def _opset(proto: onnx.ModelProto) -> int:
    versions = (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    return max(1, min(next(versions, 1), 2**31 - 1))


@contextlib.contextmanager
def _quiet_stdout(*, when: bool) -> Iterator[None]:
    """Keep C++ from writing to stdout, where a report in JSON may be going."""
    if not when:
        yield
        return
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # no stdout at all
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
