"""Channels behind a global maximum are reconstructed from the rows where each has its maximum."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.calibration.argmax_rows import ArgmaxRows
from onnx_admm.calibration.stream import CalibratedLayer, Calibration, calibrated_layer
from onnx_admm.contracts import Array, ModelView, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.runtime.sessions import open_session

MEMORY = 1 << 30
HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
CONVOLUTION = """
g (float[n, 4, 12] x) => (float[n, 6, 1] y)
<float[6, CIN, 3] w, float[6] b>
{
    t = Conv<group = GROUP>(x, w, b)
    a = Relu(t)
    y = GlobalMaxPool(a)
}
"""
PRODUCT = """
g (float[n, 10, 8] x) => (float[n, 6] y)
<float[8, 6] w, int64[1] places = {1}>
{
    t = MatMul(x, w)
    y = ReduceMax<keepdims = 0>(t, places)
}
"""
CROPPED = """
g (float[n, 4, 12] x) => (float[n, 6, 1] y)
<float[6, 4, 3] w, float[6] b, int64[1] first = {0}, int64[1] last = {5}, int64[1] axis = {2}>
{
    t = Conv(x, w, b)
    c = Slice(t, first, last, axis)
    y = GlobalMaxPool(c)
}
"""


def convolution(group: int = 1) -> ModelView:
    return parse_text(HEAD + CONVOLUTION.replace("GROUP", str(group)).replace("CIN", str(4 // group)))


def calibrated(model: ModelView, x: Array) -> tuple[Calibration, CalibratedLayer]:
    layer = calibrated_layer(model, model.sites()[0])
    assert layer is not None
    return Calibration(original=model.fork(), samples=from_arrays({"x": x}), batch_size=4), layer


def windows_of(x: Array) -> Array:
    """(n, places, c * 3)"""
    seen = np.lib.stride_tricks.sliding_window_view(x, 3, axis=2)  # (n, c, places, 3)
    return np.moveaxis(seen, 2, 1).reshape(len(x), -1, x.shape[1] * 3)


def test_rows_are_those_under_the_maxima_of_both_models() -> None:
    rng = np.random.default_rng(0)
    model, x = convolution(), rng.normal(size=(10, 4, 12)).astype(np.float32)
    calibration, layer = calibrated(model, x)
    weights = model.read("w")
    other = np.where(rng.random(weights.shape) < 0.4, 0, weights).astype(np.float32)
    model.replace("w", other)
    rows = calibration.argmax_rows(model, layer, MEMORY)
    assert rows is not None
    windows = windows_of(x)
    assert layer.bias is not None
    bias = layer.bias.read(6)
    for chosen, matrix in ((rows.best, weights.reshape(6, -1)), (rows.hard_negatives, other.reshape(6, -1))):
        outputs = np.maximum(windows @ matrix.T + bias, 0)  # (n, places, channels)
        expected = np.take_along_axis(windows, outputs.argmax(axis=1)[:, :, None], axis=1)
        np.testing.assert_allclose(rows.x[0][chosen], expected, atol=1e-6)
    np.testing.assert_allclose(rows.targets, rows.x[0] @ weights.reshape(6, -1).T, atol=1e-5)


def test_grouped_convolutions_and_products_have_argmax_rows_too() -> None:
    rng = np.random.default_rng(1)
    model, x = convolution(group=2), rng.normal(size=(5, 4, 12)).astype(np.float32)
    calibration, layer = calibrated(model, x)
    rows = calibration.argmax_rows(model, layer, MEMORY)
    assert rows is not None
    assert rows.x.shape[::2] == (2, 6)
    weights = model.read("w").reshape(2, 3, 6)
    np.testing.assert_allclose(rows.targets[:, 3:], rows.x[1] @ weights[1].T, atol=1e-5)

    model, x = parse_text(HEAD + PRODUCT), rng.normal(size=(5, 10, 8)).astype(np.float32)
    calibration, layer = calibrated(model, x)
    rows = calibration.argmax_rows(model, layer, MEMORY)
    assert rows is not None
    assert not rows.is_centred
    best = (x @ model.read("w")).argmax(axis=1)  # (n, channels)
    np.testing.assert_array_equal(rows.x[0][rows.best], np.take_along_axis(x, best[:, :, None], axis=1))


def test_a_maximum_over_a_crop_tells_nothing_of_the_rows() -> None:
    model, x = parse_text(HEAD + CROPPED), np.random.default_rng(2).normal(size=(5, 4, 12))
    calibration, layer = calibrated(model, x.astype(np.float32))
    assert layer.argmax_positions is not None
    assert calibration.argmax_rows(model, layer, MEMORY) is None


def test_rows_fit_the_memory() -> None:
    model, x = convolution(), np.random.default_rng(0).normal(size=(12, 4, 12)).astype(np.float32)
    calibration, layer = calibrated(model, x)
    rows = calibration.argmax_rows(model, layer, 1)
    assert rows is not None
    assert len(rows.best) == calibration.batch_size


@pytest.mark.parametrize("centred", [True, False])
def test_moments_are_those_of_the_weighted_rows(centred: bool) -> None:
    """As many copies of each row as its weight says, and three of ten of all rows."""
    rng = np.random.default_rng(4)
    model, x = convolution(), rng.normal(1.0, 1.0, size=(8, 4, 12)).astype(np.float32)
    calibration, layer = calibrated(model, x)
    others = calibration.moments(model, [layer], centred=centred)["w"]
    everything, channel = windows_of(x).reshape(-1, 12), 2
    best, hard_negatives = rng.integers(0, 80, (8, 6)), rng.integers(0, 80, (8, 6))
    weights = model.read("w").reshape(6, -1)
    argmax_rows = ArgmaxRows(everything[None], everything @ weights.T, best, hard_negatives, centred)
    # the layer's own moments are of rows drawn by where maxima are: take all alike here
    found = argmax_rows.moments(channel, others)
    rest = others.problem
    n, shares = 8, np.zeros(80)
    np.add.at(shares, best[:, channel], 1 / n)
    np.add.at(shares, hard_negatives[:, channel], 0.7 / n)
    second = np.einsum("m,mi,mj->ij", shares, everything, everything)
    second += 0.3 * (rest.gram[0] + np.outer(others.input_mean[0], others.input_mean[0]))
    mean = (shares @ everything + 0.3 * others.input_mean[0]) / 2 * (1 if centred else 0)
    np.testing.assert_allclose(found.problem.gram[0], second / 2 - np.outer(mean, mean), atol=1e-5)
    np.testing.assert_allclose(found.input_mean[0], mean, atol=1e-6)
    np.testing.assert_allclose(found.problem.error(weights[channel][None]), 0, atol=1e-5)


def specialists(rng: np.random.Generator) -> tuple[ModelView, Array]:
    """Every channel looks out for a pattern of its own, made of inputs that others use otherwise."""
    model = convolution()
    mixing = rng.normal(size=(6, 12, 12)) * np.geomspace(1, 0.05, 12)
    weights = np.stack([np.linalg.qr(each)[0][:, 0] for each in mixing])
    model.replace("w", weights.reshape(6, 4, 3).astype(np.float32))
    x = 0.2 * rng.normal(size=(300, 4, 12))
    for channel in range(4):  # three steps for each of four channels, in its own spectrum
        steps = rng.normal(size=(300, 12)) @ mixing[channel].T * 0.3 + 2 * weights[channel]
        x[:, :, 3 * channel : 3 * channel + 3] += steps.reshape(300, 4, 3)
    return model, x.astype(np.float32)


def outputs_of(model: ModelView, x: Array) -> Array:
    return open_session(model, threads=1).run({"x": x})["y"][:, :, 0]


@pytest.mark.parametrize("made", [{"keep": 0.4}, {"keep": 0.5, "bits": 3}, {"pattern": "2:4"}])
def test_own_rows_keep_maxima_better(made: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    model, x = specialists(rng)
    errors = []
    for is_own in (True, False):
        if not is_own:
            monkeypatch.setattr(Calibration, "argmax_rows", lambda *_: None)
        pruned = model.fork()
        job = ReconstructLayers(**made)  # type: ignore[arg-type]
        report = job.run(pruned, PassContext(reference=model, train=from_arrays({"x": x[:200]})))
        assert ("argmax_error" in report.figures["layers"]["w"]) == is_own
        errors.append(np.square(outputs_of(pruned, x[200:]) - outputs_of(model, x[200:])).mean())
    assert errors[0] < 0.9 * errors[1]


def test_channels_keep_as_many_weights_as_before_and_zeros_stay() -> None:
    model, x = specialists(np.random.default_rng(1))
    context = PassContext(reference=model, train=from_arrays({"x": x}))
    pruned = model.fork()
    ReconstructLayers(keep=0.4).run(pruned, context)
    assert np.count_nonzero(pruned.read("w")) == round(0.4 * 72)
    before = pruned.read("w") != 0
    ReconstructLayers(bits=4).run(pruned, context)
    assert not (pruned.read("w") != 0)[~before].any()


@pytest.mark.parametrize("made", [{"bits": 2}, {"keep": 0.5, "bits": 3, "per_channel": False}])
def test_levels_alone_and_one_scale_for_all_are_left(made: dict[str, object]) -> None:
    model, x = specialists(np.random.default_rng(0))
    context = PassContext(reference=model, train=from_arrays({"x": x}))
    report = ReconstructLayers(**made).run(model.fork(), context)  # type: ignore[arg-type]
    assert "argmax_error" not in report.figures["layers"]["w"]
