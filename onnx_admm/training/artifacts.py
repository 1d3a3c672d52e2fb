"""Training artifacts: the gradient graph and optimizer that onnxruntime-training builds from a form."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import tempfile
import types
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_admm.errors import TrainingError
from onnx_admm.model.runtime_limits import lower_ir_version
from onnx_admm.model.training_form import MAX_IR, TrainingForm, parse_form
from onnx_admm.runtime.sessions import require_training

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_GRADIENT = (
    re.compile(r"gradient builder has not been registered: (\S+) for node (\S*)"),
    re.compile(r"implementation for (\w+)Grad\(\d+\) node with name '(.*?)_Grad/"),
)


def training_modules() -> tuple[Any, Any, Any]:
    """``onnxruntime.training``'s ``artifacts``, ``api`` and ``onnxblock``, imported without torch.

    The package's ``__init__`` imports torch for features not used here; a stand-in package module with the
    same path lets its submodules load alone.

    Raises:
        RuntimeMissing: the installed runtime cannot train.
    """
    require_training()
    name = "onnxruntime.training"
    if name not in sys.modules:
        import onnxruntime

        package = types.ModuleType(name)
        package.__path__ = [str(Path(onnxruntime.__file__).parent / "training")]
        package.__spec__ = importlib.util.spec_from_loader(name, loader=None, is_package=True)
        sys.modules[name] = package
        onnxruntime.training = package
    from onnxruntime.training import api, artifacts, onnxblock

    return artifacts, api, onnxblock


def write_artifacts(form: TrainingForm, folder: Path, weight_decay: float) -> None:
    """Write ``training_model.onnx``, ``optimizer_model.onnx`` and ``checkpoint`` into an existing folder.

    Raises:
        TrainingError: an operator has no gradient, or the graph cannot be built.
    """
    artifacts, _, onnxblock = training_modules()
    with quiet():
        try:
            artifacts.generate_artifacts(
                parse_form(form),
                requires_grad=list(form.trained),
                frozen_params=list(form.steered),
                optimizer=onnxblock.optim.AdamW(weight_decay=weight_decay),
                artifact_directory=str(folder),
            )
        except Exception as error:  # the runtime's exceptions share no nearer base
            raise _explained(str(error)) from error
    for name in ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx"):
        file = folder / name
        file.write_bytes(lower_ir_version(str(file), MAX_IR))


def open_artifacts(folder: Path, threads: int) -> tuple[Any, Any, Any]:
    """Checkpoint state, module and optimizer of the artifacts in ``folder``.

    Raises:
        TrainingError: the runtime has no kernel for a gradient.
    """
    _, api, _ = training_modules()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    try:
        module = api.Module(str(folder / "training_model.onnx"), state, session_options=options)
    except RuntimeError as error:
        raise _explained(str(error)) from error
    return state, module, api.Optimizer(str(folder / "optimizer_model.onnx"), module)


def _explained(message: str) -> TrainingError:
    """The builder's complaint as a sentence."""
    missing = next((found for pattern in _NO_GRADIENT if (found := pattern.search(message))), None)
    hint = "Use --no-fine-tune, or leave out the layers before that node (`exclude` in a recipe)."
    if missing is None:
        said = " ".join(message.split())[-300:]
        return TrainingError("the training runtime cannot build gradients", got=said, hint=hint)
    operator, node = missing.groups()
    return TrainingError(
        f"the training runtime has no gradient for {operator}", where=f"node {node}", hint=hint
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Catch the hundreds of lines the builder writes to stderr's file descriptor and logs in Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            os.dup2(said.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)
        logging.disable(logging.NOTSET)
