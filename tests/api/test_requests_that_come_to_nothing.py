"""A request that nothing can fulfil is refused or ends with exit code 3; it never passes in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import RunCommand

from onnx_admm.api import compress
from onnx_admm.data import from_arrays
from onnx_admm.errors import BudgetExceeded
from onnx_admm.model.analysis.text import parse_text

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,16] x)'
RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(64, 16)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of one layer, one without weights, and samples; the current folder."""
    weight = RNG.normal(size=(16, 8)).astype(np.float32)
    parse_text(f"{HEAD} => (float[N,8] y) {{ y = MatMul (x, w) }}", constants={"w": weight}).save(
        tmp_path / "layer.onnx"
    )
    parse_text(f"{HEAD} => (float[N,16] y) {{ y = Tanh (x) }}").save(tmp_path / "plain.onnx")
    np.savez(tmp_path / "d.npz", x=SAMPLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--bits 4 --fine-tune", "--fine-tune: training needs samples. Give --data."),
        ("--bits 4 --epochs 3", "--epochs: training needs samples. Give --data."),
        ("--data d.npz --fine-tune", "--fine-tune: nothing here trains."),
        ("--data d.npz --epochs 3", "--epochs: nothing here trains."),
    ],
)
def test_training_that_would_not_happen_is_refused(
    run: RunCommand, folder: Path, flags: str, sentence: str
) -> None:
    code, _, err = run("compress", "layer.onnx", "out.onnx", *flags.split())
    assert code == 2
    assert sentence in err
    assert not (folder / "out.onnx").exists()


def test_channels_that_cannot_go_miss_the_promise(run: RunCommand, folder: Path) -> None:
    code, _, err = run("compress", "layer.onnx", "out.onnx", "--remove", "0.6x", "--data", "d.npz")
    assert code == 3
    assert "not reachable: no channel can be removed" in err
    assert not (folder / "out.onnx").exists()


@pytest.mark.slow
def test_a_budget_that_no_weight_can_meet_misses_the_promise(folder: Path) -> None:
    with pytest.raises(BudgetExceeded, match=r"not reachable: the (model|fastest)"):
        compress(
            "plain.onnx", "out.onnx", budget=["latency=0.5x"], data=from_arrays({"x": SAMPLES}), threads=1
        )
    assert not (folder / "out.onnx").exists()


def test_a_sweep_that_is_refused_leaves_no_folder(run: RunCommand, folder: Path) -> None:
    code, _, err = run("sweep", "plain.onnx", "--out", "results", "--cost-model", "storage")
    assert code in (2, 3), err
    assert not (folder / "results").exists()


def test_a_sweep_takes_a_target_in_place_of_a_cost_model(run: RunCommand, folder: Path) -> None:
    code, _, err = run("sweep", "layer.onnx", "--out", "results")
    assert code == 2
    assert "a sweep needs a cost model" in err
    code, _, err = run("sweep", "layer.onnx", "--out", "results", "--target", "arm64", "--quantity", "size")
    assert code == 2
    assert "the cost model 'onnxruntime' does not give that quantity" in err
