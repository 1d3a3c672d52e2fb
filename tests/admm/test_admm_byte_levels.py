"""Eight-bit levels by a few sweeps: close to the best scale, exact where a grid is there already."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.admm.sets.int8_per_channel import ByteLevels
from onnx_admm.admm.sets.levels import Levels

FLOAT = np.dtype(np.float32)


def squared_error(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.square(values.astype(np.float64) - of).sum(axis=1)


@pytest.mark.parametrize("draw", ["normal", "laplace", "standard_t"])
@pytest.mark.parametrize(("length", "most"), [(20, 1.0), (150, 1.12), (600, 1.04), (5000, 1.02)])
def test_the_error_is_nearly_the_least_there_is(draw: str, length: int, most: float) -> None:
    rng = np.random.default_rng(0)
    sample = {"standard_t": lambda size: rng.standard_t(4, size)}.get(
        draw, lambda size: getattr(rng, draw)(size=size)
    )
    v = sample((24, length)).astype(np.float32)
    found = ByteLevels(0).quantize(v)
    best = Levels(8, axis=0, scale_bits=11).quantize(v)
    error = squared_error(found.values(FLOAT), v).sum()
    assert error <= most * 1.0001 * squared_error(best.values(FLOAT), v).sum()


def test_a_lone_outlier_is_clipped_where_that_pays() -> None:
    rng = np.random.default_rng(1)
    v = rng.normal(size=(4, 20000)).astype(np.float32)
    v[:, 7] = 7.0
    found = ByteLevels(0).quantize(v)
    reaching = np.rint(v / (7 / 127)) * (7 / 127)
    assert (squared_error(found.values(FLOAT), v) < 0.93 * squared_error(reaching, v)).all()


def test_what_lies_on_a_byte_grid_stays() -> None:
    rng = np.random.default_rng(2)
    for length in (20, 300, 3000):
        once = ByteLevels(0).quantize(rng.normal(size=(8, length)).astype(np.float32)).values(FLOAT)
        np.testing.assert_array_equal(ByteLevels(0).quantize(once).values(FLOAT), once)
        codes = rng.integers(-90, 91, (8, length))  # a grid whose last codes are not in use
        given = (codes * np.float32(0.0625)).astype(np.float32)
        np.testing.assert_array_equal(ByteLevels(0).quantize(given).values(FLOAT), given)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_slices_run_along_any_axis_and_do_not_see_one_another(axis: int) -> None:
    v = np.random.default_rng(3).normal(size=(6, 50, 70)).astype(np.float32)
    found = ByteLevels(axis).quantize(v)
    moved = np.moveaxis(v, axis, 0)
    for number in (0, len(moved) - 1):
        alone = ByteLevels(0).quantize(np.ascontiguousarray(moved[number : number + 1]))
        np.testing.assert_array_equal(np.moveaxis(found.codes, axis, 0)[number], alone.codes[0])
        assert found.scales[number] == alone.scales[0]


def test_codes_scales_and_zeros() -> None:
    v = np.random.default_rng(4).normal(size=(5, 100)).astype(np.float32)
    v[2] = 0
    found = ByteLevels(0, scale_bits=6).quantize(v)
    assert found.codes.dtype == np.int8
    assert np.abs(found.codes.astype(int)).max() == 127
    mantissa, _ = np.frexp(found.scales)
    assert (mantissa * 64 == np.rint(mantissa * 64)).all()
    assert not found.codes[2].any()
    assert found.scales[2] == 1
    assert not found.values(FLOAT)[2].any()
    with pytest.raises(ValueError, match="finite"):
        ByteLevels(0).quantize(np.full((2, 100), np.nan, np.float32))
