"""The ADMM loop on problems with a planted optimum and a closed-form W-step: no runtime needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.admm import (
    AtMostK,
    Blocks,
    Levels,
    Problem,
    Record,
    RhoSchedule,
    Separable,
    SparseLevels,
    State,
    Status,
    Stopping,
    initial_state,
    solve,
    step,
)

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LeastSquares:
    """``f(w) = 1/2 ||X w - y||^2``, minimised in closed form: ``(X'X + rho I) w = X'y + rho target``."""

    inputs: F64
    outputs: F64
    asked: list[Mapping[str, float]] = field(default_factory=list)

    def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
        self.asked.append(rho)
        normal = self.inputs.T @ self.inputs + rho["w"] * np.eye(self.inputs.shape[1])
        return {"w": np.linalg.solve(normal, self.inputs.T @ self.outputs + rho["w"] * targets["w"])}


@dataclass(frozen=True)
class Breaking:
    """Turns to NaN at an iteration."""

    whole: LeastSquares
    at: int

    def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
        answer = self.whole.minimise(targets, rho, iteration)
        return {"w": answer["w"] * np.nan} if iteration == self.at else answer


def correlated_inputs(rng: np.random.Generator) -> F64:
    mixing = np.eye(12) + 0.35 * rng.normal(size=(12, 12))
    return rng.normal(size=(200, 12)) @ mixing


def planted(seed: int = 0) -> tuple[LeastSquares, F64]:
    """Outputs of a 4-sparse truth; pruning the least-squares answer once would do here too."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(12)
    truth[rng.choice(12, 4, replace=False)] = rng.choice([-2.0, -1.0, 1.0, 2.0], 4)
    inputs = correlated_inputs(rng)
    return LeastSquares(inputs, inputs @ truth), truth


def loss(problem: LeastSquares, w: F64) -> float:
    return float(np.square(problem.inputs @ w - problem.outputs).sum())


START = {"w": np.zeros(12)}
RISING = RhoSchedule(start=1.0, end=300.0, iterations=60)
PATIENT = Stopping(max_iterations=500, eps_abs=1e-8, eps_rel=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_sparse_solution_is_recovered(seed: int) -> None:
    problem, truth = planted(seed)
    found = solve(problem, Separable({"w": AtMostK(4)}), START, rho=RISING, stopping=PATIENT)
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.z["w"], truth, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_sparse_and_quantised_solution_is_recovered(seed: int) -> None:
    problem, truth = planted(seed)
    found = solve(problem, Separable({"w": SparseLevels(4, 2)}), START, rho=RISING, stopping=PATIENT)
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.z["w"], truth, atol=1e-6)


def test_the_loop_beats_projecting_the_unconstrained_answer() -> None:
    """Where inputs are correlated and the truth is dense, the survivors make up for what is pruned."""
    sets = Separable({"w": AtMostK(6)})
    slowly = RhoSchedule(start=30.0, end=3000.0, iterations=300)
    losses = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        inputs = correlated_inputs(rng)
        problem = LeastSquares(inputs, inputs @ rng.normal(size=12))
        dense = {"w": np.linalg.lstsq(inputs, problem.outputs, rcond=None)[0]}
        found = solve(problem, sets, dense, rho=slowly, stopping=PATIENT)
        assert found.status is Status.CONVERGED
        assert sets.contains(found.z)
        losses.append((loss(problem, found.z["w"]), loss(problem, sets.project(dense)["w"])))
    ours, once = np.array(losses).T
    assert (ours < once).all()
    assert ours.sum() < 0.5 * once.sum()


def test_a_convex_problem_reaches_its_optimum_at_any_rho() -> None:
    """With the whole space as the set, ADMM must give plain least squares."""
    rng = np.random.default_rng(0)
    noisy = LeastSquares(rng.normal(size=(200, 12)), rng.normal(size=200))
    exact = np.linalg.lstsq(noisy.inputs, noisy.outputs, rcond=None)[0]
    for rho in (1.0, 100.0, 1000.0):
        schedule = RhoSchedule(start=rho)
        found = solve(noisy, Separable({"w": AtMostK(12)}), START, rho=schedule, stopping=PATIENT)
        assert found.status is Status.CONVERGED
        np.testing.assert_allclose(found.z["w"], exact, atol=1e-6)


# -- one iteration, by hand --------------------------------------------------------------------


@dataclass(frozen=True)
class Anchor:
    """``f(w) = 1/2 ||w - a||^2``: the W-step is ``(a + rho t) / (1 + rho)``."""

    anchor: F64

    def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
        return {n: (self.anchor + rho[n] * t) / (1 + rho[n]) for n, t in targets.items()}


def test_two_iterations_agree_with_the_formulas() -> None:
    a, first, second = np.array([3.0, 1.0]), 1.0, 4.0
    problem = Problem(
        wstep=Anchor(a),
        constraint=Separable({"w": AtMostK(1)}),
        rho=RhoSchedule(start=first, end=second, iterations=2),
        stopping=Stopping(max_iterations=2, eps_abs=0.01, eps_rel=0.1),
    )
    zero = initial_state(problem, {"w": np.array([2.0, 1.0])})
    np.testing.assert_array_equal(zero.z["w"], [2, 0])

    one = step(problem, zero)
    np.testing.assert_allclose(one.w["w"], [2.5, 0.5])  # (a + z) / 2
    np.testing.assert_allclose(one.z["w"], [2.5, 0.0])
    np.testing.assert_allclose(one.u["w"], [0.0, 0.5])  # w - z
    record = one.history[-1]
    assert (record.iteration, record.rho, record.score) == (1, 1.0, None)
    assert record.primal == pytest.approx(0.5)
    assert record.dual == pytest.approx(0.5)  # rho ||(2.5, 0) - (2, 0)||
    assert record.primal_tolerance == pytest.approx(0.01 * np.sqrt(2) + 0.1 * np.sqrt(6.5))
    assert record.dual_tolerance == pytest.approx(0.01 * np.sqrt(2) + 0.1 * 0.5)
    assert not record.converged

    two = step(problem, one)
    rescaled = np.array([0.0, 0.5]) * first / second
    w = (a + second * (np.array([2.5, 0.0]) - rescaled)) / (1 + second)
    np.testing.assert_allclose(two.w["w"], w)
    np.testing.assert_allclose(two.z["w"], [w[0], 0.0])
    np.testing.assert_allclose(two.u["w"], [0.0, rescaled[1] + w[1]])
    assert two.history[-1].dual == pytest.approx(second * abs(w[0] - 2.5))
    assert len(zero.history) == 0
    assert len(one.history) == 1


# -- stopping, scoring, resuming ----------------------------------------------------------------


def test_the_iteration_limit_is_a_status_of_its_own() -> None:
    problem, _ = planted()
    stopping = Stopping(max_iterations=3, eps_abs=0.0, eps_rel=0.0)
    found = solve(problem, Separable({"w": AtMostK(4)}), START, rho=RISING, stopping=stopping)
    assert found.status is Status.ITERATION_LIMIT
    assert "iteration limit" in found.status.value
    assert [record.iteration for record in found.history] == [1, 2, 3]


def test_no_iterations_give_the_projected_start() -> None:
    problem, _ = planted()
    start = {"w": np.arange(12.0)}
    found = solve(
        problem, Separable({"w": AtMostK(1)}), start, rho=RISING, stopping=Stopping(max_iterations=0)
    )
    assert found.z["w"].tolist() == [0.0] * 11 + [11.0]


@pytest.mark.parametrize(("primal", "dual"), [(1.0, 1.0), (1.0, 1.1), (2.1, 1.0), (2.1, 1.1)])
def test_both_residuals_must_be_within_tolerance(primal: float, dual: float) -> None:
    record = Record(1, 1.0, primal=primal, dual=dual, primal_tolerance=2.0, dual_tolerance=1.0, score=None)
    assert record.converged == (primal <= 2 and dual <= 1)


@dataclass(frozen=True)
class Constant:
    """Answers the same weights at every iteration."""

    weights: Blocks

    def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
        return self.weights


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float32, 1e-30), (np.float32, 1e30), (np.float64, 1e-200), (np.float64, 1e200)]
)
def test_residuals_of_any_size_neither_overflow_nor_vanish(dtype: type, scale: float) -> None:
    """What is pruned in both blocks is 3 and 4 times the scale; Z moves from 0 to 12 and 5 times."""
    weights = {"a": np.array([12, 3], dtype) * dtype(scale), "b": np.array([4, 5], dtype) * dtype(scale)}
    start = {name: np.zeros(2, dtype) for name in weights}
    sets = Separable({name: AtMostK(1) for name in weights})
    stopping = Stopping(max_iterations=1, eps_abs=0, eps_rel=0.1)
    found = solve(Constant(weights), sets, start, rho=RhoSchedule(start=2.0), stopping=stopping)
    [record] = found.history
    assert record.primal == pytest.approx(5 * scale)
    assert record.dual == pytest.approx(2 * 13 * scale)
    assert record.primal_tolerance == pytest.approx(0.1 * np.sqrt(194) * scale)
    assert record.dual_tolerance == pytest.approx(0.1 * 2 * 5 * scale)
    assert found.status is Status.ITERATION_LIMIT


