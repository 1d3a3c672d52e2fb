"""The multiple-choice knapsack, and what it does where an integer solver answers oddly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.allocation import branch_and_cut, knapsack
from onnx_admm.allocation.branch_and_cut import GAP
from onnx_admm.allocation.knapsack import choose, choose_within, require_reach
from onnx_admm.errors import PassRefused

F64 = npt.NDArray[np.float64]

VALUES = [np.array([10.0, 5.0, 0.0])]
WEIGHTS = [np.array([0.0, 6.0, 10.0])]
"""Within 9, prices alone choose the first option; the second is best."""


def answering(*answers: Sequence[float] | None) -> Callable[..., SimpleNamespace]:
    """A solver that gives these answers in turn, whatever it is asked."""
    left = iter(answers)

    def milp(*_: object, **__: object) -> SimpleNamespace:
        answer = next(left)
        return SimpleNamespace(x=None if answer is None else np.array(answer))

    return milp


@pytest.mark.parametrize("middle", [0.5, 5.0, 9.0, 9.9])
def test_the_middle_option_is_found_though_no_price_chooses_it(middle: float) -> None:
    assert choose([np.array([10.0, middle, 0.0])], WEIGHTS, 9.0).tolist() == [1]


TWO = [np.array([8.0, 3.1, 0.0]), np.array([9.0, 4.6, 0.0])]
HEAVY = [np.array([0.0, 5.0, 8.0]), np.array([0.0, 4.0, 8.0])]
"""Within 9.2, prices choose [0, 2] of value 8; [1, 1] of value 7.7 is best."""


def test_the_best_pair_is_found_where_prices_choose_another() -> None:
    assert choose(TWO, HEAVY, 9.2).tolist() == [1, 1]
    assert choose(VALUES, WEIGHTS, 9.0).tolist() == [1]


def drawn(rng: np.random.Generator, layers: int, options: int) -> tuple[list[F64], list[F64], float]:
    """Options of layers of very different sizes, and a limit within reach."""
    values = [np.sort(rng.random(options) * 10 ** rng.uniform(-2, 1))[::-1] for _ in range(layers)]
    weights = [np.sort(rng.random(options) * 10 ** rng.uniform(-2, 1)) for _ in range(layers)]
    least, most = (sum(end(row) for row in weights) for end in (np.min, np.max))
    return values, weights, float(least + (most - least) * rng.uniform(0.02, 0.9))


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_is_better_than_the_one_found(seed: int) -> None:
    values, weights, limit = drawn(np.random.default_rng(seed), 4, 6)
    found = choose(values, weights, limit)
    totals = np.array([sum(row) for row in itertools.product(*values)])
    fits = np.array([sum(row) for row in itertools.product(*weights)]) <= limit
    value, weight = (
        sum(row[index] for row, index in zip(rows, found, strict=True)) for rows in (values, weights)
    )
    assert weight <= limit
    assert value <= totals[fits].min() * (1 + 1.01 * GAP)


@pytest.mark.parametrize("seed", range(3))
def test_partial_choices_that_are_too_many_are_thinned(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, weights, limit = drawn(np.random.default_rng(seed), 30, 20)
    best = choose(values, weights, limit)
    monkeypatch.setattr(knapsack, "_MOST_STATES", 200)
    few = choose(values, weights, limit)
    first, second = (sum(row[index] for row, index in zip(values, each, strict=True)) for each in (best, few))
    assert sum(row[index] for row, index in zip(weights, few, strict=True)) <= limit
    assert second <= 1.02 * first


def test_a_limit_within_a_millionth_is_kept() -> None:
    """Options that miss the limit by less than the solver's own tolerance."""
    values = [np.array([1.0, 0.0]), np.array([1.0, 0.0])]
    weights = [np.array([0.0, 1.0]), np.array([0.0, 1.0 + 1e-7])]
    assert sum(choose(values, weights, 2.0)) == 1


# -- several limits ---------------------------------------------------------------------------


def within(limits: Sequence[float]) -> list[int]:
    errors = [np.array([4.0, 1.0, 0.0]), np.array([3.0, 0.0])]
    costs = [np.array([[1.0, 1.0], [2.0, 3.0], [3.0, 3.0]]), np.array([[1.0, 1.0], [3.0, 2.0]])]
    return choose_within(errors, costs, np.array(limits)).tolist()


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        ([6, 5], [2, 1]),
        ([5, 5], [1, 1]),
        ([5, 4], [2, 0]),
        ([4, 4], [2, 0]),
        ([4, 3], [0, 1]),
        ([2, 2], [0, 0]),
    ],
)
def test_every_limit_holds_and_the_error_is_least(limits: list[float], chosen: list[int]) -> None:
    assert within(limits) == chosen


@pytest.mark.parametrize("limits", [[1.9, 9.0], [9.0, 1.9]])
def test_one_limit_out_of_reach_is_enough_to_refuse(limits: list[float]) -> None:
    with pytest.raises(PassRefused, match="no choice of compression options keeps to all budgets at once"):
        within(limits)


@pytest.mark.parametrize("over", [0, 1])
def test_with_several_limits_a_choice_over_one_is_asked_anew_and_then_refused(
    over: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [2.5, 9.0] if over == 0 else [9.0, 2.5]
    heavy, light = [0, 1, 0, 0, 1], [1, 0, 0, 1, 0]  # as the options come in order of their errors
    chosen = {"heavy": heavy, "light": light}
    errors = [np.array([0.0, 1.0, 4.0]), np.array([0.0, 3.0])]
    costs = [np.array([[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]]), np.array([[3.0, 3.0], [1.0, 1.0]])]
    monkeypatch.setattr(branch_and_cut, "milp", answering(chosen["light"], chosen["heavy"]))
    with pytest.raises(PassRefused, match="keeps to all budgets"):
        choose_within(errors, costs, np.array(limits))
    monkeypatch.setattr(branch_and_cut, "milp", answering(chosen["light"], [0, 0, 1, 0, 1]))
    assert choose_within(errors, costs, np.array(limits)).tolist() == [2, 1]


def test_a_limit_below_the_lightest_options_is_refused_with_their_weight() -> None:
    require_reach([np.array([3.0, 1.0]), np.array([2.0])], 3.0, "too little")
    with pytest.raises(PassRefused, match=r"too little; got 2\.9; expected at least 3"):
        require_reach([np.array([3.0, 1.0]), np.array([2.0])], 2.9, "too little")
    with pytest.raises(PassRefused, match="too little"):
        require_reach([np.array([np.nan])], 3.0, "too little")
