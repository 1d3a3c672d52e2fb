"""Sets on the support of one tensor: each projection against every support there is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnx_admm.admm import AtMostK, BlockK, ChannelK, ConstraintSet, NofM, Support

F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Feasible = Callable[[Bools], bool]

steady = settings(deadline=None, derandomize=True, max_examples=60)
# small whole numbers bring ties and zeros, the others everything else
entries = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=32))


def tensors(*shape: int) -> st.SearchStrategy[F32]:
    return arrays(np.float32, shape, elements=entries)


def supports(shape: tuple[int, ...]) -> Iterator[Bools]:
    size = int(np.prod(shape))
    for bits in itertools.product([False, True], repeat=size):
        yield np.array(bits).reshape(shape)


def least_distance(v: F32, feasible: Feasible) -> float:
    """Squared distance to the nearest tensor whose support is feasible, by trying every support."""
    squares = v.astype(np.float64) ** 2
    return min(float(squares[~mask].sum()) for mask in supports(v.shape) if feasible(mask))


def check(constraint: ConstraintSet, v: F32, feasible: Feasible) -> None:
    before = v.copy()
    z = constraint.project(v)
    assert z.dtype == v.dtype
    assert z.shape == v.shape
    np.testing.assert_array_equal(v, before)
    assert not np.shares_memory(v, z)
    assert feasible(z != 0)
    assert constraint.contains(z)
    distance = float(((z.astype(np.float64) - v) ** 2).sum())
    assert distance <= least_distance(v, feasible) * (1 + 1e-9)
    np.testing.assert_array_equal(constraint.project(z), z)
    assert constraint.contains(v) == feasible(v != 0)


@steady
@given(tensors(2, 3), st.integers(0, 7))
def test_at_most_k_is_a_nearest_point(v: F32, k: int) -> None:
    check(AtMostK(k), v, lambda mask: mask.sum() <= k)


@steady
@given(tensors(6), st.integers(0, 3), st.integers(1, 4))
def test_n_of_m_is_a_nearest_point(v: F32, n: int, m: int) -> None:
    check(NofM(n, m), v, lambda mask: all(mask[i : i + m].sum() <= n for i in range(0, 6, m)))


@pytest.mark.parametrize("m", [2, 3, 4, 6, 9])
@pytest.mark.parametrize("extent", [1, 5, 7, 8])
@pytest.mark.parametrize("n", [1, 2])
def test_the_short_last_group_keeps_its_own_largest_however_small(n: int, extent: int, m: int) -> None:
    v = (1e-3 * np.random.default_rng(extent).permutation(np.arange(1, extent + 1))).astype(np.float32)
    expected = np.zeros_like(v)
    for start in range(0, extent, m):
        group = v[start : start + m]
        kept = np.argsort(-group)[:n]
        expected[start : start + m][kept] = group[kept]
    np.testing.assert_array_equal(NofM(n, m).project(v), expected)
    np.testing.assert_array_equal(NofM(n, m, axis=0).project(v[:, None]), expected[:, None])
    assert NofM(n, m).contains(expected)
    assert NofM(n, m).contains(v) == (min(extent, m) <= n)


@steady
@given(tensors(3, 2), st.integers(0, 2))
def test_n_of_m_runs_along_its_axis(v: F32, n: int) -> None:
    def feasible(mask: Bools) -> bool:
        return all(mask[:2, j].sum() <= n and mask[2:, j].sum() <= n for j in range(2))

    check(NofM(n, 2, axis=0), v, feasible)


@steady
@given(tensors(2, 3), st.integers(0, 4))
def test_block_k_is_a_nearest_point(v: F32, k: int) -> None:
    tiles = [(slice(r, r + 1), slice(c, c + 2)) for r in range(2) for c in (0, 2)]
    check(BlockK((1, 2), k), v, lambda mask: sum(mask[tile].any() for tile in tiles) <= k)


@steady
@given(tensors(2, 3), st.integers(0, 4), st.sampled_from([(0,), (1,), (-1,), (0, 1)]))
def test_channel_k_is_a_nearest_point(v: F32, k: int, axes: tuple[int, ...]) -> None:
    rest = tuple(axis for axis in range(2) if axis not in {a % 2 for a in axes})
    check(ChannelK(axes, k), v, lambda mask: mask.any(axis=rest).sum() <= k if rest else mask.sum() <= k)


@steady
@given(tensors(2, 3), arrays(np.bool_, (2, 3)))
def test_support_is_a_nearest_point(v: F32, allowed: Bools) -> None:
    check(Support(allowed), v, lambda mask: not (mask & ~allowed).any())


def test_ties_go_to_the_lowest_flat_index() -> None:
    ones = np.ones((2, 4), np.float32)
    assert AtMostK(3).project(ones).reshape(-1).tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert NofM(2, 4).project(ones).tolist() == [[1, 1, 0, 0]] * 2
    assert BlockK((1, 2), 1).project(ones).reshape(-1).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert ChannelK((1,), 1).project(ones).tolist() == [[1, 0, 0, 0]] * 2


def test_a_short_block_takes_the_remaining_axes_whole() -> None:
    v = np.arange(8, dtype=np.float64).reshape(2, 2, 2)
    np.testing.assert_array_equal(BlockK((1,), 1).project(v), ChannelK((0,), 1).project(v))
    np.testing.assert_array_equal(BlockK((0, 1), 1).project(v), ChannelK((1,), 1).project(v))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.float32, 1e-30), (np.float32, 1e30), (np.float64, 1e-200), (np.float64, 1e200), (np.float16, 1e4)],
)
def test_norms_of_blocks_neither_overflow_nor_vanish(dtype: type, scale: float) -> None:
    v = np.array([[1, 1], [2, 2], [3, 3]], dtype) * dtype(scale)
    np.testing.assert_array_equal(ChannelK((0,), 1).project(v), v * np.array([[0], [0], [1]], dtype))


def test_norms_of_blocks_are_summed_in_double_precision() -> None:
    v = np.array(
        [[1.0, 0.0], [1.0, 2.0**-13]], np.float32
    )  # squares: 1, and 1 + 2^-26, which fp32 rounds to 1
    assert ChannelK((0,), 1).project(v).tolist() == [[0, 0], [1, 2.0**-13]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_empty_tensor_stays_empty(dtype: type) -> None:
    empty = np.zeros((0, 4), dtype)
    for constraint in (AtMostK(2), NofM(2, 4), BlockK((1, 2), 1), ChannelK((0,), 1)):
        assert constraint.project(empty).shape == (0, 4)
        assert constraint.contains(empty)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "constraint",
    [AtMostK(1), NofM(1, 2), BlockK((1,), 1), ChannelK((0,), 1), Support(np.ones(2, np.bool_))],
)
def test_values_that_are_not_finite_are_refused(constraint: ConstraintSet, bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        constraint.project(np.array([1.0, bad]))


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        AtMostK(1).project(np.array([1, 2]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: AtMostK(-1),
        lambda: NofM(-1, 4),
        lambda: NofM(2, 0),
        lambda: BlockK((-1,), 1),
        lambda: BlockK((1,), -1),
        lambda: ChannelK((0,), -1),
        lambda: BlockK((1, 1), 1).project(np.ones(2)),
        lambda: ChannelK((1,), 1).project(np.ones(2)),
        lambda: Support(np.ones(3, np.bool_)).project(np.ones(2)),
    ],
)
def test_impossible_sets_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must be|on a tensor of"):
        make()
