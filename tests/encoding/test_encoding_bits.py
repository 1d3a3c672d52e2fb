"""Bits, digits and gaps come back as they went in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_admm.encoding.coders.bits import (
    MOST_LOW_BITS,
    digits_per_word,
    gap_sums,
    low_planes,
    pack_bits,
    pack_digits,
    powers,
    rice_bits,
    split_gaps,
)

POSITIONS = st.lists(st.integers(0, 5000), min_size=1, max_size=60, unique=True).map(sorted)


@given(st.lists(st.integers(0, 1), max_size=50))
def test_the_decoder_s_arithmetic_gives_the_bits_back(bits: list[int]) -> None:
    words = pack_bits(np.array(bits, np.uint8)).astype(np.int64)
    decoded = (words[:, None] // powers(2, 8) % 2).reshape(-1)
    assert decoded[: len(bits)].tolist() == bits
    assert not decoded[len(bits) :].any()


@pytest.mark.parametrize(
    ("radix", "word_bits", "count"), [(2, 8, 8), (3, 8, 5), (6, 16, 6), (256, 8, 1), (3, 16, 10)]
)
def test_a_word_holds_as_many_digits_as_fit(radix: int, word_bits: int, count: int) -> None:
    assert digits_per_word(radix, word_bits) == count


@given(st.data(), st.integers(2, 40), st.sampled_from([8, 16]))
def test_the_decoder_s_arithmetic_gives_the_digits_back(
    data: st.DataObject, radix: int, word_bits: int
) -> None:
    digits = data.draw(st.lists(st.integers(0, radix - 1), min_size=1, max_size=30))
    words = pack_digits(np.array(digits), radix, word_bits).astype(np.int64)
    decoded = (words[:, None] // powers(radix, digits_per_word(radix, word_bits)) % radix).reshape(-1)
    assert decoded[: len(digits)].tolist() == digits


@given(POSITIONS, st.integers(0, 12))
def test_positions_are_the_ones_less_the_running_sum_of_remainders(
    positions: list[int], low_bits: int
) -> None:
    ones, lows = split_gaps(np.array(positions), low_bits)
    assert ((lows >= 0) & (lows < 1 << low_bits)).all()
    assert (np.diff(ones) >= 1).all()
    assert ((ones << low_bits) - np.cumsum(lows)).tolist() == positions


def test_the_first_bit_is_the_lowest_of_its_byte() -> None:
    assert pack_bits(np.array([1, 0, 1, 0, 0, 0, 0, 0, 1])).tolist() == [5, 1]


@pytest.mark.parametrize(("word_bits", "dtype", "word"), [(8, np.uint8, 0xFE), (16, np.uint16, 0xBCFE)])
def test_words_have_their_width_and_the_first_digit_lowest(word_bits: int, dtype: type, word: int) -> None:
    digits = np.array([14, 15, 12, 11][: word_bits // 4])
    packed = pack_digits(digits, 16, word_bits)
    assert (packed.dtype, packed.tolist()) == (dtype, [word])


def test_bits_of_a_code_are_remainders_and_bitmap() -> None:
    """Gaps 3 and 7 by fours: quotients 1 and 2, so ones at 1 and 3; two remainders of two bits."""
    assert rice_bits(np.array([3, 10]), 2) == 2 * 2 + 3 + 1
    assert rice_bits(np.array([], np.int64), 5) == 0


@given(POSITIONS)
def test_gap_sums_tell_the_bits_of_every_parameter(positions: list[int]) -> None:
    array = np.array(positions)
    sums = list(gap_sums(array))
    assert len(sums) == MOST_LOW_BITS + 1
    for low_bits, most in enumerate(sums):
        assert len(positions) * low_bits + most + 1 == rice_bits(array, low_bits)


@given(POSITIONS)
def test_without_remainders_the_code_is_the_bitmap(positions: list[int]) -> None:
    assert rice_bits(np.array(positions), 0) == positions[-1] + 1


def test_the_code_of_a_random_support_is_near_its_entropy() -> None:
    density, count = 0.1, 100_000
    kept = np.flatnonzero(np.random.default_rng(0).random(count) < density)
    entropy = -(density * np.log2(density) + (1 - density) * np.log2(1 - density)) * count
    best = min(rice_bits(kept, low_bits) for low_bits in range(8))
    assert entropy < best < 1.03 * entropy


@given(st.lists(st.integers(0, 31), min_size=1, max_size=20))
def test_planes_add_up_to_the_numbers(values: list[int]) -> None:
    planes = low_planes(np.array(values), 5)
    assert sum(plane << place for place, plane in enumerate(planes)).tolist() == values
