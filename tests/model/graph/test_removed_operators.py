"""Operators that ONNX gave up compute the same in their newer form."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.opsets.removed_operators import write_out_removed
from onnx_admm.runtime.sessions import open_session

NODES = {
    "ImageScaler": "y = ImageScaler <scale = 0.5, bias = [1.0, -2.0, 0.25]> (x)",
    "Affine": "y = Affine <alpha = 2.0, beta = -1.5> (x)",
    "Crop": "y = Crop <border = [1, 2, 0, 1]> (x)",
    "Crop to a size": "y = Crop <border = [1, 2, 0, 0], scale = [3, 4]> (x)",
    "between others": "a = Relu (x) b = Affine <alpha = 2.0, beta = -1.5> (a) y = Relu (b)",
}


@pytest.mark.parametrize("name", list(NODES))
def test_outputs_stay(name: str) -> None:
    model = parse_text(f"""<ir_version: 3, opset_import: ["" : 7]>
        g (float[N,3,6,7] x) => (float[N,3,H,W] y) {{ {NODES[name]} }}""")
    written = ModelView(model.fork().graph_ir)
    write_out_removed(written.graph_ir.graph, written.opset)
    operators = {node.op_type for node in written.nodes()}
    assert operators <= {"Mul", "Add", "Slice", "Relu"}
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 6, 7)).astype(np.float32)}
    before, after = (open_session(one, threads=1).run(feeds)["y"] for one in (model, written))
    assert before.shape == after.shape
    assert np.allclose(before, after, atol=1e-6)
