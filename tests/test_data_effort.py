"""How many samples a measurement can afford, by counted multiply-accumulates."""

from __future__ import annotations

import numpy as np
from conftest import CONV_NET, TWO_GEMMS

from onnx_admm.data import affordable, from_arrays, macs_per_sample
from onnx_admm.model.text import parse_text


def images(count: int, *shape: int) -> np.ndarray:
    return np.zeros((count, *shape), np.float32)


def test_macs_are_those_of_one_sample() -> None:
    gemms = from_arrays({"x": images(5, 16)})
    assert macs_per_sample(parse_text(TWO_GEMMS), gemms) == 16 * 32 + 32 * 4
    conv = from_arrays({"x": images(5, 1, 8, 8)})
    assert macs_per_sample(parse_text(CONV_NET), conv) == 64 * 4 * 9 + 16 * 6 * 36 + 24 * 3


def test_open_extents_are_those_of_the_samples() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,1,h,w] x) => (float[N,2,a,b] y) <float[2,1,3,3] k> { y = Conv (x, k) }""")
    assert macs_per_sample(model, from_arrays({"x": images(2, 1, 7, 5)})) == 5 * 3 * 2 * 9


def test_a_layer_whose_shapes_are_hidden_counts_at_every_pixel() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17, "strange" : 1]>
        g (float[N,1,8,6] x) => (float[N,2,a,b] y) <float[2,1,3,3] k>
        { s = strange.Warp (x) y = Conv (s, k) }""")
    assert macs_per_sample(model, from_arrays({"x": images(2, 1, 8, 6)})) == 18 * 48


def test_few_samples_of_what_is_dear() -> None:
    model, data = parse_text(TWO_GEMMS), from_arrays({"x": images(50, 16)})
    assert len(affordable(model, data, 640 * 10)) == 10
    assert len(affordable(model, data, 640, least=3)) == 3
    assert len(affordable(model, data, 1 << 40)) == 50
