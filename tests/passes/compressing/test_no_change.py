"""Passes that have nothing to do: they say so, and a run ends well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import running

from onnx_admm.api import compress
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.reconstruct_layers import ReconstructLayers

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,3] y)
    <float[4,6] w1, float[6] b1, float[6,3] w2, float[3] b2>
    { a = Gemm (x, w1, b1) r = Relu (a) y = Gemm (r, w2, b2) }"""

NO_EPOCHS = {"epochs": 0, "retrain_epochs": 0}
PRUNE = {"name": "admm_prune", "keep": 0.5, **NO_EPOCHS}
QUANTIZE = {"name": "admm_quantize", "bits": 4, "round_epochs": 0, **NO_EPOCHS}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model = parse_text(TEXT)
    rng = np.random.default_rng(0)
    for site in model.sites():
        model.replace(site, rng.normal(size=site.shape).astype(np.float32))
    model.save(tmp_path / "in.onnx")
    x = rng.normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, labels=rng.integers(0, 3, 40))
    return tmp_path


def steps(source: Path, target: str, *passes: dict[str, Any]) -> dict[str, bool]:
    recipe = Recipe.parse({"pass": list(passes)})
    report = compress(
        source, source.parent / target, data=source.parent / "d.npz", recipe=recipe, keep=True, threads=1
    )
    assert report.written
    return {step.name: step.changed for step in report.steps}


@pytest.mark.parametrize("step", [PRUNE, QUANTIZE])
def test_no_epochs_take_the_nearest_point_and_a_second_run_changes_nothing(
    place: Path, step: dict[str, Any]
) -> None:
    assert steps(place / "in.onnx", "once.onnx", step) == {step["name"]: True}
    assert steps(place / "once.onnx", "twice.onnx", step) == {step["name"]: False}
    assert (place / "once.onnx").read_bytes() == (place / "twice.onnx").read_bytes()


@pytest.mark.parametrize(
    "step",
    [
        {"name": "fine_tune", "epochs": 0},
        {"name": "fine_tune", "epochs": 1, "learning_rate": 1e-30, "end_rate": 1e-30},
        {**PRUNE, "keep": 1.0},
        {"name": "drop_dead_channels"},
        {"name": "share_scales"},
        {"name": "fold_batchnorm"},
    ],
)
def test_a_pass_with_nothing_to_do_leaves_the_file_as_it_was(place: Path, step: dict[str, Any]) -> None:
    assert steps(place / "in.onnx", "out.onnx", step) == {step["name"]: False}
    assert (place / "out.onnx").read_bytes() == (place / "in.onnx").read_bytes()


def test_flags_without_epochs_run_on_their_own_result(place: Path) -> None:
    settings: dict[str, Any] = {"data": place / "d.npz", "prune": "0.5", "bits": 4, "epochs": 0, "keep": True}
    first = compress(place / "in.onnx", place / "one.onnx", threads=1, **settings)
    again = compress(place / "one.onnx", place / "two.onnx", threads=1, **settings)
    assert any(step.changed for step in first.steps)
    assert again.written


def test_a_reconstruction_that_moves_biases_alone_has_changed_the_model(place: Path) -> None:
    """The weights lie on their levels already, and those of the layer before do not."""
    model = ModelView.load(place / "in.onnx")
    model.replace("w2", np.where(model.read("w2") < 0, -1, 1).astype(np.float32))
    samples = from_arrays({"x": np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)})
    context = PassContext(reference=model, train=samples)
    changed = model.fork()
    changed.replace("w1", changed.read("w1") * np.float32(1.5))
    before = changed.fork()
    step = ReconstructLayers(bits=1, include=("w2",), samples=32)
    for _ in range(2):
        report = step.run(changed, context)
        assert report.changed is not same_model(before, changed)
        before = changed.fork()


def test_levels_that_fit_exactly_leave_the_weights_and_may_move_the_bias(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2,4,4] x) => (float[N,3,4,4] y)
        <float[3,2,1,1] w = {2, 0, 0, 2, -1, -1}, float[3] b = {0, 0, 0}> { y = Conv (x, w, b) }"""
    parse_text(text).save(tmp_path / "in.onnx")
    x = np.random.default_rng(5).normal(size=(32, 2, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    assert steps(tmp_path / "in.onnx", "out.onnx", {"name": "reconstruct_layers", "bits": 1}) != {}


def test_a_recipe_without_passes_copies_the_model(place: Path) -> None:
    report = compress(place / "in.onnx", place / "out.onnx", **running())
    assert report.steps == ()
    assert (place / "out.onnx").read_bytes() == (place / "in.onnx").read_bytes()
