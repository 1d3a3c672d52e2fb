"""Level sets: the scale against every assignment of codes, and grids that are found again to the bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnx_admm.admm import AtMostK, ConstraintSet, Levels, SparseLevels, SupportLevels
from onnx_admm.admm.sets import scale as scale_module
from onnx_admm.admm.sets.scale import CodeRange, best_scale, recover_scale

F64 = npt.NDArray[np.float64]
AnyLevels = Levels | SupportLevels | SparseLevels

steady = settings(deadline=None, derandomize=True, max_examples=60)
entries = st.one_of(
    st.integers(-4, 4).map(float), st.floats(-100, 100, width=32).filter(lambda x: abs(x) > 1e-3)
)


def least_error(magnitudes: F64, codes: CodeRange, most: int | None = None) -> float:
    """Least squared error over every assignment of codes (at most ``most`` of them nonzero)."""
    energy = float(magnitudes @ magnitudes)
    least = energy if codes.lowest == 0 else np.inf
    for assignment in itertools.product(range(codes.lowest, codes.highest + 1), repeat=len(magnitudes)):
        code = np.array(assignment, np.float64)
        if code.any() and (most is None or np.count_nonzero(code) <= most):
            least = min(least, energy - float(magnitudes @ code) ** 2 / float(code @ code))
    return least


def check(constraint: AnyLevels, v: F64, least: float) -> None:
    before = v.copy()
    z = constraint.project(v)
    np.testing.assert_array_equal(v, before)
    assert z.dtype == v.dtype
    energy = float((v**2).sum())
    assert float(((z - v) ** 2).sum()) <= least + 1e-6 * energy
    assert constraint.contains(z)
    np.testing.assert_array_equal(constraint.project(z), z)
    found = constraint.quantize(v)
    np.testing.assert_array_equal(found.values(v.dtype), z)


def vectors(least: int = 1, most: int = 5) -> st.SearchStrategy[F64]:
    return st.integers(least, most).flatmap(lambda n: arrays(np.float64, (n,), elements=entries))


@steady
@given(vectors(), st.sampled_from([(2, True), (3, True), (1, False), (2, False), (3, False)]))
def test_levels_have_the_scale_of_least_error(v: F64, kind: tuple[int, bool]) -> None:
    bits, zero = kind
    assume(v.any())
    levels = Levels(bits, zero=zero)
    check(levels, v, least_error(np.abs(v), levels.codes))


@steady
@given(vectors(2), st.integers(1, 3), st.data())
def test_support_levels_have_the_scale_of_least_error(v: F64, bits: int, data: st.DataObject) -> None:
    mask = data.draw(arrays(np.bool_, v.shape))
    assume(v[mask].any())
    levels = SupportLevels(mask, bits)
    outside = float((v[~mask] ** 2).sum())
    check(levels, v, least_error(np.abs(v[mask]), levels.codes) + outside)
    assert not levels.project(v)[~mask].any()
    assert levels.project(v)[mask].all()


@steady
@given(vectors(2, 6), st.integers(0, 4), st.integers(1, 2))
def test_sparse_levels_choose_support_and_scale_together(v: F64, k: int, bits: int) -> None:
    levels = SparseLevels(k, bits)
    check(levels, v, least_error(np.abs(v), levels.codes, most=k))


@steady
@given(arrays(np.float64, (2, 2), elements=entries), st.integers(0, 4))
def test_sparse_levels_with_a_scale_per_channel_beat_pruning_before_quantising(v: F64, k: int) -> None:
    levels = SparseLevels(k, 2, axis=0)
    pruned = AtMostK(k).project(v)
    after = SparseLevels(k, 2, axis=0).project(pruned)
    check(levels, v, float(((after - v) ** 2).sum()))
    assert np.count_nonzero(levels.project(v)) <= k


def test_a_shared_budget_moves_to_the_channel_that_quantises_well() -> None:
    v = np.array([[10.0, 10.0, 5.1], [5.0, 5.0, 5.0]])
    assert SparseLevels(5, 1, axis=0).project(v).tolist() == [[10, 10, 0], [5, 5, 5]]
    prune_first = SupportLevels(AtMostK(5).project(v) != 0, 1, axis=0)
    np.testing.assert_allclose(prune_first.project(v), [[25.1 / 3] * 3, [5, 5, 0]])


def test_support_and_scales_are_improved_until_neither_changes() -> None:
    """Pruning first leaves a squared error of 47, one exchange 38 2/3, and a second one 36 3/4."""
    v = np.array([[2.0, 8, 3, 1], [3, 3, 5, 2], [1, 10, 1, 4]])
    z = SparseLevels(6, 1, axis=0).project(v)
    assert z.tolist() == [[0, 8, 0, 0], [3.25] * 4, [0, 10, 0, 0]]
    assert np.square(v - z).sum() == 36.75


@steady
@given(arrays(np.float64, (2, 3), elements=entries), st.sampled_from([0, 1, -1]))
def test_a_scale_per_channel_is_one_tensor_per_channel(v: F64, axis: int) -> None:
    whole = Levels(3, axis=axis).project(v)
    for i in range(v.shape[axis]):
        part = Levels(3).project(np.take(v, i, axis=axis))
        np.testing.assert_array_equal(np.take(whole, i, axis=axis), part)


# -- the search over many breakpoints ---------------------------------------------------------


def every_assignment_on_the_path(magnitudes: F64, codes: CodeRange) -> float:
    """Least error by sorting all breakpoints, with no interval left out."""
    steps = np.arange(codes.lowest, codes.highest)
    values, code = np.repeat(magnitudes, len(steps)), np.tile(steps, len(magnitudes))
    order = np.argsort(-values / (code + 0.5), kind="stable")
    ac = codes.lowest * magnitudes.sum() + np.cumsum(values[order])
    cc = codes.lowest**2 * len(magnitudes) + np.cumsum(2.0 * code[order] + 1)
    return float(magnitudes @ magnitudes - (ac**2 / cc).max())


def error_at(magnitudes: F64, codes: CodeRange, scale: float) -> float:
    return float(((magnitudes - scale * codes.nearest(magnitudes, scale)) ** 2).sum())


@pytest.mark.parametrize("codes", [CodeRange(0, 1), CodeRange(0, 7), CodeRange(1, 4), CodeRange(0, 127)])
@pytest.mark.parametrize("kind", ["normal", "laplace", "heavy", "two_clusters", "whole_numbers"])
def test_sieving_the_breakpoints_loses_nothing(
    kind: str, codes: CodeRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_module, "_DIRECT", 50)
    rng = np.random.default_rng(7)
    draws: dict[str, Callable[[], F64]] = {
        "normal": lambda: rng.normal(size=3000),
        "laplace": lambda: rng.laplace(size=3000),
        "heavy": lambda: rng.standard_t(2, size=3000),
        "two_clusters": lambda: np.append(rng.normal(1, 0.01, 2999), 50.0),
        "whole_numbers": lambda: rng.integers(-1000, 1000, 3000).astype(np.float64),
    }
    magnitudes = np.abs(draws[kind]())
    least = every_assignment_on_the_path(magnitudes, codes)
    found = error_at(magnitudes, codes, best_scale([(magnitudes, codes)], 53))
    assert found <= least * (1 + 1e-9) + 1e-12 * float(magnitudes @ magnitudes)


def test_the_search_is_not_the_obvious_guess() -> None:
    """The scale that spans the range, and one least-squares step from it, are both worse."""
    magnitudes = np.abs(np.random.default_rng(3).standard_t(3, size=2000))
    codes = CodeRange(0, 3)
    found = error_at(magnitudes, codes, best_scale([(magnitudes, codes)], 24))
    span = magnitudes.max() / 3
    assigned = codes.nearest(magnitudes, span)
    refined = float(magnitudes @ assigned / (assigned @ assigned))
    assert found < 0.9 * error_at(magnitudes, codes, refined) <= 0.9 * error_at(magnitudes, codes, span)


# -- the invariant that values hold everything -------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_code_times_scale_is_exact_in_float32(bits: int, axis: int | None) -> None:
    v = np.random.default_rng(bits).normal(size=(6, 50)).astype(np.float32)
    found = Levels(bits, axis=axis, scale_bits=11).quantize(v)
    z = Levels(bits, axis=axis, scale_bits=11).project(v)
    assert np.array_equal(found.scales, found.scales.astype(np.float16 if bits < 8 else np.float32))
    mantissas = np.frexp(found.scales)[0] * 2**11
    np.testing.assert_array_equal(mantissas, np.rint(mantissas))
    along = found.scales if axis is None else np.expand_dims(found.scales, 1 - axis)
    codes, scales = found.codes.astype(np.float32), along.astype(np.float32)
    np.testing.assert_array_equal(z, codes * scales)
    np.testing.assert_array_equal(z.astype(np.float64), found.codes * along)
    assert np.abs(found.codes).max() <= 2 ** (bits - 1) - 1


@steady
@example(np.array([3, 6, -3, 0]), 1.9990234375, 11)  # triples: 3q needs more bits than a scale has
@given(
    arrays(np.int64, (4,), elements=st.integers(-7, 7)),
    st.floats(2.0**-60, 2.0**60, width=32),
    st.sampled_from([11, 24]),
)
def test_a_grid_is_found_again_to_the_bit(codes: npt.NDArray[np.int64], raw: float, bits: int) -> None:
    mantissa, exponent = np.frexp(raw)
    q = float(np.ldexp(np.rint(mantissa * 2**bits), exponent - bits))
    z = (codes * q).astype(np.float32)
    levels = Levels(4, scale_bits=bits)
    assert levels.contains(z)
    np.testing.assert_array_equal(levels.project(z), z)
    found = recover_scale(np.abs(z), levels.codes, bits)
    assert found is not None
    assert (found == 0) == (not codes.any())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_coarse_scale_is_the_better_of_its_two_neighbours(bits: int) -> None:
    codes = CodeRange(0, 7)
    for seed in range(20):
        magnitudes = np.abs(np.random.default_rng(seed).normal(size=30))
        fine, coarse = best_scale([(magnitudes, codes)], 53), best_scale([(magnitudes, codes)], bits)
        unit = 2.0 ** (np.floor(np.log2(fine)) + 1 - bits)
        neighbours = np.floor(fine / unit) * unit + np.array([0.0, unit])
        assert coarse in neighbours
        assert error_at(magnitudes, codes, coarse) == pytest.approx(
            min(error_at(magnitudes, codes, q) for q in neighbours)
        )


def test_what_is_on_no_grid_is_not_contained() -> None:
    assert not Levels(2).contains(np.array([1.0, 0.5]))
    assert Levels(3).contains(np.array([1.0, 0.5]))
    assert not Levels(2, zero=False).contains(np.array([1.0, 0.0]))
    assert not Levels(8, scale_bits=3).contains(np.array([1.0, 1 + 2**-20]))
    assert not SparseLevels(1, 3).contains(np.array([1.0, 2.0]))
    assert not SupportLevels(np.array([True, False]), 3).contains(np.array([1.0, 2.0]))
    assert not SupportLevels(np.array([True, True]), 3).contains(np.array([1.0, 0.0]))
    assert not Levels(2).contains(np.random.default_rng(0).normal(size=1000))


# -- decided edges ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "levels",
    [Levels(2), Levels(2, zero=False), SupportLevels(np.ones((2, 3), np.bool_), 2), SparseLevels(3, 2)],
)
def test_zeros_stay_zero(levels: AnyLevels) -> None:
    zeros = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(levels.project(zeros), zeros)
    assert levels.contains(zeros)


def test_a_channel_of_zeros_stays_zero_beside_others() -> None:
    v = np.array([[0.0, 0.0], [1.0, -2.0]], np.float32)
    found = Levels(2, zero=False, axis=0).quantize(v)
    assert found.codes.tolist() == [[0, 0], [1, -2]]
    assert found.scales.tolist() == [0, 1]


def test_zero_goes_up_where_zero_is_no_level_and_midway_goes_down() -> None:
    assert Levels(1, zero=False).project(np.array([0.0, 3.0, -3.0])).tolist() == [2, 2, -2]
    assert CodeRange(0, 7).nearest(np.array([0.5, 1.5, 2.5]), 1.0).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
def test_the_unit_of_the_weights_does_not_matter(dtype: type, magnitude: float) -> None:
    v = np.random.default_rng(0).normal(size=40)
    here = Levels(3).quantize((v * magnitude).astype(dtype)).codes
    np.testing.assert_array_equal(here, Levels(3).quantize(v).codes)


def test_empty_tensors_stay_empty() -> None:
    for levels in (Levels(2), Levels(2, axis=1), SparseLevels(1, 2), SparseLevels(1, 2, axis=0)):
        assert levels.project(np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Levels(1),
        lambda: Levels(0, zero=False),
        lambda: Levels(17),
        lambda: Levels(2, scale_bits=25),
        lambda: SparseLevels(-1, 2),
        lambda: SupportLevels(np.ones(2, np.bool_), 0),
        lambda: SupportLevels(np.ones(3, np.bool_), 2).project(np.ones(2)),
        lambda: Levels(2, axis=1).project(np.ones(2)),
    ],
)
def test_impossible_sets_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must be|on a tensor of"):
        make()


@pytest.mark.parametrize("levels", [Levels(2), SparseLevels(1, 2), SupportLevels(np.ones(2, np.bool_), 2)])
def test_values_that_are_not_finite_are_refused(levels: ConstraintSet) -> None:
    with pytest.raises(ValueError, match="not finite"):
        levels.project(np.array([1.0, np.nan]))


# -- eight bits: a byte has no code 128 -------------------------------------------------------

EVERY = np.ones(128, np.bool_)


@pytest.mark.parametrize(
    "levels", [Levels(8), Levels(8, zero=False), SupportLevels(EVERY, 8), SparseLevels(128, 8)]
)
def test_codes_of_eight_bits_end_at_127(levels: AnyLevels) -> None:
    """With 128 as a code, 1 .. 128 would be its own projection."""
    found = levels.quantize(np.arange(1.0, 129.0))
    assert np.abs(found.codes).max() == 127
    assert not levels.contains(np.arange(1.0, 129.0))
    assert levels.contains(np.minimum(np.arange(1.0, 129.0), 127))


@pytest.mark.parametrize(("bits", "highest"), [(7, 64), (8, 127), (9, 256), (16, 1 << 15)])
def test_without_a_zero_all_other_widths_use_every_code(bits: int, highest: int) -> None:
    assert Levels(bits, zero=False).codes == CodeRange(1, highest)
    assert SupportLevels(EVERY, bits).codes == CodeRange(1, highest)
    assert SparseLevels(1, bits).codes == CodeRange(0, highest)


def test_slices_below_the_least_peak_count_as_zeros() -> None:
    """Below 2^-100 float32 has no room for exact scales."""
    for factor, counts in ((2.0**-100, True), (2.0**-101, False)):
        magnitudes = np.array([1.0, 0.7, 0.3]) * factor
        assert (best_scale([(magnitudes, CodeRange(0, 3))], 11) > 0) == counts
        assert Levels(3, scale_bits=11).project(magnitudes).any() == counts
