"""First runs of models: tasks of the worker process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx_admm.errors import OnnxAdmmError
from onnx_admm.named_arrays import read_npz
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.sessions import Session, open_session

_open: dict[str, Session] = {}


def run(arguments: Mapping[str, Any], content: bytes) -> tuple[str | None, bytes]:
    """Run a model file on the samples of an ``.npz`` file; the session is kept for the next samples.

    Args:
        arguments: ``model`` and ``feeds``, paths.
        content: none.

    Returns:
        Why it does not run, None where it does; no bytes.
    """
    model = arguments["model"]
    try:
        if model not in _open:
            _open.clear()
            _open[model] = open_session(model, threads=1)
        for _ in run_samples(_open[model], read_npz(arguments["feeds"])):
            pass
    except OnnxAdmmError as error:
        return " ".join(str(error).split()), b""
    return None, b""


def forget(arguments: Mapping[str, Any], content: bytes) -> tuple[None, bytes]:
    """Close the session that is kept."""
    _open.clear()
    return None, b""
