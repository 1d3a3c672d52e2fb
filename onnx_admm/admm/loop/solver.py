"""The ADMM loop, written once: minimise f(W) subject to W in S.

    W  <-  argmin f(W) + sum_l rho_l/2 ||W_l - Z_l + U_l||^2      (the W-step, whatever solves it)
    Z  <-  projection of W + U on S
    U  <-  U + W - Z

Scaled form, residuals and stopping rule: Boyd et al. 2011, sections 3.1.1, 3.3.1 and 3.4.1 (U is rescaled
when rho changes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import hypot, inf, isfinite, sqrt
from typing import Protocol

import numpy as np

from onnx_admm.admm.loop.schedule import Penalty
from onnx_admm.admm.sets.blocks import JointSet
from onnx_admm.admm.sets.supports import Array, Blocks


class WStep(Protocol):
    """Interface of the W-step: solves, or improves, the smooth half of the problem."""

    def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
        """Return weights that make ``f(W) + sum_l rho_l/2 ||W_l - targets_l||^2`` small.

        Args:
            targets: ``Z - U`` by block.
            rho: penalty by block.
            iteration: 0 for the first.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """Stopping rule.

    Converged when both hold, n the number of weights:
    ``||W - Z||           <= sqrt(n) eps_abs + eps_rel max(||W||, ||Z||)``   (primal)
    ``||rho (Z - Z_old)|| <= sqrt(n) eps_abs + eps_rel ||rho U||``           (dual)

    Attributes:
        max_iterations: iterations at most, counted from the very start, resumed runs included.
        eps_abs: absolute tolerance per weight.
        eps_rel: relative tolerance.
        stable_iterations: also stop after so many iterations without a change of the support; 0: never.
    """

    max_iterations: int
    eps_abs: float = 1e-4
    eps_rel: float = 1e-3
    stable_iterations: int = 0

    def __post_init__(self) -> None:
        if self.max_iterations < 0:
            raise ValueError(f"max_iterations must be 0 or more, got {self.max_iterations}")
        if self.stable_iterations < 0:
            raise ValueError(f"stable_iterations must be 0 or more, got {self.stable_iterations}")
        if not (self.eps_abs >= 0 and self.eps_rel >= 0):
            raise ValueError(f"tolerances must be 0 or more, got {self.eps_abs} and {self.eps_rel}")


class Status(Enum):
    """How a run ended, as a sentence for the user."""

    CONVERGED = "the weights meet their constraint: both residuals are within tolerance"
    SETTLED = "the support no longer changes"
    ITERATION_LIMIT = "stopped at the iteration limit, before both residuals were within tolerance"
    NOT_FINITE = "the W-step gave values that are not finite; the last finite iterate was kept"


@dataclass(frozen=True, slots=True)
class Record:
    """Record of one iteration: number (from 1), base rho, residuals, tolerances and the score of Z.

    ``changed`` counts the entries that entered or left Z's support.
    """

    iteration: int
    rho: float
    primal: float
    dual: float
    primal_tolerance: float
    dual_tolerance: float
    score: float | None
    changed: int = 0

    @property
    def converged(self) -> bool:
        """Whether both residuals are within tolerance."""
        return self.primal <= self.primal_tolerance and self.dual <= self.dual_tolerance


@dataclass(frozen=True, slots=True)
class State:
    """State of a run; it can be stored, and a run resumed from it.

    Attributes:
        w: result of the last W-step.
        z: its projection on the set.
        u: scaled dual variable, in units of w, for the penalties in ``rho``.
        rho: penalty by block that ``u`` is scaled for.
        best_z: feasible iterate of the best score so far, the last one where nothing is scored.
        history: one record for each iteration.
    """

    w: Blocks
    z: Blocks
    u: Blocks
    rho: Mapping[str, float]
    best_z: Blocks
    best_score: float | None = None
    history: tuple[Record, ...] = ()

    @property
    def iteration(self) -> int:
        """Number of iterations done."""
        return len(self.history)

    @property
    def changes(self) -> list[int]:
        """Number of support entries that each iteration changed."""
        return [record.changed for record in self.history]


@dataclass(frozen=True, slots=True)
class Solution:
    """Result of a run: ``z`` is feasible, the best by score or else the last."""

    z: Blocks
    score: float | None
    status: Status
    state: State

    @property
    def history(self) -> tuple[Record, ...]:
        """One record for each iteration."""
        return self.state.history


