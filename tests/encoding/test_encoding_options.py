"""Compression options: their values are what the coders take, their prices what the coders ask."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.admm.sets.approximate_scale import scales_of
from onnx_admm.contracts import Array
from onnx_admm.encoding import compression_options
from onnx_admm.encoding.choice import choose_plan, plan_bytes
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.compression_options import DENSE, HALF, SPARSE, Rounding, Treated

pytestmark = pytest.mark.slow

EVERY = (HALF, *DENSE, *SPARSE)


def weight(shape: tuple[int, ...] = (48, 512), dtype: type = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(dtype)


def relative_error(before: Array, after: Array) -> float:
    return float(np.square(after.astype(float) - before).sum() / np.square(before.astype(float)).sum())


@pytest.mark.parametrize("rounding", EVERY, ids=str)
def test_price_is_that_of_the_file(rounding: Rounding) -> None:
    """Of another weight beside one whose decoder is there: what layers share has no price."""
    layers = [Treated(weight(seed=seed), 0) for seed in (0, 1)]
    rounded = [Weight(str(i), layer.apply(rounding)) for i, layer in enumerate(layers)]
    alone, both = (plan_bytes(choose_plan(part, (), 17), part, 17) for part in (rounded[:1], rounded))
    assert both - alone == pytest.approx(layers[1].stored_bytes(rounding), rel=0.05, abs=60)


@pytest.mark.parametrize("rounding", EVERY, ids=str)
def test_expected_error_is_that_of_normal_values(rounding: Rounding) -> None:
    treated = Treated(weight(), 0)
    found = relative_error(treated.values, treated.apply(rounding))
    assert found / 2 < treated.expected_error(rounding) < 2.2 * found


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rounding", [*DENSE, SPARSE[3]], ids=str)
def test_levels_are_found_again_from_the_values(rounding: Rounding, dtype: type) -> None:
    treated = Treated(weight((16, 64), dtype), 0)
    values = treated.apply(rounding)
    assert values.dtype == dtype
    grid = Weight("w", values).channel_grid
    assert grid is not None
    assert len(np.unique(grid.codes)) <= (rounding.levels or 0) + (rounding.density < 1)
    assert np.count_nonzero(values) <= round(rounding.density * values.size)
    again = Treated(values, 0).apply(rounding)
    assert relative_error(values, again) < 1e-4


def test_zeros_stay_zeros() -> None:
    values = weight((8, 32))
    values[:, ::4] = 0
    for rounding in EVERY:
        assert not Treated(values, 0).apply(rounding)[:, ::4].any()


def test_levels_lie_about_zero_or_beside_it_whichever_is_nearer() -> None:
    spread = np.linspace(-1, 1, 512, dtype=np.float32).reshape(8, 64).T.copy()
    assert np.all(Treated(spread, None).apply(Rounding(4)) != 0)
    heaped = np.where(np.abs(spread) > 0.9, spread, 0.001 * spread).astype(np.float32)
    assert np.any(Treated(heaped, None).apply(Rounding(4)) == 0)


def test_half_floats_are_half_floats() -> None:
    values = Treated(weight(), 0).apply(HALF)
    assert np.array_equal(values.astype(np.float16).astype(np.float32), values)
    assert 0 < Treated(weight(), 0).stored_bytes(HALF) - 2 * weight().size < 60
    assert Treated(weight(), 0).stored_bytes(None) == 4 * weight().size


def test_names_say_what_is_kept() -> None:
    assert [str(rounding) for rounding in (HALF, DENSE[0], DENSE[-1], SPARSE[3])] == [
        "half floats", "255 levels", "3 levels", "2 levels, 82% zeros",
    ]  # fmt: skip


def test_scales_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def counted(*args: object) -> object:
        looked.append(args)
        return scales_of(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(compression_options, "scales_of", counted)
    treated = Treated(weight(), 0)
    for rounding, ranges in ((DENSE[0], 1), (DENSE[2], 2), (SPARSE[3], 1)):
        looked.clear()
        first = treated.apply(rounding)
        for _ in range(3):
            assert np.array_equal(treated.apply(rounding), first)
        assert len(looked) == ranges


def test_large_weights_are_guessed_from_a_sample_as_from_all() -> None:
    values = weight((600, 1000))
    large, small = Treated(values, 0), Treated(values[:200], 0)
    for rounding in EVERY:
        assert large.expected_error(rounding) == pytest.approx(small.expected_error(rounding), rel=0.03)
        assert len(large._energy_below) <= 1 + 2 * (1 << 18)
