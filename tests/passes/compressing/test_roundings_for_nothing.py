"""Roundings that would save next to nothing are not worth an error."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.contracts import PassContext
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.auto_quantize import AutoQuantize


@pytest.mark.parametrize(("width", "columns", "changed"), [(1024, 1, False), (64, 64, True)])
def test_a_small_head_behind_encoded_weights_stays(width: int, columns: int, changed: bool) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,{width}] x) => (float[N,{columns}] y)
    <float scale = {{0.01}}>
    {{ u = Cast <to = 1> (codes) w = Mul (u, scale) a = MatMul (x, w) r = Relu (a) y = MatMul (r, head) }}"""
    rng = np.random.default_rng(0)
    constants = {
        "codes": rng.integers(-127, 128, size=(width, width)).astype(np.int8),
        "head": rng.normal(size=(width, columns)).astype(np.float32),
    }
    model = parse_text(text, constants=constants)
    report = AutoQuantize().run(model, PassContext(reference=model.fork()))
    assert report.changed is changed
    reasons = [skip.why for skip in report.skipped if skip.layer == "head"]
    assert changed or ["not worth an error" in why for why in reasons] == [True]
