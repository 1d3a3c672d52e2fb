"""Weights that several nodes read, transposed or encoded, and weights that a Loop carries: found once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.api import compress
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text

TIED = """
<ir_version: 8, opset_import: ["" : 17]>
g (int64[n, 4] x) => (float[n, 4, 64] y)
<float[64, 32] table> {
    hidden = Gather(table, x)
    turned = Transpose<perm = [1, 0]>(table)
    y = MatMul(hidden, turned)
}
"""
HEAD_FIRST = """
<ir_version: 8, opset_import: ["" : 17]>
g (int64[n, 4] x, float[n, 32] h) => (float[n, 64] z, float[n, 4, 32] y)
<float[64, 32] table> {
    turned = Transpose<perm = [1, 0]>(table)
    z = MatMul(h, turned)
    y = Gather(table, x)
}
"""
LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 32] x) => (float[n, 32] y)
<int64 turns = {3}, bool go = {1}, float[32, 32] w> {
    y, last = Loop(turns, go, x, w) <body = b (int64 i, bool c, float[n, 32] h, float[32, 32] v) =>
        (bool c2, float[n, 32] h2, float[32, 32] v2)
        { c2 = Identity(c)  p = MatMul(h, v)  h2 = Tanh(p)  v2 = CARRIED(v) }>
}
"""
SCAN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[5, 32] x, float[32] h) => (float[5, 32] y)
<float[32, 32] w> {
    last, kept, y = Scan<num_scan_inputs = 1, body = b (float[32] s, float[32, 32] v, float[32] e) =>
        (float[32] s2, float[32, 32] v2, float[32] o)
        { p = MatMul(s, v)  q = Add(p, e)  s2 = Tanh(q)  o = Identity(s2)  v2 = Identity(v) }>(h, w, x)
}
"""


def with_weights(text: str) -> ModelView:
    view = parse_text(text)
    rng = np.random.default_rng(0)
    proto = onnx.ModelProto.FromString(view.to_bytes())
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = rng.normal(0, 0.2, tuple(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return ModelView.from_bytes(proto.SerializeToString())


@pytest.mark.parametrize("text", [TIED, HEAD_FIRST])
def test_a_tied_weight_is_one_before_and_after_encoding(text: str, tmp_path: Path) -> None:
    with_weights(text).save(tmp_path / "in.onnx")
    before = ModelView.load(tmp_path / "in.onnx").sites()
    assert [(site.name, site.size, len(site.users)) for site in before] == [("table", 2048, 2)]
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    after = ModelView.load(tmp_path / "out.onnx").sites()
    assert [(site.size, len(site.users), site.editable) for site in after] == [(2048, 2, False)]
    assert report.comparison.after.parameters == 2048


@pytest.mark.parametrize("text", [LOOP.replace("CARRIED", "Identity"), SCAN], ids=["Loop", "Scan"])
def test_a_weight_that_is_carried_unchanged_is_found(text: str, tmp_path: Path) -> None:
    view = with_weights(text)
    (site,) = view.sites()
    assert site.shape == (32, 32)
    assert site.name == f"{site.scope}/w"
    view.save(tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    assert report.comparison.quality[0].sqnr_db is not None
    assert report.comparison.quality[0].sqnr_db >= 20
    assert [layer.bits < 16 for layer in report.comparison.after.layers] == [True]


def test_a_state_that_changes_is_no_weight() -> None:
    assert with_weights(LOOP.replace("CARRIED", "Neg")).sites() == ()
