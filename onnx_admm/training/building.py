"""Builds the gradient graph: a task of the worker process.

The training runtime ends its process on some graphs, imports torch unless that is prevented, and configures
the root logger; the worker process isolates the caller from all of that.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx_admm.local_files.named_arrays import read_npz
from onnx_admm.model.rewrite.lower_ir_version import lower_ir_version
from onnx_admm.model.rewrite.training_graph import parse_form
from onnx_admm.runtime.sessions import require_training
from onnx_admm.training.bindings import TrainingSession

FORM, REQUEST, FIRST = "form.onnx", "request.json", "first.npz"
"""Names of the files that the two processes exchange."""

MODELS = ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx")


def build(arguments: Mapping[str, Any], content: bytes) -> tuple[str | None, bytes]:
    """Write the artifacts, open them, and make one step with the first feeds.

    Args:
        arguments: ``folder``, the path of the folder of the files above.
        content: none.

    Returns:
        The error of the training runtime, None where there is none; no bytes.
    """
    try:
        _build(Path(arguments["folder"]))
    except Exception as error:  # noqa: BLE001 (the other process makes a sentence of it)
        return str(error), b""
    return None, b""


def _build(folder: Path) -> None:
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    artifacts, onnxblock = training_package()
    clipping = onnxblock.optim.ClipGradNorm(request["max_norm"]) if request["max_norm"] else None
    artifacts.generate_artifacts(
        parse_form((folder / FORM).read_bytes()),
        requires_grad=request["trained"],
        frozen_params=request["steered"],
        optimizer=onnxblock.optim.AdamW(clip_grad=clipping, weight_decay=request["weight_decay"]),
        artifact_directory=str(folder),
    )
    for name in MODELS:
        file = folder / name
        file.write_bytes(lower_ir_version(str(file), request["max_ir"]))
    TrainingSession(folder, request["threads"]).add_gradients(read_npz(folder / FIRST))


def training_package() -> tuple[Any, Any]:
    """Return ``onnxruntime.training``'s ``artifacts`` and ``onnxblock``, imported without torch.

    The package's ``__init__`` imports torch; a substitute package module with the same path lets its
    submodules load alone. It stays in ``sys.modules``, so only a program that owns its process may call this.
    """
    runtime, name = require_training(), "onnxruntime.training"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(str(runtime.__file__)).parent / "training")]
        package.__spec__ = importlib.util.spec_from_loader(name, loader=None, is_package=True)
        sys.modules[name] = package
    from onnxruntime.training import artifacts, onnxblock

    return artifacts, onnxblock
