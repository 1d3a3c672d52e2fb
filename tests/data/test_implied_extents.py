"""Extents that the first operators imply, and samples that stay small whatever is left open."""

from __future__ import annotations

import math

import hostile_models
import numpy as np
import onnx.parser
import pytest

from onnx_admm.data import synthetic_dataset
from onnx_admm.data.synthetic.implied_extents import with_implied_extents
from onnx_admm.data.synthetic.shapes import MOST_ELEMENTS, candidate_families
from onnx_admm.errors import LimitReached
from onnx_admm.limits import run_within
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def shapes_of(graph: str) -> list[tuple[int | str | None, ...] | None]:
    return [port.shape for port in with_implied_extents(parse_text(f"{HEAD} {graph}"))]


@pytest.mark.parametrize(
    ("graph", "shape"),
    [
        (
            "g (float[b,c,h,w] x) => (float[b,8,p,q] y) <float[8,3,3,3] k> { y = Conv (x, k) }",
            ("b", 3, "h", "w"),
        ),
        (
            "g (float[b,c,h,w] x) => (float[b,8,p,q] y) <float[8,2,3,3] k> { y = Conv <group = 4> (x, k) }",
            ("b", 8, "h", "w"),
        ),
        (
            "g (float[b,c,l] x) => (float[b,4,p] y) <float[6,4,3] k> { y = ConvTranspose (x, k) }",
            ("b", 6, "l"),
        ),
        ("g (float[b,t,f] x) => (float[b,t,16] y) <float[32,16] a> { y = MatMul (x, a) }", ("b", "t", 32)),
        ("g (float[b,s,t] x) => (float[b,16,t] y) <float[16,32] a> { y = MatMul (a, x) }", ("b", 32, "t")),
        ("g (float[b,f] x) => (float[b,16] y) <float[32,16] a> { y = Gemm (x, a) }", ("b", 32)),
        ("g (float[b,f] x) => (float[b,16] y) <float[16,32] a> { y = Gemm <transB = 1> (x, a) }", ("b", 32)),
        (
            "g (float[b,c,h,w] x) => (float[b,c,h,w] y) <float[5] s, float[5] o, float[5] m, float[5] v>"
            " { y = BatchNormalization (x, s, o, m, v) }",
            ("b", 5, "h", "w"),
        ),
        (
            "g (float[b,t,f] x) => (float[b,t,f] y) <float[7] s> { y = LayerNormalization (x, s) }",
            ("b", "t", 7),
        ),
        (
            "g (float[b,c,h,w] x) => (float[b,c,h,w] y) <float[9,1,1] s> { y = PRelu (x, s) }",
            ("b", 9, "h", "w"),
        ),
        ("g (float[b,t,f] x) => (float[b,t,f] y) <float[1,1,6] s> { y = Add (x, s) }", ("b", "t", 6)),
        (
            "g (float[t,b,f] x) => (float[t,1,b,4] y) <float[1,16,10] w, float[1,16,4] r>"
            " { y = LSTM <hidden_size = 4> (x, w, r) }",
            ("t", "b", 10),
        ),
        (
            "g (float[b,h,w,c] x) => (float[b,8,p,q] y) <float[8,3,3,3] k>"
            " { t = Transpose <perm = [0, 3, 1, 2]> (x)  r = Relu (t)  y = Conv (r, k) }",
            ("b", "h", "w", 3),
        ),
        (
            "g (float[b,c,h,w] x) => (float[b,10] y) <float[300,10] a> "
            "{ f = Flatten (x)  y = MatMul (f, a) }",
            ("b", "c", "h", "w"),
        ),
        (
            "g (float[b,3,h,w] x) => (float[b,10] y) <float[300,10] a> "
            "{ f = Flatten (x)  y = MatMul (f, a) }",
            ("b", 3, 10, 10),
        ),
        (
            "g (float[b,f] x) => (float[b,2,3,2] y) <int64[4] s = {-1, 2, 3, 2}> { y = Reshape (x, s) }",
            ("b", 12),
        ),
        (
            "g (float[t,f] x) => (float[t,1,1,4] y) <int64[1] one = {1}, float[1,16,10] w, float[1,16,4] r>"
            " { u = Unsqueeze (x, one)  y = LSTM <hidden_size = 4> (u, w, r) }",
            ("frames", 10),
        ),
        (
            "g (float[seq_len,f] x) => (float[b,4,p] y) <int64[1] zero = {0}, float[4,10,3] k>"
            " { t = Transpose <perm = [1, 0]> (x)  u = Unsqueeze (t, zero)  y = Conv (u, k) }",
            ("seq_len", 10),
        ),
        (
            "g (float[b,1,t,f] x) => (float[b,t,16] y) <int64[1] one = {1}, int64[1] end = {-1},"
            " int64[1] two = {2}, float[32,16] a>"
            " { s = Squeeze (x, one)  c = Slice (s, one, end, one)  y = MatMul (c, a) }",
            ("b", 1, "t", 32),
        ),
        (
            "g (float[b,n,4] x) => (float[b,10] y) <int64[2] s = {-1, 20}, float[20,10] a>"
            " { f = Reshape (x, s)  y = Gemm (f, a) }",
            ("b", 5, 4),
        ),
    ],
)
def test_extents_are_read_off_the_graph(graph: str, shape: tuple[int | str, ...]) -> None:
    assert shapes_of(graph) == [shape]


