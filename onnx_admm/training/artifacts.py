"""Training artifacts: the gradient graph and optimizer that onnxruntime-training builds from a form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx_admm.contracts import Array
from onnx_admm.errors import NoGradient
from onnx_admm.model.training_form import MAX_IR, TrainingForm
from onnx_admm.named_arrays import write_npz
from onnx_admm.runtime.child_process import KeptProcess, text_of
from onnx_admm.training import building
from onnx_admm.training.bindings import TrainingSession

_NO_GRADIENT = (
    re.compile(r"gradient builder has not been registered: (\S+) for node (\S*)"),
    re.compile(r"implementation for (\w+)Grad\(\d+\) node with name '(.*?)_Grad/"),
)
_BUILDER = KeptProcess(building.__name__)
_HINT = "Use --no-fine-tune, or leave out the layers before that node (`exclude` in a recipe)."


@dataclass(frozen=True)
class Request:
    """What artifacts are built for.

    Attributes:
        form: the training graph.
        weight_decay: AdamW's.
        threads: intra-op threads.
        feeds: of one step, by input name: the artifacts are tried with them.
    """

    form: TrainingForm
    weight_decay: float
    threads: int
    feeds: Mapping[str, Array]


def build_artifacts(request: Request, folder: Path) -> TrainingSession:
    """Build the artifacts in a process of their own, try a step there, and open them in this one.

    Raises:
        RuntimeMissing: the installed runtime cannot train.
        NoGradient: an operator has no gradient, the graph cannot be built, or the training runtime ended its
            process on it.
    """
    (folder / building.FORM).write_bytes(request.form.proto)
    settings = {
        "trained": request.form.trained,
        "steered": request.form.steered,
        "weight_decay": request.weight_decay,
        "threads": request.threads,
        "max_ir": MAX_IR,
    }
    (folder / building.REQUEST).write_text(json.dumps(settings), encoding="utf-8")
    write_npz(folder / building.FIRST, request.feeds)
    end = _BUILDER.do(str(folder))
    said = text_of(folder / building.ERROR)
    if said:
        raise explained(said)
    if end is not None:
        hint = "Use --no-fine-tune."
        raise NoGradient(f"the training runtime {end} when it built the gradients", hint=hint)
    return TrainingSession(folder, request.threads)


def explained(message: str) -> NoGradient:
    """The complaint of the training runtime as a sentence."""
    missing = next((found for pattern in _NO_GRADIENT if (found := pattern.search(message))), None)
    if missing is None:
        said = " ".join(message.split())[-300:]
        return NoGradient("the training runtime cannot build gradients", got=said, hint=_HINT)
    operator, node = missing.groups()
    return NoGradient(
        f"the training runtime has no gradient for {operator}", where=f"node {node}", hint=_HINT
    )
