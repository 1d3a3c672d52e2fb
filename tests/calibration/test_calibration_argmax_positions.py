"""Rows are drawn by what a global maximum picks, and biases are found where they are added."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.calibration.argmax_positions import ArgmaxPositions, argmax_positions_behind
from onnx_admm.calibration.biases import bias_behind
from onnx_admm.calibration.layer_inputs import extractor_of
from onnx_admm.calibration.row_sampling import SampledRows
from onnx_admm.calibration.stream import calibrated_layer
from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.expose_values import weight_uses
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.runtime.sessions import open_session

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
TEXT_NET = """
g (float[n, 4, 40] x) => (float[n, 3] y)
<float[6, 4, 3] w, float[6, 3] v, float[1, 6, 1] b, float[3] c>
{
    t = Conv(x, w)
    s = Add(t, b)
    gate = Sigmoid(s)
    a = Mul(s, gate)
    m = GlobalMaxPool(a)
    f = Flatten(m)
    p = MatMul(f, v)
    y = Add(p, c)
}
"""


def view_of(text: str) -> ModelView:
    return parse_text(HEAD + text)


def behind(text: str, axis: int, node: int = 0) -> ArgmaxPositions | None:
    return argmax_positions_behind(view_of(text).nodes()[node], axis)


@pytest.mark.parametrize(
    ("body", "axis", "value"),
    [
        ("t = Conv(x, w)\n r = Relu(t)\n y = GlobalMaxPool(r)", 1, "r"),
        ("t = Conv(x, w)\n y = ReduceMax<keepdims = 0>(t, last)", 1, "t"),
        ("t = Conv(x, w)\n y = ReduceMax<keepdims = 0>(t, second)", 1, None),  # over channels
        ("t = Conv(x, w)\n y = ReduceMax<keepdims = 0>(t)", 1, None),  # over everything
        ("t = Conv(x, w)\n y = ReduceMax<keepdims = 0>(t, minus)", 1, "t"),
        ("t = Conv(x, w)\n r = Relu(t)\n m = GlobalMaxPool(r)\n y = Add(m, t)", 1, None),  # seen elsewhere
        ("t = Conv(x, w)\n r = Relu(t)\n y = GlobalAveragePool(r)", 1, None),
        ("t = Conv(x, w)\n s = Softmax(t)\n y = GlobalMaxPool(s)", 1, None),  # mixes places
    ],
)
def test_a_maximum_over_all_places_is_found(body: str, axis: int, value: str | None) -> None:
    constants = "float[6, 4, 3] w, int64[1] last = {2}, int64[1] second = {1}, int64[1] minus = {-1}"
    text = f"g (float[n, 4, 9] x) => (float y) <{constants}> {{ {body} }}"
    found = behind(text, axis)
    assert (None if found is None else found.value) == value


def test_a_maximum_behind_a_product_is_over_its_places() -> None:
    body = "t = MatMul(x, w)\n y = ReduceMax(t, one)"
    text = f"g (float[n, 9, 4] x) => (float y) <float[4, 6] w, int64[1] one = {{1}}> {{ {body} }}"
    assert behind(text, -1) == ArgmaxPositions("t", -1, (1,))


def places_by_hand(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Flat numbers (over samples, rows, columns) of the maxima of (n, c, rows, columns) over ``axes``."""
    n, c, rows, columns = a.shape
    numbers = np.arange(n * rows * columns).reshape(n, rows, columns)
    found = []
    for sample in range(n):
        for lane in range(columns if axes == (2,) else rows if axes == (3,) else 1):
            part = (slice(None), lane) if axes == (2,) else (lane,) if axes == (3,) else ()
            where = numbers[sample][part].reshape(-1)
            found.append([where[a[sample, k][part].reshape(-1).argmax()] for k in range(c)])
    return np.array(found)


@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3), (-2,), (-1, -2)])
def test_a_maximum_over_some_axes_picks_one_place_along_them(axes: tuple[int, ...]) -> None:
    """Its picks are those of every row or column, not of the whole."""
    a = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    plain = tuple(sorted(axis % 4 for axis in axes))
    places, count = ArgmaxPositions("a", 1, axes).places({"a": a})
    assert count == 40
    np.testing.assert_array_equal(places, places_by_hand(a, plain))
    shares = ArgmaxPositions("a", 1, axes).shares({"a": a})
    assert shares.sum() == pytest.approx(1)
    counts = np.bincount(places.reshape(-1), minlength=40)
    np.testing.assert_allclose((shares - 0.2 / 40) / 0.8 * counts.sum(), counts, atol=1e-9)
    last = ArgmaxPositions("a", -1, tuple(axis - 1 for axis in plain))
    turned = {"a": np.moveaxis(a, 1, -1)}
    np.testing.assert_array_equal(last.places(turned)[0], places)
    np.testing.assert_allclose(last.shares(turned), shares)


def test_maxima_over_samples_channels_or_nothing_pick_nothing() -> None:
    a = {"a": np.random.default_rng(0).normal(size=(2, 3, 4))}
    assert not ArgmaxPositions("a", 1, (-2,)).fits(a)  # the channels, as the rank tells
    assert not ArgmaxPositions("a", -1, (-3,)).fits(a)  # the samples
    empty = {"a": np.zeros((2, 3, 0))}
    assert not ArgmaxPositions("a", 1).fits(empty)
    assert ArgmaxPositions("a", 1).shares(empty).shape == (0,)
    np.testing.assert_allclose(ArgmaxPositions("a", 1, (-2,)).shares(a), 1 / 8)


