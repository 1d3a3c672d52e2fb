"""First runs of models: tasks of the worker process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_admm.contracts import Feeds
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.local_files.named_arrays import read_npz
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.sessions import Session, open_session

Verdict = dict[str, str | bool | None]

_LEAST_FINITE = 0.05
"""Share of an output's values that must be finite: a mask of -inf leaves more, an overflow hardly any."""

_open: dict[str, Session] = {}


def run(arguments: Mapping[str, Any], content: bytes) -> tuple[Verdict, bytes]:
    """Run a model file on the samples of an ``.npz`` file; keep the session for the next samples.

    The first sample is run alone, and all of them together, since a model that runs with one may fail with a
    batch.

    Args:
        arguments: ``model`` and ``feeds``, paths.
        content: none.

    Returns:
        ``why`` it does not run, None where it does; what is ``not_finite`` in its outputs, None where all is;
        whether an output is ``useless``, with hardly a finite value; where it does not run, whether a sample
        ``alone`` does. No bytes.
    """
    model, runs = arguments["model"], list[Feeds]()
    try:
        if model not in _open:
            _open.clear()
            _open[model] = open_session(model, threads=1)
        feeds = read_npz(arguments["feeds"])
        alone = {name: array[:1] for name, array in feeds.items()}
        for each in (alone, feeds):
            runs += [run.outputs for run in run_samples(_open[model], each)]
    except OnnxAdmmError as error:
        return {"why": " ".join(str(error).split()), "alone": bool(runs)}, b""
    not_finite, useless = _finiteness(runs)
    return {"why": None, "not_finite": not_finite, "useless": useless}, b""


def _finiteness(runs: Sequence[Feeds]) -> tuple[str | None, bool]:
    """Return what is not finite, in words, and whether that is most of an output; None where all is."""
    found = None
    for name in dict.fromkeys(name for run in runs for name in run):
        arrays = [run[name] for run in runs if run[name].dtype.kind == "f"]
        count = sum(array.size for array in arrays)
        finite = sum(int(np.isfinite(array).sum()) for array in arrays)
        if count and finite < _LEAST_FINITE * count:
            return f"output {name} has {finite} finite values of {count}", True
        if finite < count:
            found = found or f"output {name} has {count - finite} values of {count} that are not finite"
    return found, False


def forget(arguments: Mapping[str, Any], content: bytes) -> tuple[None, bytes]:
    """Close the kept session."""
    _open.clear()
    return None, b""
