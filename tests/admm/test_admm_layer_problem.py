"""A layer's quadratic, against the samples it was summed from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.admm import LayerProblem, ridge_for

F64 = npt.NDArray[np.float64]


def samples(groups: int = 2, rows: int = 3, inputs: int = 5, count: int = 40) -> tuple[F64, F64, F64]:
    """Inputs (group, n, d), targets (n, group * rows) and weights (group * rows, d)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(groups, count, inputs)) @ rng.normal(size=(groups, inputs, inputs))
    weights = rng.normal(size=(groups * rows, inputs))
    seen = x + 0.1 * rng.normal(size=x.shape)
    targets = np.einsum("gni,gri->ngr", x, weights.reshape(groups, rows, inputs)).reshape(count, -1)
    return seen, targets, weights


def problem_of(x: F64, targets: F64, weights: F64, ridge: float = 1e-2) -> LayerProblem:
    groups, count, inputs = x.shape
    by_group = targets.reshape(count, groups, -1)
    return LayerProblem(
        gram=np.einsum("gni,gnj->gij", x, x) / count,
        cross=np.einsum("ngr,gni->gri", by_group, x).reshape(-1, inputs) / count,
        original=weights,
        energy=np.square(targets).mean(axis=0),
        ridge=ridge,
    )


def test_the_error_is_that_of_the_outputs() -> None:
    x, targets, weights = samples()
    tried = weights + np.random.default_rng(1).normal(size=weights.shape)
    outputs = np.einsum("gni,gri->ngr", x, tried.reshape(2, 3, 5)).reshape(targets.shape)
    expected = np.square(outputs - targets).sum() / np.square(targets).sum()
    assert problem_of(x, targets, weights).error(tried) == pytest.approx(expected, rel=1e-12)


def test_the_loss_is_the_error_and_the_ridge() -> None:
    x, targets, weights = samples()
    problem, rng = problem_of(x, targets, weights, ridge=0.3), np.random.default_rng(1)
    one, other = (weights + rng.normal(size=weights.shape) for _ in range(2))

    def penalised(tried: F64) -> float:
        strengths = 0.3 * np.diagonal(problem.gram, axis1=1, axis2=2).mean(axis=1).repeat(3)
        squares = problem.error(tried) * float(problem.energy.sum())
        return squares + float((strengths * np.square(tried - weights).sum(axis=1)).sum())

    expected = penalised(one) - penalised(other)
    assert problem.loss(one) - problem.loss(other) == pytest.approx(expected, rel=1e-10)


def test_no_step_from_the_optimum_lowers_the_loss() -> None:
    problem = problem_of(*samples())
    best, rng = problem.optimum(), np.random.default_rng(2)
    for _ in range(20):
        step = 1e-3 * rng.normal(size=best.shape)
        curvature = problem.loss(best + step) + problem.loss(best - step) - 2 * problem.loss(best)
        assert problem.loss(best + step) - problem.loss(best) == pytest.approx(curvature / 2, rel=1e-4)


def test_a_dead_input_has_no_weight() -> None:
    x, targets, weights = samples()
    x[:, :, 2] = 0
    best = problem_of(x, targets, weights).optimum()
    assert not best[:, 2].any()
    assert best.any(axis=0).sum() == 4


def test_nothing_in_nothing_out() -> None:
    zero = LayerProblem(np.zeros((1, 4, 4)), np.zeros((2, 4)), np.ones((2, 4)), np.zeros(2))
    assert not zero.optimum().any()
    assert zero.error(np.ones((2, 4))) == 0
    silent = LayerProblem(np.eye(4)[None], np.zeros((2, 4)), np.ones((2, 4)), np.zeros(2))
    assert silent.error(np.zeros((2, 4))) == 0
    assert silent.error(np.ones((2, 4))) == np.inf


def test_rounding_never_makes_an_error_negative() -> None:
    x, _, weights = samples()
    targets = np.einsum("gni,gri->ngr", x, weights.reshape(2, 3, 5)).reshape(40, -1)
    assert 0 <= problem_of(x, targets, weights).error(weights) < 1e-14


def test_ridge_grows_where_samples_are_few() -> None:
    assert ridge_for(100, 10_000) == 0.01
    assert ridge_for(512, 512) == 0.25
    assert ridge_for(2048, 512) == 1.0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"gram": np.zeros((1, 4, 3))}, "Gram matrices of shape"),
        ({"gram": np.zeros((3, 4, 4))}, "Gram matrices of shape"),
        ({"cross": np.zeros((2, 3))}, "cross moments"),
        ({"energy": np.zeros(3)}, "energies of shape"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"cross": np.full((2, 4), np.nan)}, "must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, object], sentence: str) -> None:
    right = {
        "gram": np.eye(4)[None],
        "cross": np.zeros((2, 4)),
        "original": np.zeros((2, 4)),
        "energy": np.ones(2),
    }
    with pytest.raises(ValueError, match=sentence):
        LayerProblem(**{**right, **wrong})  # type: ignore[arg-type]
