"""Training artifacts: the gradient graph and optimizer that onnxruntime-training builds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx_admm.contracts import Array
from onnx_admm.errors import NoGradient
from onnx_admm.local_files.named_arrays import write_npz
from onnx_admm.model.rewrite.training_graph import MAX_IR, TrainingForm
from onnx_admm.runtime.sessions import require_training
from onnx_admm.training import building
from onnx_admm.training.bindings import TrainingSession
from onnx_admm.worker import TaskFailed, TaskLimits, WorkerEnded, run_task

_NO_GRADIENT = (
    re.compile(r"gradient builder has not been registered: (\S+) for node (\S*)"),
    re.compile(r"implementation for (\w+)Grad\(\d+\) node with name '(.*?)_Grad/"),
)
_TASK = f"{building.__name__}:build"
_LIMITS = TaskLimits(memory_bytes=1 << 50, seconds=3600.0)
"""Limits of the worker: training needs as much in this process afterwards; stated limits apply too."""

_HINT = "Use --no-fine-tune, or leave out the layers before that node (`exclude` in a recipe)."


@dataclass(frozen=True)
class Request:
    """The input of a build of artifacts.

    Attributes:
        form: the training graph.
        weight_decay: AdamW's.
        max_norm: norm that gradients are scaled down to; None: they are not.
        threads: intra-op threads.
        feeds: feeds of one step, by input name: the artifacts are tried with them.
    """

    form: TrainingForm
    weight_decay: float
    max_norm: float | None
    threads: int
    feeds: Mapping[str, Array]


def build_artifacts(request: Request, folder: Path) -> TrainingSession:
    """Build the artifacts in the worker process, try a step there, and open them in this one.

    Raises:
        RuntimeMissing: the installed runtime cannot train.
        LimitReached: it takes more time or memory than the run may.
        NoGradient: an operator has no gradient, the graph cannot be built, or the training runtime ended its
            process.
    """
    require_training()
    (folder / building.FORM).write_bytes(request.form.proto)
    settings = {
        "trained": request.form.trained,
        "steered": request.form.steered,
        "weight_decay": request.weight_decay,
        "max_norm": request.max_norm,
        "threads": request.threads,
        "max_ir": MAX_IR,
    }
    (folder / building.REQUEST).write_text(json.dumps(settings), encoding="utf-8")
    write_npz(folder / building.FIRST, request.feeds)
    doing = "building gradients"
    try:
        message, _ = run_task(_TASK, {"folder": str(folder)}, limits=_LIMITS)
    except TaskFailed as error:
        raise explained(str(error)) from error
    except WorkerEnded as error:
        reached = error.as_limit(doing)
        if reached is not None:
            raise reached from error
        what = f"the training runtime {error.how} when it built the gradients"
        raise NoGradient(what, hint="Use --no-fine-tune.") from error
    if message is not None:
        raise explained(str(message))
    return TrainingSession(folder, request.threads)


def explained(message: str) -> NoGradient:
    """Return the message of the training runtime as an error."""
    missing = next((found for pattern in _NO_GRADIENT if (found := pattern.search(message))), None)
    if missing is None:
        message = " ".join(message.split())[-300:]
        return NoGradient("the training runtime cannot build gradients", got=message, hint=_HINT)
    operator, node = missing.groups()
    return NoGradient(
        f"the training runtime has no gradient for {operator}", where=f"node {node}", hint=_HINT
    )
