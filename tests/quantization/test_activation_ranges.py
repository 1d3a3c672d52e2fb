"""Ranges of activations: candidates from histograms, and their grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_admm.model.integers.plan import TensorGrid
from onnx_admm.quantization.histograms import Histogram
from onnx_admm.quantization.ranges import STEPS, ActivationRange, RangeMethod, candidate_ranges

NUMBERS = st.floats(-1e4, 1e4, allow_nan=False)


def histogram_of(values: np.ndarray) -> Histogram:
    found = Histogram()
    found.widen(values)
    found.count(values)
    return found


def rounded(values: np.ndarray, grid: TensorGrid) -> np.ndarray:
    codes = np.clip(np.rint(values / grid.scale) + grid.zero_point, 0, 255)
    return (codes - grid.zero_point) * grid.scale


def by_method(values: np.ndarray) -> dict[RangeMethod, ActivationRange]:
    return {each.method: each for each in candidate_ranges(histogram_of(values))}


@given(st.lists(NUMBERS, min_size=1, max_size=50))
def test_every_range_holds_zero_and_none_is_wider_than_the_extremes(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    found = candidate_ranges(histogram_of(values))
    assert found[0].method is RangeMethod.MIN_MAX
    for each in found:
        assert min(values.min(), 0) - 1e-3 <= each.low <= 0 <= each.high <= max(values.max(), 0) + 1e-3
        assert each.high - each.low <= found[0].high - found[0].low + 1e-3


@given(NUMBERS, NUMBERS, st.sampled_from([255, 127]))
def test_a_grid_has_zero_as_a_code_and_covers_its_range_to_half_a_step(
    one: float, other: float, steps: int
) -> None:
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    grid = ActivationRange(low, high, RangeMethod.MIN_MAX).grid(steps)
    assert 0 <= grid.zero_point <= steps
    assert grid.scale > 0
    assert grid.low <= low + grid.scale * 0.51
    assert grid.scale * (steps - grid.zero_point) >= high - grid.scale * 0.51


def test_values_behind_a_relu_have_zero_point_zero() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=10_000), 0)
    assert all(each.grid().zero_point == 0 for each in candidate_ranges(histogram_of(values)))


def test_a_constant_value_has_a_range() -> None:
    found = candidate_ranges(histogram_of(np.full(5, 3.0)))
    assert found[0].grid() == ActivationRange(0.0, 3.0, RangeMethod.MIN_MAX).grid()
    assert ActivationRange(0.0, 0.0, RangeMethod.MIN_MAX).grid() == TensorGrid(1.0, 0)


def test_least_squares_rounds_with_less_error_than_the_extremes_where_few_values_are_large() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=100_000), rng.normal(size=5) * 20])
    found = by_method(values)
    errors = {
        method: float(np.mean((values - rounded(values, each.grid())) ** 2)) for method, each in found.items()
    }
    assert errors[RangeMethod.MSE] < 0.95 * errors[RangeMethod.MIN_MAX]
    assert errors[RangeMethod.MSE] == min(errors.values())


def test_least_squares_keeps_the_extremes_of_an_even_distribution() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 100_000)
    found = by_method(values)
    assert found.get(RangeMethod.MSE, found[RangeMethod.MIN_MAX]).high > 0.93


def test_entropy_clips_what_lies_far_out_and_min_max_does_not() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.laplace(size=100_000), [60.0, -60.0]])
    found = by_method(values)
    assert found[RangeMethod.MIN_MAX].high == 60.0
    assert 4.0 < found[RangeMethod.ENTROPY].high < 30.0


def test_entropy_is_not_decided_by_the_zeros_behind_a_relu() -> None:
    rng = np.random.default_rng(0)
    positive = np.concatenate([np.abs(rng.laplace(size=50_000)), [60.0]])
    with_zeros = by_method(np.concatenate([positive, np.zeros(500_000)]))
    without = by_method(positive)
    assert with_zeros[RangeMethod.ENTROPY].high == pytest.approx(without[RangeMethod.ENTROPY].high, rel=0.2)


def test_percentiles_leave_out_the_outermost_elements_alone() -> None:
    values = np.arange(100_000) / 1000.0
    found = [each for each in candidate_ranges(histogram_of(values)) if each.method is RangeMethod.PERCENTILE]
    assert [each.high for each in found] == pytest.approx([99.99, 99.9], abs=0.06)
    assert {each.low for each in found} == {0.0}


def test_a_histogram_does_not_depend_on_how_the_values_come() -> None:
    values = np.random.default_rng(0).normal(size=4096)
    whole, pieces = histogram_of(values), Histogram()
    for piece in np.split(values, 16):
        pieces.widen(piece)
    for piece in np.split(values, 16):
        pieces.count(piece)
    assert np.array_equal(whole.counts, pieces.counts)
    assert whole.counts.sum() == values.size


def test_values_that_are_not_finite_do_not_count() -> None:
    found = histogram_of(np.array([np.nan, np.inf, -np.inf, 1.0, -2.0]))
    assert (found.low, found.high, found.counts.sum()) == (-2.0, 1.0, 2)
    assert not histogram_of(np.array([np.nan])).is_known


def test_steps_of_seven_bits_stay_below_128() -> None:
    grid = ActivationRange(-1.0, 3.0, RangeMethod.MIN_MAX).grid(127)
    assert round((3.0 - -1.0) / grid.scale) == 127
    assert grid.zero_point == 32
    assert STEPS == 255
