"""How many samples a measurement can afford, by counted multiply-accumulates."""

from __future__ import annotations

import numpy as np
from conftest import CONV_NET, TWO_GEMMS

from onnx_admm.data import cost_of_sample, from_arrays, limit_samples
from onnx_admm.model.analysis.text import parse_text


def images(count: int, *shape: int) -> np.ndarray:
    return np.zeros((count, *shape), np.float32)


TILE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 4, 4] x) => (float[a, b, c] y)
<int64[3] r = {REPEATS}> { y = Tile(x, r) }
"""


def test_macs_are_those_of_one_sample() -> None:
    gemms = from_arrays({"x": images(5, 16)})
    assert cost_of_sample(parse_text(TWO_GEMMS), gemms).macs == 16 * 32 + 32 * 4
    conv = from_arrays({"x": images(5, 1, 8, 8)})
    assert cost_of_sample(parse_text(CONV_NET), conv).macs == 64 * 4 * 9 + 16 * 6 * 36 + 24 * 3


def test_open_extents_are_those_of_the_samples() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,1,h,w] x) => (float[N,2,a,b] y) <float[2,1,3,3] k> { y = Conv (x, k) }""")
    assert cost_of_sample(model, from_arrays({"x": images(2, 1, 7, 5)})).macs == 5 * 3 * 2 * 9


def test_a_layer_whose_shapes_are_hidden_counts_at_every_pixel() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17, "strange" : 1]>
        g (float[N,1,8,6] x) => (float[N,2,a,b] y) <float[2,1,3,3] k>
        { s = strange.Warp (x) y = Conv (s, k) }""")
    assert cost_of_sample(model, from_arrays({"x": images(2, 1, 8, 6)})).macs == 18 * 48


def test_a_layer_whose_shapes_only_a_run_tells_counts_at_its_own_places() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,1,8,6] x) => (float[N,2,a,b] y) <float[2,1,3,3] k, int64[4] shape = {-1, 1, 4, 3}>
        {
            p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            largest = ReduceMax <keepdims = 0> (x) none = Sub (largest, largest)
            zero = Cast <to = 7> (none) hidden = Add (shape, zero)
            r = Reshape (p, hidden) y = Conv (r, k)
        }""")
    assert cost_of_sample(model, from_arrays({"x": images(2, 1, 8, 6)})).macs == 18 * 2 * 1


def test_few_samples_of_what_is_dear() -> None:
    model, data = parse_text(TWO_GEMMS), from_arrays({"x": images(50, 16)})
    assert len(limit_samples(model, data, 640 * 10)) == 10
    assert len(limit_samples(model, data, 640, least=3)) == 3
    assert len(limit_samples(model, data, 1 << 40)) == 50


def test_samples_with_large_outputs_are_few() -> None:
    """Sixteen samples of 62 MB each, compared in float64, took ten gigabytes."""
    tile = TILE.replace("REPEATS", "99, 99, 99")
    data = from_arrays({"x": np.ones((16, 4, 4), np.float32)})
    cost = cost_of_sample(parse_text(tile), data)
    assert cost.output_bytes == cost.value_bytes == 99 * 4 * 99 * 4 * 99 * 4
    assert len(limit_samples(parse_text(tile), data, 1 << 36)) == 2
    assert len(limit_samples(parse_text(TILE.replace("REPEATS", "1, 9, 9")), data, 1 << 36)) == 16
