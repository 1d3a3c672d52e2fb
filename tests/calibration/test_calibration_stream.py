"""Moments: what the samples say about a layer, however they are cut into batches and groups."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CONV_NET, TWO_GEMMS

from onnx_admm.calibration.moments import MomentSums
from onnx_admm.calibration.stream import CalibratedLayer, Calibration, calibrated_layer, layer_groups
from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays
from onnx_admm.errors import DataError, PassRefused
from onnx_admm.model.analysis.text import parse_text


def random_rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, the original's X and weights: (2, 300, 5) twice, (6, 5)."""
    rng = np.random.default_rng(seed)
    original = rng.normal(3.0, 1.0, size=(2, 300, 5))
    compressed = original + 0.1 * rng.normal(size=original.shape)
    return compressed, original, rng.normal(size=(6, 5))


@pytest.mark.parametrize("centred", [True, False])
def test_moments_are_those_of_the_rows_in_float64(centred: bool) -> None:
    x, original, weights = random_rows()
    sums = MomentSums(weights, 2, centred)
    for part in np.array_split(np.arange(300), 7):
        sums.add(x[:, part], original[:, part])
    moments = sums.finish(0.01)
    t = original @ np.swapaxes(weights.reshape(2, 3, 5), 1, 2)
    if centred:
        x, t = x - x.mean(axis=1, keepdims=True), t - t.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(moments.problem.gram, np.swapaxes(x, 1, 2) @ x / 300, rtol=1e-4, atol=1e-5)
    cross = (np.swapaxes(t, 1, 2) @ x / 300).reshape(6, 5)
    np.testing.assert_allclose(moments.problem.cross, cross, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moments.problem.energy, np.square(t).mean(axis=1).reshape(-1), rtol=1e-4)
    assert moments.rows == 300


def test_a_large_mean_costs_no_digits() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(1000.0, 1.0, size=(1, 4000, 3))
    sums = MomentSums(np.eye(3), 1, centred=True)
    for part in np.array_split(x, 8, axis=1):
        sums.add(part, part)
    exact = np.cov(x[0].T, bias=True)
    np.testing.assert_allclose(sums.finish(0.0).problem.gram[0], exact, atol=1e-3)


def test_the_bias_shift_is_the_difference_of_mean_outputs() -> None:
    x, original, weights = random_rows()
    sums = MomentSums(weights, 2, centred=True)
    sums.add(x, original)
    new = weights * np.array([1, 0, 1, 0, 1])
    before = (original @ np.swapaxes(weights.reshape(2, 3, 5), 1, 2)).mean(axis=1)
    after = (x @ np.swapaxes(new.reshape(2, 3, 5), 1, 2)).mean(axis=1)
    np.testing.assert_allclose(sums.finish(0.0).bias_shift(new), (before - after).reshape(-1), atol=1e-4)


def layers_of(model: ModelView) -> list[CalibratedLayer]:
    return [layer for site in model.sites() if (layer := calibrated_layer(model, site)) is not None]


def calibration_of(model: ModelView, batch_size: int = 32) -> Calibration:
    x = np.random.default_rng(2).normal(0.5, 1.0, size=(70, 1, 8, 8)).astype(np.float32)
    return Calibration(original=model, samples=from_arrays({"x": x}), batch_size=batch_size)


def test_batches_of_any_size_say_the_same() -> None:
    model = parse_text(CONV_NET)
    layers = layers_of(model)
    one, other = (calibration_of(model, size).moments(model, layers) for size in (70, 16))
    assert one.keys() == other.keys() == {"w1", "w2", "w3"}
    for name, moments in one.items():
        scale = np.abs(moments.problem.gram).max()
        np.testing.assert_allclose(other[name].problem.gram, moments.problem.gram, atol=1e-4 * scale)


def test_inputs_are_those_of_the_compressed_model_and_targets_those_of_the_original() -> None:
    model = parse_text(TWO_GEMMS)
    x = np.random.default_rng(2).normal(size=(200, 16)).astype(np.float32)
    changed = model.fork()
    changed.replace("w1", 0.5 * model.read("w1"))
    calibration = Calibration(original=model, samples=from_arrays({"x": x}))
    second = layers_of(model)[1]
    moments = calibration.moments(changed, [second], centred=False)["w2"].problem

    def hidden(view: ModelView) -> np.ndarray:
        w1 = view.read("w1").astype(np.float64)
        bias = next(ref.input(2) for ref in view.nodes("Gemm"))
        assert bias is not None
        constant = bias.constant()
        assert constant is not None
        return np.maximum(x @ w1 + constant, 0)

    t = hidden(model) @ model.read("w2").T
    np.testing.assert_allclose(
        moments.gram[0], hidden(changed).T @ hidden(changed) / 200, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(moments.cross, t.T @ hidden(changed) / 200, rtol=1e-3, atol=1e-4)


def test_tied_weights_see_the_inputs_of_all_their_uses() -> None:
    model = parse_text(
        '<ir_version: 10, opset_import: ["" : 17]>\n'
        "g (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w> { h = MatMul(x, w)\n y = MatMul(h, w) }"
    )
    (layer,) = layers_of(model)
    assert layer.exposed_values == ("x", "h")
    x = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    calibration = Calibration(original=model, samples=from_arrays({"x": x}))
    moments = calibration.moments(model, [layer])["w"]
    both = np.concatenate([x, x @ model.read("w")])
    np.testing.assert_allclose(moments.problem.gram[0], both.T @ both / 100, rtol=1e-3, atol=1e-4)


def test_groups_are_consecutive_and_fit_the_memory() -> None:
    layers = layers_of(parse_text(CONV_NET))
    assert [len(group) for group in layer_groups(layers, 1 << 30, 32)] == [1, 1, 1]
    assert [len(group) for group in layer_groups(layers, 1 << 30, 1)] == [3]
    largest = max(layer.moment_bytes for layer in layers)
    flat = [layer for group in layer_groups(layers, largest, 1) for layer in group]
    assert flat == layers
    assert len(layer_groups(layers, largest, 1)) > 1
    with pytest.raises(PassRefused, match=r"do not fit into the allowed memory; got 0 MiB; expected 1 MiB"):
        layer_groups(layers, largest - 1, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
def test_inputs_that_are_not_finite_are_named(value: float) -> None:
    model = parse_text(TWO_GEMMS)
    x = np.ones((40, 16), np.float32)
    x[7, 3] = value
    calibration = Calibration(original=model, samples=from_arrays({"x": x}))
    with pytest.raises(DataError, match=r"^w1: the inputs of this layer are not finite on the samples"):
        calibration.moments(model, layers_of(model))


def test_rows_are_limited_and_drawn_by_seed() -> None:
    model = parse_text(CONV_NET)
    layers = layers_of(model)
    few = [
        Calibration(original=model, samples=calibration_of(model).samples, seed=seed).moments(model, layers)
        for seed in (0, 0, 1)
    ]
    grams = [moments["w1"].problem.gram for moments in few]
    assert np.array_equal(grams[0], grams[1])
