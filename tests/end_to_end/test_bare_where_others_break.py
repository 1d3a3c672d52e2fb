"""Models that other quantisers make slower, or into files that do not load: the bare command on them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from onnx_admm.api import compress
from onnx_admm.contracts import ModelView
from onnx_admm.data import synthetic_dataset
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.sessions import open_session, optimised_model

POOLED = """<ir_version: 8, opset_import: ["" : 13]>
pooled (float[n, 3, 32, 32] x) => (float[n, 10] y)
<float[16, 3, 3, 3] w, float[16] b, float[128, 3600] v, float[128] c, float[10, 128] u, float[10] d>
{
    t = Conv(x, w, b)
    r = Relu(t)
    m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    f = Flatten(m)
    g = Gemm<transB = 1>(f, v, c)
    h = Relu(g)
    y = Gemm<transB = 1>(h, u, d)
}
"""
ATTENTION = """<ir_version: 4, opset_import: ["" : 9]>
attention (float[n, 12, 96] x) => (float[n, 12, 96] y)
<float[96, 96] q, float[96, 96] k, float[96, 96] v, float[96, 96] o, float[1] root = {9.8}>
{
    a = MatMul(x, q)
    b = MatMul(x, k)
    turned = Transpose<perm = [0, 2, 1]>(b)
    raw = MatMul(a, turned)
    scaled = Div(raw, root)
    shares = Softmax<axis = 2>(scaled)
    c = MatMul(x, v)
    mixed = MatMul(shares, c)
    out = MatMul(mixed, o)
    y = Add(x, out)
}
"""


def written(text: str, path: Path) -> Path:
    """The text model with weights of a trained one's scale, as a file."""
    model, rng = parse_text(text), np.random.default_rng(0)
    for site in model.sites():
        spread = 1.0 / np.sqrt(site.size / site.shape[site.out_axis or 0])
        model.replace(site, (rng.normal(size=site.shape) * spread).astype(np.float32))
    model.save(path)
    return path


def distance(source: Path, out: Path) -> float:
    """Of the outputs on synthetic inputs never seen, relative and squared."""
    feeds = next(synthetic_dataset(ModelView.load(source), 32, 99).batches(32)).feeds
    before, after = (open_session(path, threads=1).run(feeds)["y"] for path in (source, out))
    return float(np.square(after - before).sum() / np.square(before).sum())


def operators_at_run_time(path: Path) -> Counter[str]:
    """Nodes that are left once the runtime has loaded the model."""
    optimised = onnx.load_from_string(optimised_model(ModelView.load(path).to_bytes()))
    return Counter(node.op_type for node in optimised.graph.node)


def test_a_dense_layer_behind_a_pooling_is_decoded_once_not_at_every_call(tmp_path: Path) -> None:
    source, out = written(POOLED, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    compress(source, out, threads=1)
    assert out.stat().st_size < source.stat().st_size / 3
    assert operators_at_run_time(out) == operators_at_run_time(source)
    assert distance(source, out) < 0.01


def test_an_attention_of_an_old_opset_loads_and_computes_the_same(tmp_path: Path) -> None:
    source, out = written(ATTENTION, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    compress(source, out, threads=1)
    assert out.stat().st_size < source.stat().st_size / 3
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert distance(source, out) < 0.01
