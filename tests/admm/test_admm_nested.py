"""Intersections: each allowed pair against every support, each other pair refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnx_admm.admm import AtMostK, ChannelK, Levels, Nested, NofM

F64 = npt.NDArray[np.float64]
steady = settings(deadline=None, derandomize=True, max_examples=60)
entries = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-100, 100, width=32).filter(lambda x: abs(x) > 1e-3)
)


def supports(shape: tuple[int, ...]) -> list[npt.NDArray[np.bool_]]:
    return [np.array(m).reshape(shape) for m in itertools.product([False, True], repeat=int(np.prod(shape)))]


def check(nested: Nested, v: F64, least: float) -> None:
    z = nested.project(v)
    assert nested.contains(z)
    np.testing.assert_array_equal(nested.project(z), z)
    assert float(((z - v) ** 2).sum()) <= least + 1e-6 * float((v**2).sum())


@steady
@given(arrays(np.float64, (6,), elements=entries), st.integers(0, 4))
def test_groups_and_one_budget(v: F64, k: int) -> None:
    feasible = [m for m in supports((6,)) if m.sum() <= k and m[:3].sum() <= 2 and m[3:].sum() <= 2]
    check(Nested(NofM(2, 3), AtMostK(k)), v, min(float((v[~m] ** 2).sum()) for m in feasible))


@steady
@given(arrays(np.float64, (3, 2), elements=entries), st.integers(0, 3))
def test_groups_inside_channels(v: F64, k: int) -> None:
    feasible = [m for m in supports((3, 2)) if m.any(axis=1).sum() <= k and (m.sum(axis=1) <= 1).all()]
    check(Nested(NofM(1, 2), ChannelK((0,), k)), v, min(float((v[~m] ** 2).sum()) for m in feasible))


@steady
@given(arrays(np.float64, (4,), elements=entries), st.sampled_from([NofM(1, 2), AtMostK(1), AtMostK(3)]))
def test_a_support_and_levels(v: F64, first: NofM | AtMostK) -> None:
    least = float(v @ v)
    for assignment in itertools.product(range(4), repeat=4):
        code = np.array(assignment, np.float64)
        if code.any() and first.contains(code):
            least = min(least, float(v @ v) - float(np.abs(v) @ code) ** 2 / float(code @ code))
    check(Nested(first, Levels(3)), v, least)


def test_groups_and_a_scale_per_channel_are_one_projection_per_channel() -> None:
    v = np.random.default_rng(0).normal(size=(3, 8))
    whole = Nested(NofM(2, 4), Levels(3, axis=0)).project(v)
    rows = [Nested(NofM(2, 4), Levels(3)).project(row) for row in v]
    np.testing.assert_array_equal(whole, rows)


def test_only_one_of_the_two_is_not_enough() -> None:
    nested = Nested(NofM(1, 2), AtMostK(1))
    assert not nested.contains(np.array([1.0, 0.0, 1.0, 0.0]))
    assert not Nested(NofM(1, 2), AtMostK(2)).contains(np.array([1.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (AtMostK(2), NofM(1, 2)),
        (AtMostK(2), ChannelK((0,), 1)),
        (NofM(1, 2, axis=0), ChannelK((0,), 1)),
        (NofM(1, 2), ChannelK((-1,), 1)),
        (NofM(1, 2), Levels(2, axis=1)),
        (NofM(1, 2), Levels(2, zero=False)),
        (AtMostK(2), Levels(2, axis=0)),
    ],
)
def test_pairs_without_an_exact_projection_are_refused(first: Any, second: Any) -> None:
    nested = Nested(first, second)
    with pytest.raises(ValueError, match="no exact projection"):
        nested.project(np.ones((2, 2)))
    with pytest.raises(ValueError, match="no exact projection"):
        nested.contains(np.ones((2, 2)))