Monitor = Callable[[Blocks], float]
"""Scores a feasible Z; higher is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """The fixed parts of a problem: W-step, set, penalty, monitor."""

    wstep: WStep
    constraint: JointSet
    rho: Penalty
    stopping: Stopping
    monitor: Monitor | None = None


class _NotFinite(Exception):
    """The W-step returned infinities or NaNs."""


def solve(
    wstep: WStep,
    constraint: JointSet,
    start: Blocks | State,
    *,
    rho: Penalty,
    stopping: Stopping,
    monitor: Monitor | None = None,
) -> Solution:
    """Run ADMM from ``start`` until it converges, meets the iteration limit or breaks down.

    Args:
        wstep: the smooth half.
        constraint: the set, with its projection.
        start: first weights, or the state of an earlier run to go on from.
        rho: penalty by iteration and block.
        stopping: tolerances and the iteration limit.
        monitor: score of a feasible Z, higher is better (NaN is worst, ties go to the later one);
            without it the last Z is the answer.

    Raises:
        ValueError: the start is not finite, or the W-step's blocks have other names or shapes.
    """
    problem = Problem(wstep=wstep, constraint=constraint, rho=rho, stopping=stopping, monitor=monitor)
    state = start if isinstance(start, State) else initial_state(problem, start)
    status = Status.ITERATION_LIMIT
    while state.iteration < stopping.max_iterations and status is Status.ITERATION_LIMIT:
        try:
            state = step(problem, state)
        except _NotFinite:
            status = Status.NOT_FINITE
            break
        if state.history[-1].converged:
            status = Status.CONVERGED
        elif 0 < stopping.stable_iterations <= state.iteration and not any(
            state.changes[-stopping.stable_iterations :]
        ):
            status = Status.SETTLED
    return Solution(state.best_z, state.best_score, status, state)


def initial_state(problem: Problem, start: Blocks) -> State:
    """Return the initial state: W at the start, Z its projection, U zero."""
    w = {name: np.array(block) for name, block in start.items()}
    z = problem.constraint.project(w)
    u = {name: np.zeros_like(block) for name, block in w.items()}
    return State(w=w, z=z, u=u, rho=_by_block(problem.rho, w, []), best_z=z)


def step(problem: Problem, state: State) -> State:
    """Return the state after one iteration; ``state`` itself does not change."""
    rho = _by_block(problem.rho, state.w, state.changes)
    u: Blocks = {
        name: block * block.dtype.type(state.rho[name] / rho[name]) for name, block in state.u.items()
    }
    targets: Blocks = {name: state.z[name] - u[name] for name in u}
    w = _checked(problem.wstep.minimise(targets, rho, state.iteration), state.w)
    z = problem.constraint.project(_require_finite({name: w[name] + u[name] for name in w}))
    u = {name: u[name] + w[name] - z[name] for name in w}
    after = replace(state, w=w, z=z, u=u, rho=rho)
    score = None if problem.monitor is None else float(problem.monitor(z))
    record = _record(problem, state, after, score)
    if score is None or _rank(score) >= _rank(state.best_score):
        after = replace(after, best_z=z, best_score=score)
    return replace(after, history=(*state.history, record))


def _by_block(penalty: Penalty, names: Iterable[str], changes: Sequence[int]) -> dict[str, float]:
    base = penalty.after(changes)
    return {name: base * penalty.multipliers.get(name, 1.0) for name in names}


def _checked(answer: Blocks, known: Blocks) -> Blocks:
    if answer.keys() != known.keys() or any(answer[n].shape != known[n].shape for n in known):
        raise ValueError(
            "the W-step must return the blocks that it was given, with the same names and shapes"
        )
    with np.errstate(over="ignore"):  # a value beyond the blocks' own type becomes infinite, and is caught
        return _require_finite({name: np.array(answer[name], dtype=known[name].dtype) for name in known})


def _require_finite(blocks: Blocks) -> Blocks:
    if not all(np.isfinite(block).all() for block in blocks.values()):
        raise _NotFinite
    return blocks


def _record(problem: Problem, before: State, after: State, score: float | None) -> Record:
    size = sqrt(sum(block.size for block in after.w.values()))
    absolute, relative = problem.stopping.eps_abs * size, problem.stopping.eps_rel
    names = list(after.w)
    moved = (after.rho[n] * _norm([after.z[n] - before.z[n]]) for n in names)
    dual_norms = (after.rho[n] * _norm([after.u[n]]) for n in names)
    return Record(
        iteration=before.iteration + 1,
        rho=problem.rho.after(before.changes),
        primal=_norm(after.w[n] - after.z[n] for n in names),
        dual=hypot(*moved),
        primal_tolerance=absolute + relative * max(_norm(after.w.values()), _norm(after.z.values())),
        dual_tolerance=absolute + relative * hypot(*dual_norms),
        score=score,
        changed=sum(int(np.count_nonzero((after.z[n] != 0) != (before.z[n] != 0))) for n in names),
    )


def _norm(blocks: Iterable[Array]) -> float:
    """Return the Euclidean norm over all blocks; squares neither overflow nor vanish."""
    return hypot(*(_block_norm(block.astype(np.float64)) for block in blocks))


def _block_norm(block: Array) -> float:
    peak = float(np.abs(block).max(initial=0.0))
    return peak * float(np.linalg.norm(block / peak)) if peak > 0 else 0.0


def _rank(score: float | None) -> float:
    return -inf if score is None or not isfinite(score) else score
