"""Tables of whole numbers take as few bytes in a result as the file format can do, and stay what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnx_admm.api import compress
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.sessions import open_session

SCATTER = """<ir_version: 8, opset_import: ["" : 17]>
g (float[40,50] x) => (float[40,50] y) { h = MatMul (x, w) y = ScatterND (h, places, x) }"""


def test_indices_of_eight_bytes_become_varints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(40), np.arange(50), indexing="ij"), axis=-1)[::-1].copy()
    weight = rng.normal(0, 0.1, (50, 50)).astype(np.float32)
    model = parse_text(SCATTER, constants={"w": weight, "places": places.astype(np.int64)})
    model.save(tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    assert report.comparison.after.file_bytes < places.size + weight.size + 1500
    read = ModelView.load(tmp_path / "out.onnx")
    feeds = {"x": rng.normal(size=(40, 50)).astype(np.float32)}
    expected, got = (open_session(each).run(feeds)["y"] for each in (model, read))
    np.testing.assert_allclose(got, expected, atol=0.1 * np.abs(expected).max())
