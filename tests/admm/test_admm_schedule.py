"""Schedules of rho that answer to the support, and the loop that stops once the support stays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from onnx_admm.admm import AtMostK, Blocks, Separable, Solution, Status, Stopping, SupportDriven, solve


def test_rho_grows_with_how_much_the_support_changed() -> None:
    schedule = SupportDriven(kept=1000, start=0.5, every=3)
    assert schedule.after([]) == 0.5
    assert schedule.after([999, 999]) == 0.5, "looked at every third iteration only"
    assert schedule.after([99, 0, 1]) == pytest.approx(0.5 * 1.3), "a tenth of the kept entries"
    assert schedule.after([98, 0, 1]) == pytest.approx(0.5 * 1.2)
    assert schedule.after([0, 0, 5]) == pytest.approx(0.5 * 1.2), "one in 200"
    assert schedule.after([0, 0, 4]) == pytest.approx(0.5 * 1.1)
    assert schedule.after([0, 0, 0]) == 0.5
    assert schedule.after([100, 0, 0, 0, 0, 0, 0, 1, 0]) == pytest.approx(0.5 * 1.3 * 1.1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SupportDriven(kept=0),
        lambda: SupportDriven(kept=1, start=0.0),
        lambda: SupportDriven(kept=1, every=0),
        lambda: SupportDriven(kept=1, multipliers={"w": -1.0}),
    ],
)
def test_nonsense_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        wrong()  # type: ignore[operator]


class Swinging:
    """Puts its weight on entry 0, then 1, then 2 for good, a little more each time."""

    def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
        weights = np.zeros(4)
        weights[min(iteration, 2)] = 1e3 ** (1 + min(iteration, 2)) + iteration
        return {"w": weights}


def run(stopping: Stopping) -> tuple[Solution, list[int]]:
    """The loop over one nonzero of four, and where that stood after each iteration."""
    stood: list[int] = []

    def watch(blocks: Blocks) -> float:
        stood.append(int(np.flatnonzero(blocks["w"])[0]))
        return 0.0

    start = {"w": np.array([0.0, 0.0, 0.0, 1.0])}
    sets, rho = Separable({"w": AtMostK(1)}), SupportDriven(kept=1)
    return solve(Swinging(), sets, start, rho=rho, stopping=stopping, monitor=watch), stood


def test_changes_of_the_support_are_counted_and_end_the_loop() -> None:
    found, stood = run(Stopping(max_iterations=50, eps_abs=0, eps_rel=0, stable_iterations=4))
    assert stood == [0, 1, 2, 2, 2, 2, 2]
    assert found.state.changes == [2, 2, 2, 0, 0, 0, 0]
    assert found.status is Status.SETTLED


def test_a_loop_that_is_not_asked_to_settle_runs_on() -> None:
    found, _ = run(Stopping(max_iterations=9, eps_abs=0, eps_rel=0))
    assert found.status is Status.ITERATION_LIMIT
    assert len(found.history) == 9
