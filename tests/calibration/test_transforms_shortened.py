"""Fixed transforms take fewer bits where the outputs do not show it, and stay as they are where they do."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.calibration import transforms
from onnx_admm.contracts import PassContext
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.auto_quantize import AutoQuantize

SPECTRUM = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 64] x) => (float[n, 16] y) { f = MatMul (x, basis) a = Abs (f) y = MatMul (a, w) }"""


def spectrum() -> ModelView:
    angle = 2 * np.pi * np.outer(np.arange(64), np.arange(1, 33)) / 64
    weight = np.random.default_rng(0).normal(0, 0.2, (32, 16)).astype(np.float32)
    return parse_text(SPECTRUM, constants={"basis": np.cos(angle).astype(np.float32), "w": weight})


def lines(model: ModelView) -> tuple[dict[str, str], dict[str, str]]:
    report = AutoQuantize(samples=8).run(model, PassContext(reference=model.fork()))
    return {edit.layer: edit.what for edit in report.edits}, {skip.layer: skip.why for skip in report.skipped}


def test_a_transform_takes_12_bits_where_the_outputs_keep_60_db() -> None:
    model, before = spectrum(), spectrum().read("basis")
    edits, skipped = lines(model)
    assert edits["basis"].startswith("4095 levels")
    assert "fixed transform" in edits["basis"]
    assert "basis" not in skipped
    error = np.linalg.norm(model.read("basis") - before) / np.linalg.norm(before)
    assert 0 < error < 1e-3


def test_it_stays_where_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "LEAST_DB", 150.0)
    model, before = spectrum(), spectrum().read("basis")
    edits, skipped = lines(model)
    assert "basis" not in edits
    assert "sinusoids" in skipped["basis"]
    assert np.array_equal(model.read("basis"), before)


def test_an_excluded_transform_stays() -> None:
    model, before = spectrum(), spectrum().read("basis")
    step = AutoQuantize(samples=8, exclude=("basis",))
    step.run(model, PassContext(reference=model.fork()))
    assert np.array_equal(model.read("basis"), before)
