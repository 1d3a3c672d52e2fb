"""The deployment check itself: it must be able to fail."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from onnx_admm.model import ModelView
from onnx_admm.runtime.sessions import open_session

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)


@pytest.fixture(scope="module")
def check() -> ModuleType:
    script = Path(__file__).parents[1] / "deployment" / "check.py"
    spec = importlib.util.spec_from_file_location("check", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def keep(
    tiny_mlp: ModelView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., Path]:
    """Keep the tiny model with outputs the test changes, away from the folder that is really checked."""
    monkeypatch.setenv("ONNX_ADMM_E2E_OUT", str(tmp_path / "cases"))
    keep_for_deployment = request.getfixturevalue("keep_for_deployment")
    tiny_mlp.save(tmp_path / "model.onnx")
    scores = open_session(tiny_mlp).run({"x": X})["scores"]

    def keep_changed(change: Callable[[np.ndarray], dict[str, np.ndarray]], tolerance: float = 1e-4) -> Path:
        return keep_for_deployment(tmp_path / "model.onnx", {"x": X}, change(scores), tolerance)

    return keep_changed


@pytest.mark.parametrize("optimisation", ["on", "off"])
def test_equal_outputs_pass(check: ModuleType, keep: Callable[..., Path], optimisation: str) -> None:
    assert check.complaints(keep(lambda scores: {"scores": scores}), optimisation) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda scores: {"scores": scores + 1e-3 * np.abs(scores).max()}, "off by"),
        (lambda scores: {"scores": np.full_like(scores, np.nan)}, "off by"),
        (lambda scores: {"scores": scores[:2]}, "expected float32(2, 3)"),
        (lambda scores: {"scores": scores.astype(np.float64)}, "expected float64(3, 3)"),
        (lambda scores: {"logits": scores}, "no output logits"),
        (lambda scores: {}, "nothing is expected"),
    ],
)
def test_other_outputs_fail(
    check: ModuleType, keep: Callable[..., Path], change: Callable[[np.ndarray], dict], sentence: str
) -> None:
    found = check.complaints(keep(change), "on")
    assert len(found) == 1
    assert sentence in found[0]


def test_tolerance_is_the_cases_own(check: ModuleType, keep: Callable[..., Path]) -> None:
    case = keep(lambda scores: {"scores": scores + 1e-3 * np.abs(scores).max()}, tolerance=2e-3)
    assert check.complaints(case, "on") == []


def test_an_empty_folder_fails(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.importlib.metadata, "distributions", list)
    with pytest.raises(SystemExit, match="nothing was checked"):
        check.main(tmp_path)


def test_the_training_runtime_is_refused(
    check: ModuleType, keep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Training:
        name = "onnxruntime-training-cpu"

    monkeypatch.setattr(check.importlib.metadata, "distributions", lambda: [Training()])
    case = keep(lambda scores: {"scores": scores})
    with pytest.raises(SystemExit, match="the training runtime"):
        check.main(case.parent)


def test_a_failed_case_ends_in_a_sentence(
    check: ModuleType, keep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check.importlib.metadata, "distributions", list)
    check.main(keep(lambda scores: {"scores": scores}).parent)
    with pytest.raises(SystemExit, match="2 comparisons failed"):
        check.main(keep(lambda scores: {"scores": -scores}).parent)
