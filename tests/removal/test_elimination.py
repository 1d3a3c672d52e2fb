"""The greedy choice: exact for each step, and what is removed is expressed by what stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.admm import LayerProblem
from onnx_admm.removal.elimination import SharedProblem, eliminate, refitted


def problem(x: np.ndarray, weights: np.ndarray, ridge: float = 1e-6) -> LayerProblem:
    """The problem of one layer with inputs (n, d) and weights (rows, d)."""
    targets = x @ weights.T
    gram, cross = x.T @ x / len(x), targets.T @ x / len(x)
    return LayerProblem(gram[None], cross, weights, (targets**2).mean(0), ridge)


def shared(found: LayerProblem, units: np.ndarray) -> SharedProblem:
    return SharedProblem(found, units, np.ones(len(units), np.bool_))


def loss_without(found: LayerProblem, removed: np.ndarray) -> float:
    """The loss with all other inputs refitted, from the normal equations."""
    left = np.flatnonzero(~removed)
    weights = np.zeros(found.original.shape)
    weights[:, left] = np.linalg.solve(found.normal[0][np.ix_(left, left)], found.linear[:, left].T).T
    return found.loss(weights)


@pytest.mark.parametrize("seed", range(5))
def test_each_step_is_the_cheapest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12))
    units = np.repeat(np.arange(6), 2)
    pair = [problem(x, rng.normal(size=(rows, 12))) for rows in (3, 5)]
    problems = [shared(each, units) for each in pair]
    found = eliminate(problems, 6, np.zeros(6, np.bool_), 5)
    gone = np.zeros(12, np.bool_)
    for unit, error in zip(found.order, found.errors, strict=True):
        costs = {
            other: sum(
                (loss_without(each, gone | (units == other)) - loss_without(each, np.zeros(12, np.bool_)))
                / each.energy.sum()
                for each in pair
            )
            for other in range(6)
            if not gone[units == other].any()
        }
        assert costs[unit] == pytest.approx(min(costs.values()), rel=1e-6, abs=1e-9)
        assert error == pytest.approx(costs[unit], rel=1e-5, abs=1e-8)
        gone |= units == unit


def test_a_copy_of_another_input_goes_first_and_costs_nothing() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 6))
    x[:, 4] = 2 * x[:, 1] - x[:, 2]
    layer = problem(x, rng.normal(size=(4, 6)), ridge=1e-8)
    found = eliminate([shared(layer, np.arange(6))], 6, np.zeros(6, np.bool_), 1)
    assert found.order[0] in (1, 2, 4)
    assert found.errors[0] < 1e-6
    removed = np.arange(6) == found.order[0]
    weights = refitted(shared(layer, np.arange(6)), removed)
    assert not weights[:, removed].any()
    np.testing.assert_allclose(x @ weights.T, x @ layer.original.T, atol=1e-4)


def test_units_that_stay_are_not_chosen() -> None:
    rng = np.random.default_rng(2)
    layer = problem(rng.normal(size=(100, 4)), rng.normal(size=(2, 4)) * [[1e-9, 1, 1, 1]])
    stays = np.array([True, False, False, True])
    found = eliminate([shared(layer, np.arange(4))], 4, stays, 4)
    assert sorted(found.order) == [1, 2]


def test_inputs_removed_before_stay_removed() -> None:
    rng = np.random.default_rng(3)
    layer = problem(rng.normal(size=(100, 4)), rng.normal(size=(2, 4)))
    before = SharedProblem(layer, np.array([0, 1, -1, -1]), np.array([True, True, True, False]))
    weights = refitted(before, np.array([True, False, False, False]))
    assert not weights[:, [0, 3]].any()
    assert weights[:, [1, 2]].all()


def test_groups_of_rows_have_moments_of_their_own() -> None:
    rng = np.random.default_rng(4)
    parts = [problem(rng.normal(size=(100, 3)), rng.normal(size=(2, 3))) for _ in range(2)]
    both = LayerProblem(
        np.concatenate([each.gram for each in parts]),
        np.concatenate([each.cross for each in parts]),
        np.concatenate([each.original for each in parts]),
        np.concatenate([each.energy for each in parts]),
        1e-6,
    )
    gone = np.array([False, True, False])
    whole = refitted(shared(both, np.arange(3)), gone)
    alone = [refitted(shared(each, np.arange(3)), gone) for each in parts]
    np.testing.assert_allclose(whole, np.concatenate(alone), rtol=1e-9)
