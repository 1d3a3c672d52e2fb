"""Activations in 8 bits leave fixed transforms alone, whatever the latency."""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import Array, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.meet_latency import MeetLatency
from onnx_admm.passes.quantize_activations import QuantizeActivations


def fourier(length: int) -> Array:
    phases = 2 * np.pi * np.outer(np.arange(length // 4 + 1), np.arange(length)) / length
    rows = np.concatenate([np.cos(phases), np.sin(phases)]) * np.hanning(length)
    return rows[:, None].astype(np.float32)


def test_fixed_transforms_stay_float_unless_they_are_named() -> None:
    """A wave in 255 steps loses quiet sounds; an earlier pass may have rounded the transform."""
    view = parse_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        speech (float[N,1,1024] x) => (float[N,16,15] y) <float[16,66,1] w>
        { s = Conv <strides = [64]> (x, basis)  a = Relu (s)  c = Conv (a, w)  y = Sigmoid (c) }""",
        constants={"basis": fourier(128)},
    )
    waves = np.random.default_rng(0).normal(size=(64, 1, 1024)).astype(np.float32)
    given = PassContext(reference=view, train=from_arrays({"x": waves}))
    rounded = view.fork()
    rounded.replace("basis", np.round(view.read("basis") * 2000).astype(np.float32) / 2000)
    rounded.replace("w", np.random.default_rng(0).normal(0, 0.1, (16, 66, 1)).astype(np.float32))
    report = QuantizeActivations().run(rounded, given)
    assert not any(edit.layer == "basis" for edit in report.edits)
    assert any(skip.layer == "basis" and "fixed transform" in skip.why for skip in report.skipped)
    named = QuantizeActivations(include=("basis",), against="before").run(rounded, given)
    assert not any("fixed transform" in skip.why for skip in named.skipped)


def test_leaving_out_other_layers_names_no_transform() -> None:
    """Of a budget for latency: what is not excluded is not thereby named."""
    view = parse_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        speech (float[N,1,1024] x) => (float[N,16,15] y) <float[16,66,1] w>
        { s = Conv <strides = [64]> (x, basis)  a = Relu (s)  c = Conv (a, w)  y = Sigmoid (c) }""",
        constants={"basis": fourier(128)},
    )
    waves = np.random.default_rng(0).normal(size=(64, 1, 1024)).astype(np.float32)
    given = PassContext(reference=view, train=from_arrays({"x": waves}), bindings={"N": 1})
    report = MeetLatency(share=0.01, exclude=("w",), blocks=False).run(view.fork(), given)
    assert any(skip.layer == "basis" and "fixed transform" in skip.why for skip in report.skipped)
