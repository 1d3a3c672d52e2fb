"""The estimate before encoding is what encoding then takes."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.encoding.choice import choose_plan
from onnx_admm.encoding.coders.accounting import digit_bits, gap_bits, packed_bytes
from onnx_admm.encoding.coders.codebook import Weight


@pytest.mark.parametrize("density", [0.01, 0.1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("levels", [1, 3])
def test_a_random_layer_takes_what_was_estimated(density: float, levels: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, levels + 1, (200, 300)) * rng.choice([-1, 1], (200, 300))
    weight = Weight("w", (codes * (rng.random((200, 300)) < density)).astype(np.float32))
    (row,) = choose_plan([weight], (), 17).rows()
    estimate = packed_bytes(row.elements, row.nonzeros, 2 * levels)
    assert (row.data_bits + row.index_bits) / 8 == pytest.approx(estimate, rel=0.02)


def test_nothing_kept_takes_nothing() -> None:
    assert packed_bytes(100, 0, 2) == 0.0


@pytest.mark.parametrize("density", [1.0, 0.5, 1e-3, 1e-9, 1e-300])
def test_gaps_of_any_density_have_a_price(density: float) -> None:
    assert 1.0 <= gap_bits(density) < float("inf")
    assert packed_bytes(1000, 1000 * density, 1) <= 1000 * 1.0 / 8


def test_ternary_digits_take_1_6_bits() -> None:
    assert digit_bits(3) == pytest.approx(1.6)
    assert digit_bits(2) == 1.0
    assert digit_bits(1 << 20) == float("inf")