def test_a_symbol_holds_for_every_input_that_has_it() -> None:
    graph = """g (float[b,t,f] x, float[b,t,f] z) => (float[b,t,16] y) <float[32,16] a>
        { s = Add (x, z)  y = MatMul (x, a) }"""
    assert shapes_of(graph) == [("b", "t", 32), ("b", "t", 32)]


def test_the_open_convolution_gets_its_channels_and_the_size_of_an_image() -> None:
    model = ModelView.from_bytes(hostile_models.open_convolution().SerializeToString())
    with run_within():
        data = synthetic_dataset(model, 2, 0)
    feeds = next(data.batches(2)).feeds
    assert feeds["x"].shape == (2, 3, 224, 224)


@pytest.mark.parametrize("axes", [1, 2, 3, 5, 8])
def test_samples_of_open_axes_are_bounded(axes: int) -> None:
    names = ",".join("bcdefghij"[: axes + 1])
    view = parse_text(f"{HEAD} g (float[{names}] x) => (float[{names}] y) {{ y = Relu (x) }}")
    signature = view.signature()
    (candidates,) = candidate_families(signature.inputs, signature.outputs, {})
    assert len(candidates) >= 2
    assert max(math.prod(shape) for candidate in candidates for shape in candidate.shapes) <= MOST_ELEMENTS


def test_a_sample_that_the_model_fixes_too_large_is_a_sentence() -> None:
    text = f"{HEAD} g (float[1,40000,40000] x) => (float[1,40000,40000] y) {{ y = Relu (x) }}"
    view = ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString())
    with run_within(), pytest.raises(LimitReached, match=r"synthetic samples of x \[40000, 40000\] takes"):
        synthetic_dataset(view, 2, 0)


def test_large_samples_are_fewer() -> None:
    from onnx_admm.data import limit_samples

    view = parse_text(f"{HEAD} g (float[b,3,h,w] x) => (float[b,3,h,w] y) {{ y = Relu (x) }}")
    data = synthetic_dataset(view, 100, 0, sizes={"h": 1024, "w": 1024})
    assert len(limit_samples(view, data, 1 << 40)) == (64 << 20) // (3 << 22)
    assert np.isfinite(next(data.batches(1)).feeds["x"]).all()


def test_first_axes_that_count_no_samples_are_tried_last() -> None:
    """A graph's nodes and edges: as many as there are, in one sample."""
    text = f"{HEAD} g (float[nodes,9] x, int64[2,edges] links) => (float[nodes,9] y) {{ y = Relu (x) }}"
    signature = parse_text(text).signature()
    (candidates,) = candidate_families(signature.inputs, signature.outputs, {})
    assert candidates[0].shapes[0] == (1, 9)
    assert candidates[-1].shapes[0] != (1, 9)
    assert any(each.shapes == ((64, 9), (2, 64)) for each in candidates)