def test_shares_count_the_channels_that_pick_a_place() -> None:
    a = np.zeros((2, 3, 4))
    a[0, :, 1] = 1.0  # all three channels
    a[1, 0, 2], a[1, 1, 3] = 1.0, 1.0  # the third has its maximum everywhere
    shares = ArgmaxPositions("a", 1).shares({"a": a}).reshape(2, 4)
    assert shares.sum() == pytest.approx(1)
    alike = 0.2 / 8
    counts = (shares - alike) / 0.8 * 6
    np.testing.assert_allclose(counts, [[0, 3, 0, 0], [0.25, 0.25, 1.25, 1.25]], atol=1e-12)
    turned = ArgmaxPositions("a", -1).shares({"a": np.moveaxis(a, 1, -1)})
    np.testing.assert_allclose(turned, shares.reshape(-1))


def test_rows_follow_the_shares() -> None:
    view = view_of(TEXT_NET)
    layer = calibrated_layer(view, view.sites()[0])
    assert layer is not None
    assert layer.argmax_positions is not None
    assert layer.exposed_values == ("x", layer.argmax_positions.value)
    x = np.random.default_rng(0).normal(size=(5, 4, 40)).astype(np.float32)
    shares = np.zeros(5 * 38)
    shares[[3, 60, 189]] = [0.5, 0.25, 0.25]
    rows = layer.extractors[0].input_rows({"x": x}, SampledRows(300, (0,), shares))[0]
    windows = np.stack([x[0, :, 3:6], x[1, :, 22:25], x[4, :, 37:40]]).reshape(3, -1)
    counts = [int((rows == window).all(axis=1).sum()) for window in windows]
    assert sum(counts) == 300
    assert counts[0] == pytest.approx(150, abs=35)


def test_shares_for_other_places_are_not_used() -> None:
    view = view_of(TEXT_NET)
    extractor = extractor_of(view.sites()[0], weight_uses(view, view.sites()[0])[0])
    assert extractor is not None
    x = np.random.default_rng(0).normal(size=(5, 4, 40)).astype(np.float32)
    plain, cropped = (
        extractor.input_rows({"x": x}, SampledRows(50, (0,), shares))
        for shares in (None, np.full(36 * 5, 1 / 180))
    )
    np.testing.assert_array_equal(plain, cropped)


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("t = MatMul(x, w)\n y = Add(t, b)", "Add"),
        ("t = MatMul(x, w)\n y = Add(b, t)", "Add"),
        ("t = MatMul(x, w)\n y = Add(t, x)", None),  # computed
        ("t = MatMul(x, w)\n u = Add(t, b)\n y = Mul(u, t)", None),  # the product is seen without it
        ("t = MatMul(x, w)\n y = Add(t, rows)", None),  # differs from row to row
        ("y = Gemm(x, w)", "Gemm"),
    ],
)
def test_the_bias_of_a_product_is_what_is_added_to_it_alone(body: str, operator: str | None) -> None:
    view = view_of(
        f"g (float[4, 4] x) => (float[4, 4] y) <float[4, 4] w, float[1, 4] b, float[4, 4] rows> {{ {body} }}"
    )
    found = bias_behind(weight_uses(view, view.sites()[0])[0], 4)
    assert (None if found is None else found.node.op_type) == operator
    if found is not None and operator == "Add":
        before = found.read(4)
        found.store(view, before + 1)
        np.testing.assert_allclose(found.read(4), before + 1, rtol=1e-6)


def test_means_behind_a_product_stay() -> None:
    view = view_of(
        "g (float[n, 12] x) => (float[n, 5] y) <float[12, 5] w, float[5] b>"
        "{ t = MatMul(x, w)\n y = Add(t, b) }"
    )
    x = np.random.default_rng(0).normal(3.0, 1.0, size=(300, 12)).astype(np.float32)
    pruned = view.fork()
    ReconstructLayers(keep=0.3).run(pruned, PassContext(reference=view, train=from_arrays({"x": x})))
    before, after = (open_session(model, threads=1).run({"x": x})["y"] for model in (view, pruned))
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-4)


def test_what_a_maximum_picks_is_kept_best() -> None:
    """Most places lie far below the maximum; whoever counts them all spends the weights on them."""
    rng = np.random.default_rng(3)
    view = view_of(TEXT_NET)
    weights = view.read("w")
    weights[:, 2:] = -np.abs(weights[:, 2:])
    view.replace("w", weights)
    x = np.zeros((200, 4, 40), np.float32)
    x[:, :2, :10] = rng.normal(size=(200, 2, 10))
    x[:, 2:, 10:] = rng.uniform(1, 3, size=(200, 2, 30))
    data, errors = from_arrays({"x": x}), []
    for pooling in ("GlobalMaxPool", "GlobalAveragePool"):
        original = view_of(TEXT_NET.replace("GlobalMaxPool", pooling))
        original.replace("w", weights)
        model = original.fork()
        ReconstructLayers(layers=(0.4, 1.0)).run(model, PassContext(reference=original, train=data))
        pruned = view.fork()
        pruned.replace("w", model.read("w"))
        before, after = (open_session(each, threads=1).run({"x": x})["y"] for each in (view, pruned))
        errors.append(np.var(after - before))
    assert errors[0] < 0.75 * errors[1]