def test_squares_of_many_half_precision_weights_add_up() -> None:
    weights = {"w": np.ones(70_000, np.float16)}
    sets, stopping = Separable({"w": AtMostK(0)}), Stopping(max_iterations=1)
    found = solve(Constant(weights), sets, weights, rho=RhoSchedule(), stopping=stopping)
    assert found.history[0].primal == pytest.approx(np.sqrt(70_000))


@pytest.mark.parametrize("tolerance", ["eps_abs", "eps_rel"])
def test_looser_tolerances_stop_earlier(tolerance: str) -> None:
    problem, _ = planted()
    tight = replace(PATIENT, eps_abs=1e-10, eps_rel=1e-10)
    loose = replace(tight, **{tolerance: 1e-2})
    sets = Separable({"w": AtMostK(4)})
    lengths = [
        len(solve(problem, sets, START, rho=RISING, stopping=stopping).history) for stopping in (tight, loose)
    ]
    assert lengths[1] < lengths[0] < PATIENT.max_iterations


def test_the_best_feasible_iterate_by_score_is_kept() -> None:
    problem, _ = planted()
    sets = Separable({"w": AtMostK(4)})
    scores = iter([np.nan, -3.0, -1.0, -1.0, -2.0, np.nan])
    seen: list[Blocks] = []

    def monitor(z: Blocks) -> float:
        seen.append(z)
        return next(scores)

    stopping = Stopping(max_iterations=6, eps_abs=0, eps_rel=0)
    found = solve(problem, sets, START, rho=RISING, stopping=stopping, monitor=monitor)
    assert found.score == -1.0
    np.testing.assert_array_equal(found.z["w"], seen[3]["w"])
    assert len(seen) == 6
    assert all(sets.contains(z) for z in seen)
    assert [record.score for record in found.history[1:5]] == [-3.0, -1.0, -1.0, -2.0]


