"""The checker and the shape inference of ``onnx``, run in the worker process: C++ code may crash or hang."""

from __future__ import annotations

from typing import Any

import onnx

from onnx_admm.errors import ModelError
from onnx_admm.model.files.protobuf_wire import make_external
from onnx_admm.worker import TaskFailed, WorkerEnded, run_task

_LARGE_BYTES = 1 << 16
"""Size above which constants are data, and no part of a shape computation."""

_TASKS = "onnx_admm.model.loading.native_checks"


def refusal(proto: onnx.ModelProto, *, full: bool, where: str) -> str | None:
    """Return why the checker refuses a model; None where it does not.

    Args:
        proto: the model; external contents are not read.
        full: with shape inference.
        where: name of the model in errors.

    Raises:
        LimitReached: it takes too much time or memory.
    """
    try:
        why, _ = _run("check", proto, where, full=full)
    except ModelError as error:
        return error.what
    return None if why is None else str(why)


def shape_refusal(proto: onnx.ModelProto, where: str) -> str | None:
    """Return the contradiction that strict shape inference finds; None where there is none.

    Raises:
        LimitReached: it takes too much time or memory.
        ModelError: it crashes on this model.
    """
    why, _ = _run("infer", proto, where, strict=True, give=False)
    return None if why is None else str(why)


def inferred_shapes(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return the model with inferred shapes; None where inference gives up.

    Raises:
        LimitReached: it takes too much time or memory.
    """
    try:
        why, content = _run("infer", proto, "the model", strict=False, give=True)
    except ModelError:
        return None
    return onnx.ModelProto.FromString(content) if why is None else None


def _run(task: str, proto: onnx.ModelProto, where: str, **arguments: Any) -> tuple[Any, bytes]:
    doing = "the onnx checker" if task == "check" else "shape inference"
    try:
        content = _without_weights(proto) if task == "infer" else proto.SerializeToString()
        return run_task(f"{_TASKS}:{task}", arguments, content)
    except TaskFailed as error:
        return str(error), b""
    except WorkerEnded as error:
        reached = error.as_limit(f"{where}: {doing} on this model")
        if reached is not None:
            raise reached from error
        raise ModelError(
            f"{doing} {error.how} on this model",
            where=where,
            hint="The file is damaged, or made to crash the programs that read it.",
        ) from error


def _without_weights(proto: onnx.ModelProto) -> bytes:
    """Return the serialised model, with external references in place of large contents."""
    taken: list[tuple[onnx.TensorProto, bytes]] = []
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > _LARGE_BYTES:
            taken.append((tensor, tensor.raw_data))
            make_external(tensor, "elsewhere", 0, len(tensor.raw_data))
    try:
        content: bytes = proto.SerializeToString()
    finally:
        for tensor, raw in taken:
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            tensor.raw_data = raw
    return content
