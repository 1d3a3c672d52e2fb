"""Sets over several tensors."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnx_admm.admm import AtMostK, GlobalAtMostK, Levels, Separable

F32 = npt.NDArray[np.float32]
entries = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=32))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    arrays(np.float32, (3,), elements=entries),
    arrays(np.float64, (1, 2), elements=entries),
    st.integers(0, 6),
    st.sampled_from([0.25, 1.0, 3.0]),
)
def test_one_budget_over_two_tensors_is_a_nearest_point(a: F32, b: F32, k: int, weight: float) -> None:
    blocks = {"a": a, "b": b}
    copies = {name: block.copy() for name, block in blocks.items()}
    both = GlobalAtMostK(k, {"b": weight})
    z = both.project(blocks)
    for name, block in blocks.items():
        np.testing.assert_array_equal(block, copies[name])
        assert z[name].dtype == block.dtype
        assert z[name].shape == block.shape
    assert both.contains(z)
    costs = np.concatenate([a.astype(float) ** 2, weight**2 * b.reshape(-1) ** 2])
    least = min(
        costs @ ~np.array(mask) for mask in itertools.product([False, True], repeat=5) if sum(mask) <= k
    )
    error = ((z["a"] - a.astype(float)) ** 2).sum() + weight**2 * ((z["b"] - b) ** 2).sum()
    assert error <= least * (1 + 1e-9)
    again = both.project(z)
    assert z.keys() == again.keys() == {"a", "b"}
    assert all(np.array_equal(again[name], z[name]) for name in z)


@pytest.mark.parametrize(("weight", "kept"), [(1.0, "a"), (1.9, "a"), (2.1, "b"), (30.0, "b")])
def test_what_a_unit_of_error_counts_decides_which_tensor_keeps(weight: float, kept: str) -> None:
    z = GlobalAtMostK(1, {"b": weight}).project({"a": np.array([2.0]), "b": np.array([-1.0])})
    assert [name for name in z if z[name].any()] == [kept]


@pytest.mark.parametrize(
    ("dtype", "scale", "weight"),
    [(np.float32, 1e30, 1e20), (np.float64, 1e300, 1e20), (np.float32, 1, 1.5e308), (np.float32, 1, 1e-60)],
)
def test_weighted_magnitudes_neither_overflow_nor_vanish(dtype: type, scale: float, weight: float) -> None:
    a, b = np.array([1, 2], dtype) * dtype(scale), np.array([0.5, 3], dtype) * dtype(scale)
    z = GlobalAtMostK(2, {"a": weight, "b": weight}).project({"a": a, "b": b})
    np.testing.assert_array_equal(z["a"], a * np.array([0, 1], dtype))
    np.testing.assert_array_equal(z["b"], b * np.array([0, 1], dtype))


def test_ties_go_to_the_earlier_tensor() -> None:
    z = GlobalAtMostK(3).project({"late": np.ones(2), "early": np.ones(2)})
    assert z["late"].tolist() == [1, 1]
    assert z["early"].tolist() == [1, 0]


def test_one_budget_counts_what_every_tensor_keeps() -> None:
    pair = {"a": np.ones(2), "b": np.ones(2)}
    assert GlobalAtMostK(4).contains(pair)
    assert not GlobalAtMostK(3).contains(pair)
    assert GlobalAtMostK(0).project({}) == {}


def test_separable_projects_each_tensor_on_its_own_set() -> None:
    sets = Separable({"a": AtMostK(1), "b": Levels(2)})
    blocks = {"a": np.array([1.0, -2.0]), "b": np.array([0.1, 1.0, -1.0])}
    z = sets.project(blocks)
    assert z["a"].tolist() == [0, -2]
    assert z["b"].tolist() == [0, 1, -1]
    assert sets.contains(z)
    assert not sets.contains(blocks)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_separable_wants_a_set_for_every_tensor_and_no_other(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"do not match at: [bc]"):
        Separable({"a": AtMostK(1), "b": AtMostK(1)}).project({name: np.ones(2) for name in names})


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        GlobalAtMostK(1, {"a": weight})


def test_weights_of_unknown_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="not there: b"):
        GlobalAtMostK(1, {"b": 2.0}).project({"a": np.ones(2)})
