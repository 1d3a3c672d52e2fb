"""A library call leaves the host's process as it was: logging, modules, descriptors, random state, ..."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize  # scipy adds filters for its own warnings when it is imported
import scipy.special  # noqa: F401

from onnx_admm.api import compare, compress, inspect_model
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime import installed
from onnx_admm.runtime.installed import require_runtime

pytestmark = pytest.mark.slow

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,3] p)
    <float[4,6] w1, float[6] b1, float[6,3] w2, float[3] b2>
    { a = Gemm (x, w1, b1) r = Relu (a) y = Gemm (r, w2, b2) p = Softmax (y) }"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model, rng = parse_text(TEXT), np.random.default_rng(0)
    for site in model.sites():
        model.replace(site, rng.normal(size=site.shape).astype(np.float32))
    model.save(tmp_path / "in.onnx")
    x = rng.normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, labels=rng.integers(0, 3, 40))
    return tmp_path


def trained(place: Path) -> None:
    settings: dict[str, Any] = {"prune": "0.5", "bits": 4, "epochs": 1, "keep": True}
    compress(place / "in.onnx", place / "out.onnx", data=place / "d.npz", threads=1, **settings)


def untrained(place: Path) -> None:
    settings: dict[str, Any] = {"budget": ("size=0.5x",), "cost_model": "storage", "fine_tune": False}
    compress(place / "in.onnx", place / "out.onnx", data=place / "d.npz", threads=1, keep=True, **settings)


def looked_at(place: Path) -> None:
    inspect_model(place / "in.onnx")
    compare(place / "in.onnx", place / "in.onnx", threads=1)


CALLS = pytest.mark.parametrize("call", [trained, untrained, looked_at])


def state() -> dict[str, object]:
    root = logging.getLogger()
    return {
        "level": root.level,
        "handlers": list(root.handlers),
        "disabled": logging.root.manager.disable,
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "numpy errors": np.geterr(),
        "numpy printing": np.get_printoptions(),
        "legacy random": np.random.get_state()[1].tolist(),  # type: ignore[union-attr, index]
        "random": random.getstate(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": list(sys.path),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        "recursion": sys.getrecursionlimit(),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.stdout, sys.stderr),
        "training": sorted(name for name in sys.modules if name.startswith("onnxruntime.training")),
        "threads": {thread.name for thread in threading.enumerate()},
    }


@CALLS
def test_the_process_is_as_it_was(call: Callable[[Path], None], place: Path) -> None:
    require_runtime()
    before = state()
    call(place)
    assert state() == before


@CALLS
def test_what_other_threads_write_arrives(
    call: Callable[[Path], None], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended, lines = threading.Event(), [0]

    def write() -> None:
        while not ended.is_set():
            os.write(1, b"out\n")
            os.write(2, b"err\n")
            lines[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        call(place)
    finally:
        ended.set()
        thread.join()
    out, err = capfd.readouterr()
    assert lines[0] > 0
    assert (out, err) == ("out\n" * lines[0], "err\n" * lines[0])


@CALLS
def test_no_descriptor_is_redirected(
    call: Callable[[Path], None], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redirected = list[tuple[int, ...]]()
    monkeypatch.setattr(os, "dup2", lambda *numbers, **_: redirected.append(numbers))
    call(place)
    assert redirected == []


def test_the_severity_of_the_runtimes_logger_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, set_to = require_runtime(), list[int]()
    monkeypatch.setattr(installed, "_quiet", False)  # a command may have run in this process before
    monkeypatch.setattr(runtime, "set_default_logger_severity", set_to.append)
    trained(place)
    assert set_to == []


HOST = """
import sys, types
import onnxruntime
from onnx_admm.api import compare, compress, inspect_model
stand_in = None
if {imported}:
    stand_in = types.ModuleType("onnxruntime.training")
    sys.modules["onnxruntime.training"] = onnxruntime.training = stand_in
before = set(sys.modules)
compress({source!r}, {target!r}, data={data!r}, prune="0.5", epochs=1, keep=True, threads=1)
assert sys.modules.get("onnxruntime.training") is stand_in
assert getattr(onnxruntime, "training", None) is stand_in
assert not [name for name in set(sys.modules) - before if name.startswith("onnxruntime.training")]
"""


@pytest.mark.parametrize("imported", [False, True])
def test_a_host_that_uses_the_training_package_itself(place: Path, imported: bool) -> None:
    files = {
        "source": str(place / "in.onnx"),
        "target": str(place / "out.onnx"),
        "data": str(place / "d.npz"),
    }
    done = subprocess.run(
        [sys.executable, "-c", HOST.format(imported=imported, **files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
