"""Grids and levels are found from the values alone, and only where they hold exactly."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_admm.admm.sets.levels import SparseLevels, SupportLevels
from onnx_admm.admm.sets.supports import AtMostK
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.grids import channel_grid
from onnx_admm.encoding.coders.vector_coder import exact_vector_coders, round_vectors

SCALES = st.integers(1, 2047).flatmap(
    lambda steps: st.integers(-20, 4).map(lambda e: np.float32(np.ldexp(steps, e)))
)
CODES = st.lists(st.integers(-127, 127), min_size=2, max_size=40).filter(lambda codes: any(codes))


def weight(values: object) -> Weight:
    return Weight("w", np.asarray(values, np.float32))


@given(CODES, SCALES)
def test_a_grid_of_eleven_bit_scale_is_found_and_exact(codes: list[int], scale: np.float32) -> None:
    made = weight(np.array(codes, np.float32) * scale)
    assert made.grid is not None
    assert np.array_equal(made.grid.codes * made.grid.scale, made.values)
    assert np.abs(made.grid.codes).max() <= 127
    assert made.grid.scale >= scale  # the coarsest one


def test_a_grid_whose_smallest_code_is_large_is_found() -> None:
    made = weight(np.array([-100, 97, 50]) * np.float32(0.125))
    assert made.grid is not None
    assert made.grid.scale == np.float32(0.125)


@pytest.mark.parametrize("largest", [126, 127, 128, 129, 255, 256])
@pytest.mark.parametrize("sign", [1, -1])
def test_codes_are_bytes_and_end_at_127(largest: int, sign: int) -> None:
    """With a code of 128, int8 would hold -128."""
    made = weight([1, sign * largest])
    by_channel = weight([[1, sign * largest], [sign * largest, 1]]).channel_grid
    assert (made.grid is not None) == (by_channel is not None) == (largest <= 127)
    if made.grid is not None and by_channel is not None:
        assert made.grid.codes.tolist() == [1, sign * largest]
        assert by_channel.codes.tolist() == [[1, sign * largest], [sign * largest, 1]]


def test_values_off_every_grid_have_none() -> None:
    made = weight(np.random.default_rng(0).standard_normal(50))
    assert made.grid is None
    assert made.levels is not None
    assert weight(np.random.default_rng(0).standard_normal(600)).levels is None


def test_a_grid_for_each_channel_is_found_along_its_axis() -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (4, 6, 3, 3))
    scales = np.array([0.5, 0.25, 3.0, 0.0625], np.float32).reshape(4, 1, 1, 1)
    grid = weight(codes * scales).channel_grid
    assert grid is not None
    assert grid.scale.shape == (4, 1, 1, 1)
    assert np.array_equal(grid.codes * grid.scale, codes * scales)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("kept", [1.0, 0.05])
def test_levels_that_weights_are_put_on_are_found_again(bits: int, kept: float) -> None:
    rng = np.random.default_rng(bits)
    weights = rng.normal(size=(64, 512)).astype(np.float32)
    weights *= np.geomspace(0.01, 1, 64, dtype=np.float32)[:, None]
    pruned = AtMostK(round(kept * weights.size)).project(weights)
    support = SupportLevels(pruned != 0, bits, axis=0, scale_bits=11)
    for levels in (support, SparseLevels(int(kept * weights.size), bits, axis=0, scale_bits=11)):
        made = weight(levels.project(pruned))
        assert made.channel_grid is not None
        assert np.array_equal(made.channel_grid.codes * made.channel_grid.scale, made.values)


def test_a_channel_of_zeros_has_a_scale_too() -> None:
    values = np.array([[1.0, -1.0, 2.0], [0, 0, 0], [0.3, 0.6, -0.3]], np.float32)
    grid = weight(values).channel_grid
    assert grid is not None
    assert np.array_equal(grid.codes * grid.scale, values)


def test_minus_zero_is_a_zero() -> None:
    made = weight([-0.0, 1.0, -0.0, -1.0])
    assert made.positions.tolist() == [1, 3]


def test_a_double_that_fp32_cannot_hold_is_not_exact() -> None:
    assert not Weight("w", np.array([0.1, 0.2])).is_exact
    assert Weight("w", np.array([0.5, -0.25])).is_exact


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20))
def test_rounded_vectors_lie_on_one_grid_near_the_values(values: list[float]) -> None:
    vectors = (weight(values), weight([v / 7 for v in values]))
    rounded = round_vectors(vectors, "int8")
    largest = max(abs(v) for v in values)
    for before, after in zip(vectors, rounded, strict=True):
        assert np.abs(before.values - after.values).max() <= 0.51 * largest / 127 + 1e-30
    if largest > 1e-30:
        coders = exact_vector_coders(rounded, 17)
        assert coders[0].stored == "int8"


def test_rounded_vectors_use_every_byte_from_minus_127_to_127() -> None:
    (rounded,) = round_vectors((weight(np.arange(-127, 128) / 127),), "int8")
    assert rounded.grid is not None
    assert rounded.grid.codes.tolist() == list(range(-127, 128))


def test_rounding_to_16_bits_gives_half_floats() -> None:
    values = np.linspace(0.1, 3.3, 40)
    (rounded,) = round_vectors((weight(values),), "float16")
    assert np.array_equal(rounded.values, values.astype(np.float16).astype(np.float32))
    assert [coder.stored for coder in exact_vector_coders((rounded,), 17)] == ["float16"]


def test_a_vector_too_large_for_half_floats_is_left_alone() -> None:
    (same,) = round_vectors((weight([1e5, 0.1]),), "float16")
    assert np.array_equal(same.values, np.array([1e5, 0.1], np.float32))


def test_float8_keeps_three_bits_of_each_number_from_opset_19_on() -> None:
    values = np.array([0.1, -3.3, 400.0, 0.0], np.float32)
    (rounded,) = round_vectors((weight(values),), "float8")
    assert np.abs(rounded.values / np.where(values, values, 1) - (values != 0)).max() <= 1 / 16
    assert "float8" in [coder.stored for coder in exact_vector_coders((rounded,), 19)]
    assert "float8" not in [coder.stored for coder in exact_vector_coders((rounded,), 18)]
    (same,) = round_vectors((weight([500.0]),), "float8")
    assert same.values[0] == 500.0


def test_a_row_beyond_a_types_range_is_not_taken_for_exact() -> None:
    assert "float16" not in {coder.stored for coder in exact_vector_coders((weight([1e5, 0.5]),), 17)}
    assert {"float8", "float16"}.isdisjoint(
        coder.stored for coder in exact_vector_coders((weight([-1e9, 0.3]),), 19)
    )


def test_types_without_a_buffer_of_their_own_are_remembered_too() -> None:
    codes = np.random.default_rng(0).integers(-100, 101, (80, 64))
    values = (codes * 0.5).astype(ml_dtypes.bfloat16)
    first, second = channel_grid(values), channel_grid(values.copy())
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.scale, second.scale)
    np.testing.assert_array_equal(first.codes, second.codes)
