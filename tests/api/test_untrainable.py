"""Models that a trainer cannot train: rebuilt by default, refused where training is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunCommand
from training_models import needs_training_build

from onnx_admm.api import compress
from onnx_admm.config.recipe import Recipe
from onnx_admm.errors import NoGradient
from onnx_admm.model.analysis.text import parse_text

pytestmark = pytest.mark.slow

BRANCH = """total = ReduceSum <keepdims = 0> (x) c = Greater (total, zero)
    r = If (c) <then_branch = t () => (float[N,8] o1) { o1 = Relu (a) },
                else_branch = e () => (float[N,8] o2) { o2 = Identity (a) }>"""
LOOP = """r = Loop (one, yes, a) <body = b (int64 i, bool go, float[N,8] s) => (bool more, float[N,8] t)
    { more = Identity (go)  t = Neg (s) }>"""
SCAN = """t, r = Scan <num_scan_inputs = 1, body = b (float[8] s, float[8] v) => (float[8] u, float[8] w)
    { u = Add (s, v)  w = Relu (u) }> (start, a)"""
NO_KERNEL = "r = Selu (a)"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32))
    return tmp_path


def write(place: Path, nodes: str) -> Path:
    model = parse_text(f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,3] y)
        <float[4,8] w1, float[8,3] w2, float[8] start,
         float zero = {{0}}, bool yes = {{1}}, int64 one = {{1}}>
        {{ a = MatMul (x, w1) {nodes} y = MatMul (r, w2) }}""")
    rng = np.random.default_rng(0)
    for site in model.sites():
        model.replace(site, rng.normal(size=site.shape).astype(np.float32))
    model.save(place / "in.onnx")
    return place / "in.onnx"


OLD = "onnxruntime-training"
NO_RULE, NO_GRADIENT = (
    "node r: there is no gradient rule for {}",
    "node r: the training runtime has no gradient for {}",
)


@pytest.mark.parametrize(
    ("nodes", "trainer", "why"),
    [
        (BRANCH, "graph", NO_RULE.format("If")),
        (LOOP, "graph", NO_RULE.format("Loop")),
        (SCAN, "graph", "there is no gradient rule for Scan"),
        pytest.param(BRANCH, OLD, NO_GRADIENT.format("If"), marks=needs_training_build),
        pytest.param(LOOP, OLD, NO_GRADIENT.format("Loop"), marks=needs_training_build),
        pytest.param(SCAN, OLD, "Scan", marks=needs_training_build),
        pytest.param(NO_KERNEL, OLD, NO_GRADIENT.format("Selu"), marks=needs_training_build),
    ],
)
def test_what_cannot_be_trained_is_rebuilt_with_a_note(
    place: Path, nodes: str, trainer: str, why: str
) -> None:
    source = write(place, nodes)
    settings: dict[str, Any] = {
        "data": place / "d.npz",
        "prune": "0.5",
        "bits": 8,
        "keep": True,
        "threads": 1,
        "trainer": trainer,
    }
    report = compress(source, place / "out.onnx", **settings)
    assert report.written
    assert [step.name for step in report.steps if step.name.startswith(("admm", "reconstruct"))] == [
        "reconstruct_layers"
    ]
    assert "fine_tune = false" in report.recipe
    (note,) = (note for note in report.notes if note.startswith("Not fine-tuned: "))
    assert why in note
    without = compress(source, place / "other.onnx", **settings, fine_tune=False)
    assert not any(note.startswith("Not fine-tuned") for note in without.notes)
    assert (place / "out.onnx").read_bytes() == (place / "other.onnx").read_bytes()


def test_training_that_was_asked_for_is_refused(place: Path, run: RunCommand) -> None:
    source = write(place, BRANCH)
    asked = ["--data", place / "d.npz", "--prune", "0.5", "--epochs", "1", "--fine-tune", "--threads", "1"]
    code, _, err = run("compress", source, place / "out.onnx", *asked)
    assert code == 1
    assert NO_RULE.format("If") in err
    assert "--no-fine-tune" in err
    assert not (place / "out.onnx").exists()
    recipe = Recipe.parse({"pass": [{"name": "admm_prune", "keep": 0.5}]})
    with pytest.raises(NoGradient, match="no gradient rule for If"):
        compress(source, place / "out.onnx", data=place / "d.npz", recipe=recipe, threads=1)


def test_weights_that_no_training_reaches_are_rebuilt_too(place: Path) -> None:
    model = parse_text("""<ir_version: 8, opset_import: ["" : 17]> g (double[N,4] x) => (double[N,3] y)
        <double[4,3] w = {1, 2, 3, -4, 5, 6, 7, -8, 9, 10, 11, 12}> { y = MatMul (x, w) }""")
    model.save(place / "double.onnx")
    data = {"x": np.random.default_rng(1).normal(size=(40, 4)).astype(np.float64)}
    np.savez(place / "double.npz", **data)
    settings: dict[str, Any] = {"data": place / "double.npz", "prune": "0.5", "keep": True, "threads": 1}
    report = compress(place / "double.onnx", place / "out.onnx", **settings)
    assert any("only float32 weights can be fine-tuned" in note for note in report.notes)
