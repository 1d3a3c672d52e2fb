"""A request that no layer could fulfil says so, also where an exact rewrite changed the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnx_admm.api import compress
from onnx_admm.model.analysis.text import parse_text


def test_only_a_rewrite_is_told(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y)
    <float half = {0.5}, float one = {1.0}, float root = {1.4142135}>
    { a = Div (x, root) b = Erf (a) c = Add (b, one) d = Mul (x, c) y = Mul (d, half) }"""
    parse_text(text).save(tmp_path / "in.onnx")
    data = {"x": np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)}
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", data=data, prune="0.5", bits=4, keep=True)
    assert any("No layer was pruned or rounded" in note for note in report.notes)
    assert any("no weights" in note for note in report.notes)
