"""What is measured decides once: the same run on the same machine makes the same choice, busy or not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime import timing_cache
from onnx_admm.runtime.latency import Latency

NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,64] x) => (float[N,48] y) { y = MatMul (x, w) }"""


def model() -> ModelView:
    codes = np.random.default_rng(0).integers(-7, 8, (64, 48))
    return parse_text(NET, constants={"w": (codes * 0.25).astype(np.float32)})


def encoded() -> tuple[bytes, str]:
    view = model()
    (first, *_) = Encode().run(view, PassContext(reference=view.fork())).figures["trials"]
    return view.to_bytes(), first["verdict"]


def test_a_form_is_timed_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timing_cache, "_MEMORY", {})
    ratios = iter([1.0])
    module = importlib.import_module("onnx_admm.passes.encode")

    def timed(*_: object, **__: object) -> Latency:
        return Latency(1.0, 1.0, next(ratios), 1.0, 1.0)

    monkeypatch.setattr(module, "compare_latency", timed)
    first = encoded()
    assert first[1] == "taken"
    monkeypatch.setattr(timing_cache, "_MEMORY", {})  # another process reads the file
    assert encoded() == first
    assert timing_cache.cache_file(1).is_file()


def test_the_report_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timing_cache, "_MEMORY", {})
    view = model()
    trials = Encode().run(view, PassContext(reference=view.fork())).figures["trials"]
    assert trials[0]["timing_cache"] == timing_cache.cache_file(1).name


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the folder is the system's there")
@pytest.mark.parametrize("stated", [None, "", "relative/cache"])
def test_the_cache_lies_in_the_users_home(
    stated: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if stated is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", stated)
    assert timing_cache.cache_folder() == tmp_path / ".cache" / "onnx-admm"


def test_without_a_home_times_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", none)
    monkeypatch.setattr(timing_cache, "_MEMORY", {})
    asked: list[float] = []

    def measure() -> float:
        asked.append(1.5)
        return 1.5

    assert timing_cache.form_ratio("a", "b", 1, measure) == 1.5
    monkeypatch.setattr(timing_cache, "_MEMORY", {})
    assert timing_cache.form_ratio("a", "b", 1, measure) == 1.5
    assert len(asked) == 2
