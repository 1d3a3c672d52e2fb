"""Weights of integer kernels: the grid that they lie on stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.quantization.weights import integer_bias, integer_weight, with_bias

RNG = np.random.default_rng(0)


def dense(weight: object) -> np.ndarray:
    shape = [1] * weight.codes.ndim
    if weight.scales.ndim:
        shape[weight.axis] = -1
    return weight.codes.astype(np.float32) * weight.scales.reshape(shape if weight.scales.ndim else ())


@pytest.mark.parametrize("levels", [1, 3, 7, 100])
def test_a_grid_of_one_scale_is_kept_exactly(levels: int) -> None:
    codes = RNG.integers(-levels, levels + 1, (8, 4, 3, 3))
    codes.flat[:2] = levels, 1
    values = (codes * np.float32(0.0173)).astype(np.float32)
    weight, kept = integer_weight("w", values, 0)
    assert kept
    assert np.array_equal(dense(weight), values)
    assert np.abs(weight.codes).max() == levels  # rescaling to 127 would round a second time


@pytest.mark.parametrize("axis", [0, 1])
def test_a_grid_per_output_channel_is_kept_exactly(axis: int) -> None:
    codes = RNG.integers(-7, 8, (16, 24)).astype(np.float32)
    shape = [1, 1]
    shape[axis] = -1
    values = codes * RNG.uniform(0.1, 2.0, codes.shape[axis]).astype(np.float32).reshape(shape)
    weight, kept = integer_weight("w", values, axis)
    assert kept
    assert weight.scales.shape == (codes.shape[axis],)
    assert np.array_equal(dense(weight), values)


def test_scales_along_the_input_channels_have_no_kernel_so_that_it_is_rounded() -> None:
    codes = RNG.integers(-7, 8, (16, 24)).astype(np.float32)
    values = codes * RNG.uniform(0.1, 2.0, (16, 1)).astype(np.float32)
    weight, kept = integer_weight("w", values, 1)
    assert not kept
    assert np.abs(dense(weight) - values).max() <= np.abs(values).max() / 127


def test_one_output_channel_has_one_scale_although_its_inputs_lie_on_grids() -> None:
    values = np.zeros((1, 32, 5), np.float32)
    values[0, :, 2] = np.random.default_rng(0).normal(size=32)  # a grid for each input, or each place
    weight, kept = integer_weight("w", values, 0)
    assert not kept
    assert weight.scales.shape == (1,)


def test_any_other_weight_gets_a_scale_per_output_channel() -> None:
    values = RNG.normal(size=(8, 300)).astype(np.float32) * np.geomspace(1, 100, 8, dtype=np.float32)[:, None]
    values[3] = 0
    weight, kept = integer_weight("w", values, 0)
    assert not kept
    assert weight.codes.dtype == np.int8
    error = np.abs(dense(weight) - values)
    assert np.all(error <= weight.scales[:, None] * 0.501)
    assert not weight.codes[3].any()


def test_a_bias_is_stored_in_steps_of_the_products() -> None:
    bias = integer_bias(np.array([1.0, -2.0], np.float32), np.array([0.5, 0.25], np.float32))
    assert bias is not None
    assert bias.dtype == np.int32
    assert bias.tolist() == [2, -8]


def test_a_bias_beyond_int32_is_refused() -> None:
    assert integer_bias(np.array([1e6], np.float32), np.array(1e-5, np.float32)) is None


def test_a_channel_that_is_nearly_zero_gets_a_scale_that_its_bias_fits() -> None:
    values = RNG.normal(size=(256, 8)).astype(np.float32)
    values[:, 3] *= 1e-12
    weight, kept = integer_weight("w", values, 1)
    bias, scale = RNG.normal(size=8).astype(np.float32), 0.01
    assert not kept
    assert integer_bias(bias, np.float32(scale) * weight.scales) is None
    found = with_bias(weight, values, bias, scale)
    assert found is not None
    raised, steps = found
    others = np.arange(8) != 3
    assert np.array_equal(raised.codes[:, others], weight.codes[:, others])
    assert np.array_equal(raised.scales[others], weight.scales[others])
    assert np.abs(steps).max() <= 2**30 + 64  # half of int32 is left for the products
    assert np.allclose(steps * (scale * raised.scales), bias, atol=1e-2)
    assert steps[3] * (scale * raised.scales[3]) == pytest.approx(bias[3], rel=1e-6)


def test_a_weight_on_its_own_grid_keeps_its_scale_so_that_a_large_bias_does_not_fit() -> None:
    values = (RNG.integers(-7, 8, (64, 8)) * np.float32(1e-9)).astype(np.float32)
    weight, kept = integer_weight("w", values, 1)
    assert kept
    assert with_bias(weight, values, np.full(8, 1e3, np.float32), 0.01) is None
    assert with_bias(weight, values, np.full(8, 1e-3, np.float32), 0.01) is not None


@pytest.mark.parametrize("largest", [1e-44, 1e-40])
def test_a_channel_of_subnormal_weights_has_a_normal_scale(largest: float) -> None:
    values = RNG.normal(size=(4, 300)).astype(np.float32)
    values[2] = largest
    weight, _ = integer_weight("w", values, 0)
    assert weight.scales.min() >= np.finfo(np.float32).tiny
    assert np.abs(dense(weight)[2]).max() <= np.finfo(np.float32).tiny
    whole, kept = integer_weight("w", np.full((4, 4), largest, np.float32), 0)
    assert not kept
    assert whole.scales.min() >= np.finfo(np.float32).tiny


def test_a_nearly_dead_channel_on_a_grid_of_its_own_gives_way_to_its_bias() -> None:
    """The others keep their codes and scales exactly."""
    steps = np.full(8, 0.01, np.float32)
    steps[3] = 1e-16
    values = (RNG.integers(-7, 8, (64, 8)) * steps).astype(np.float32)
    weight, kept = integer_weight("w", values, 1)
    assert kept
    bias, others = RNG.normal(size=8).astype(np.float32), np.arange(8) != 3
    found = with_bias(weight, values, bias, 0.01)
    assert found is not None
    raised, whole = found
    assert np.array_equal(raised.values[:, others], values[:, others])
    assert np.array_equal(raised.scales[others], weight.scales[others])
    assert whole[3] * (0.01 * raised.scales[3]) == pytest.approx(bias[3], rel=1e-6)
    assert np.abs(raised.values[:, 3]).max() < 1e-6