def test_a_resumed_run_equals_one_that_was_never_interrupted() -> None:
    problem, _ = planted(2)
    sets = Separable({"w": AtMostK(4)})

    def run(start: Blocks | State, iterations: int) -> State:
        stopping = Stopping(max_iterations=iterations, eps_abs=0, eps_rel=0)
        return solve(
            problem, sets, start, rho=RISING, stopping=stopping, monitor=lambda z: -loss(problem, z["w"])
        ).state

    whole, pieced = run(START, 20), run(run(START, 7), 20)
    for name in ("w", "z", "u", "best_z"):
        np.testing.assert_array_equal(getattr(whole, name)["w"], getattr(pieced, name)["w"])
    assert whole.history == pieced.history
    assert whole.best_score == pieced.best_score


# -- what goes wrong ----------------------------------------------------------------------------


def test_a_w_step_that_is_not_finite_keeps_the_last_finite_iterate() -> None:
    problem, _ = planted()
    sets = Separable({"w": AtMostK(4)})
    found = solve(Breaking(problem, at=4), sets, START, rho=RISING, stopping=PATIENT)
    same = solve(problem, sets, START, rho=RISING, stopping=Stopping(max_iterations=4, eps_abs=0, eps_rel=0))
    assert found.status is Status.NOT_FINITE
    assert "not finite" in found.status.value
    assert len(found.history) == 4
    np.testing.assert_array_equal(found.z["w"], same.z["w"])
    np.testing.assert_array_equal(found.state.w["w"], same.state.w["w"])


