"""What the rounding of a weight costs counts in the placement of integers."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.contracts import PassContext
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.quantize_activations import QuantizeActivations
from onnx_admm.quantization import run as run_module


def test_a_weight_that_two_layers_read_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies on no grid of 8 bits, so its rounding counts."""
    monkeypatch.setattr(run_module, "ratios_of", lambda base, forms, feeds, threads: [0.5 for _ in forms])
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,8] y)
        { a = MatMul (x, w) r = Relu (a) b = MatMul (r, w) s = Relu (b) y = MatMul (s, v) }"""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 0.15, (64, columns)).astype(np.float32) for name, columns in (("w", 64), ("v", 8))
    }
    model = parse_text(text, constants=weights)
    data = from_arrays({"x": rng.normal(size=(96, 64)).astype(np.float32)})
    first, rest = (data.select(np.arange(*ends)) for ends in ((0, 64), (64, 96)))
    context = PassContext(reference=model, train=first, validation=rest)
    report = QuantizeActivations().run(model.fork(), context)
    assert {edit.layer for edit in report.edits} == {"w", "v"}
