"""Shifted grids against every assignment of codes, and sets seen in another shape."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnx_admm.admm import Levels, NofM, Reshaped, ShiftedLevels

F64 = npt.NDArray[np.float64]
steady = settings(deadline=None, derandomize=True, max_examples=60)
entries = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-100, 100, width=32).filter(lambda x: abs(x) > 1e-3)
)


def least_error(v: F64, bits: int, centred: bool) -> float:
    """Least squared error over every offset and every assignment of codes, each with its best scale."""
    span = 2 * (2**bits - 1)
    lowest = [-span // 2] if centred else range(-span, 1)
    least = float(v @ v) if not centred else np.inf
    for low in lowest:
        for codes in itertools.product(range(low, low + span + 1, 2), repeat=len(v)):
            code = np.array(codes, np.float64)
            if (product := float(v @ code)) > 0:
                least = min(least, float(v @ v) - product**2 / float(code @ code))
    return least


@steady
@given(
    st.integers(1, 3).flatmap(lambda n: arrays(np.float64, (n,), elements=entries)),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_offset_and_scale_have_the_least_error(v: F64, bits: int, centred: bool) -> None:
    levels = ShiftedLevels(bits, centred=centred)
    before = v.copy()
    z = levels.project(v)
    np.testing.assert_array_equal(v, before)
    error = float(((z - v) ** 2).sum())
    if v.any():
        assert error <= least_error(v, bits, centred) + 1e-6 * float(v @ v)
    assert levels.contains(z)
    np.testing.assert_array_equal(levels.project(z), z)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [1, 2, 3, 5])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_codes_and_scales_are_the_projection(bits: int, axis: int | None, dtype: type) -> None:
    v = (np.random.default_rng(bits).normal(size=(6, 40)) + 0.3).astype(dtype)
    levels = ShiftedLevels(bits, axis=axis, scale_bits=16)
    found, z = levels.quantize(v), levels.project(v)
    np.testing.assert_array_equal(found.values(np.dtype(dtype)), z)
    assert levels.contains(z)
    assert found.lowest is not None
    low = found.lowest.reshape({None: (1, 1), 0: (6, 1), -1: (1, 40)}[axis])
    assert (found.codes >= low).all()
    assert (found.codes <= low + levels.span).all()
    assert ((found.codes - low) % 2 == 0).all()


def test_skewed_values_want_a_shift_and_symmetric_ones_the_middle() -> None:
    rng = np.random.default_rng(0)
    skewed = rng.exponential(size=400) - 0.2
    errors = [
        float(np.square(ShiftedLevels(3, centred=c).project(skewed) - skewed).sum()) for c in (False, True)
    ]
    assert errors[0] < 0.5 * errors[1]
    even = rng.normal(size=400)
    assert np.square(ShiftedLevels(2).project(even) - even).mean() < 0.13
    assert np.square(Levels(2).project(even) - even).mean() > 0.17


@pytest.mark.parametrize(
    ("z", "bits", "centred", "inside"),
    [
        ([-3.0, -1.0, 1.0, 3.0], 2, True, True),
        ([-3.0, -1.0, 1.0, 3.0], 2, False, True),
        ([0.0, 1.0, 2.0, 3.0], 2, False, True),
        ([0.0, 1.0, 2.0, 3.0], 2, True, False),
        ([-1.0, 0.0, 1.0, 2.0], 2, False, True),
        ([1.0, 2.0, 4.0, 5.0], 2, False, False),
        ([5.0, 6.0], 1, False, False),
        ([-0.5, 0.5, 1.5, 2.5], 2, False, True),
        ([0.5, 1.5, 2.5, 3.5, 4.5], 2, False, False),
        ([0.0, 0.0], 1, True, True),
        ([0.0, 1.0], 1, True, False),
    ],
)
def test_what_lies_on_a_shifted_grid(z: list[float], bits: int, centred: bool, inside: bool) -> None:
    assert ShiftedLevels(bits, centred=centred).contains(np.array(z)) is inside


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 6}, {"bits": 3, "scale_bits": 0}])
def test_nonsense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ShiftedLevels(**wrong)  # type: ignore[arg-type]


# -- other shapes ------------------------------------------------------------------------------


def test_groups_along_input_channels_of_a_kernel() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 8, 2, 2))
    seen = Reshaped(NofM(2, 4, axis=1), kernel.shape)
    z = seen.project(kernel.reshape(3, 32))
    np.testing.assert_array_equal(z.reshape(kernel.shape), NofM(2, 4, axis=1).project(kernel))
    assert seen.contains(z)
    assert not seen.contains(NofM(2, 4).project(kernel.reshape(3, 32)))


def test_a_scale_for_every_few_inputs() -> None:
    v = np.random.default_rng(0).normal(size=(4, 64)) * np.repeat([1.0, 10.0], 32)
    z = Reshaped(Levels(3, axis=0), (8, 32)).project(v)
    np.testing.assert_array_equal(z[:, :32], Levels(3, axis=0).project(v[:, :32]))
    np.testing.assert_array_equal(z[:, 32:], Levels(3, axis=0).project(v[:, 32:]))