def test_a_value_beyond_the_blocks_type_is_not_finite() -> None:
    class Exploding:
        def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
            return {"w": np.full(12, 1e300)}

    start = {"w": np.zeros(12, np.float32)}
    found = solve(Exploding(), Separable({"w": AtMostK(1)}), start, rho=RISING, stopping=PATIENT)
    assert found.status is Status.NOT_FINITE
    assert not found.z["w"].any()


def test_a_start_that_is_not_finite_is_refused() -> None:
    problem, _ = planted()
    with pytest.raises(ValueError, match="not finite"):
        solve(problem, Separable({"w": AtMostK(1)}), {"w": np.full(12, np.inf)}, rho=RISING, stopping=PATIENT)


@pytest.mark.parametrize("answer", [{}, {"v": np.zeros(12)}, {"w": np.zeros(11)}])
def test_a_w_step_that_answers_with_other_blocks_is_refused(answer: Blocks) -> None:
    class Confused:
        def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
            return answer

    with pytest.raises(ValueError, match="names and shapes"):
        solve(Confused(), Separable({"w": AtMostK(1)}), START, rho=RISING, stopping=PATIENT)


def test_the_start_is_left_as_it_was_and_the_dtype_stays() -> None:
    problem = Anchor(np.linspace(-1, 1, 12))
    start = {"w": np.linspace(1, 2, 12, dtype=np.float32)}
    copy = start["w"].copy()
    found = solve(
        problem, Separable({"w": Levels(2)}), start, rho=RISING, stopping=Stopping(max_iterations=5)
    )
    np.testing.assert_array_equal(start["w"], copy)
    state = found.state
    begun = solve(
        problem, Separable({"w": Levels(2)}), start, rho=RISING, stopping=Stopping(max_iterations=0)
    )
    assert not np.shares_memory(begun.state.w["w"], start["w"])
    assert {block["w"].dtype for block in (found.z, state.w, state.z, state.u)} == {np.dtype(np.float32)}


# -- schedules ----------------------------------------------------------------------------------


def test_rho_rises_geometrically_and_then_stays() -> None:
    schedule = RhoSchedule(start=1.0, end=100.0, iterations=3, multipliers={"b": 0.5})
    assert [schedule.at(i) for i in range(5)] == pytest.approx([1, 10, 100, 100, 100])
    assert schedule.after([7, 0]) == schedule.at(2)
    assert RhoSchedule(start=2.0).at(50) == 2.0
    assert RhoSchedule(start=2.0, end=3.0, iterations=1).at(0) == 3.0


def test_the_w_step_is_told_the_rho_of_its_block() -> None:
    problem, _ = planted()
    schedule = RhoSchedule(start=1.0, end=4.0, iterations=3, multipliers={"w": 2.0})
    stopping = Stopping(max_iterations=3, eps_abs=0, eps_rel=0)
    solve(problem, Separable({"w": AtMostK(4)}), START, rho=schedule, stopping=stopping)
    assert [rho["w"] for rho in problem.asked] == pytest.approx([2, 4, 8])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RhoSchedule(start=0.0),
        lambda: RhoSchedule(end=float("nan")),
        lambda: RhoSchedule(multipliers={"w": -1.0}),
        lambda: RhoSchedule(iterations=0),
        lambda: Stopping(max_iterations=-1),
        lambda: Stopping(max_iterations=1, eps_abs=-1.0),
        lambda: Stopping(max_iterations=1, eps_rel=float("nan")),
    ],
)
def test_impossible_settings_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match="must be"):
        wrong()
