"""No runtime, two of them, one that cannot train: each has its sentence."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from onnx_admm.errors import RuntimeMissing
from onnx_admm.runtime import installed
from onnx_admm.runtime.sessions import require_runtime, require_training, runtime_versions

VERSIONS = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0", "onnxruntime-training-cpu": "1.19.2"}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    installed.installed_runtimes.cache_clear()
    yield
    installed.installed_runtimes.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the metadata say that these distributions provide the package ``onnxruntime``."""
    owners = {"onnxruntime": list(names)} if names else {}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: VERSIONS.get(name) or real(name))


def test_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    for require in (require_runtime, require_training):
        with pytest.raises(RuntimeMissing) as caught:
            require()
        assert str(caught.value) == (
            'no ONNX Runtime found: pip install "onnx-admm[runtime]" (or, on Python 3.11-3.12 and for '
            '--trainer onnxruntime-training, "onnx-admm[training]")'
        )
        assert caught.value.exit_code == 2
    assert not any(name.startswith("onnxruntime") for name in runtime_versions())


def test_both_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "onnxruntime-training-cpu", "onnxruntime", "onnxruntime")
    with pytest.raises(RuntimeMissing) as caught:
        require_runtime()
    assert str(caught.value) == (
        "onnxruntime and onnxruntime-training-cpu are both installed and overwrite one another's files in "
        "onnxruntime/. Repair: pip uninstall -y onnxruntime onnxruntime-training-cpu, then install one of "
        '"onnx-admm[training]" and "onnx-admm[runtime]"'
    )


def test_builds_for_other_hardware_are_runtimes_that_cannot_train(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "onnxruntime-gpu")
    assert require_runtime().__name__ == "onnxruntime"
    with pytest.raises(RuntimeMissing, match=r"got onnxruntime-gpu 1.32.0 on Python .*onnx-admm\[training\]"):
        require_training()


def test_a_training_build_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "onnxruntime-training-cpu")
    assert require_training().__name__ == "onnxruntime"
    assert runtime_versions()["onnxruntime-training-cpu"] == "1.19.2"


def test_a_runtime_left_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(RuntimeMissing, match=r"does not import .*pip install --force-reinstall onnxruntime"):
        require_runtime()


def test_the_runtime_is_imported_only_when_it_is_needed() -> None:
    code = (
        "import sys, onnx_admm, onnx_admm.data, onnx_admm.runtime.sessions, onnx_admm.runtime.evaluation\n"
        "sys.exit('onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_versions_name_what_decides_the_figures() -> None:
    assert {"python", "onnx-admm", "onnx", "numpy"} <= runtime_versions().keys()
