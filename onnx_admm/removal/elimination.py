"""Greedy choice of inputs to remove from least-squares problems that share them.

For one problem ``min tr(W A W') - 2 tr(W B')`` with the optimum ``W = B A^-1`` and ``V = A^-1``, to remove
the inputs J and refit all other weights adds

    tr( W_J (V_JJ)^-1 W_J' )

to the loss. The unit with the least sum over all problems, each relative to the energy of its targets, is
removed; W and V then follow in closed form (block elimination), and the next one is chosen. Source: Hassibi
and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon" (NIPS 1992), for groups of
inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_admm.admm import LayerProblem

Floats = npt.NDArray[np.float64]
Units = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SharedProblem:
    """One layer's problem, and the unit of each of its inputs.

    Attributes:
        problem: second moments of the layer's inputs and targets.
        units: units of the inputs, (d,); -1 for inputs that no unit owns.
        alive: inputs that have not been removed before, bool (d,).
        weight: factor of the layer's relative error in the sum.
    """

    problem: LayerProblem
    units: Units
    alive: npt.NDArray[np.bool_]
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Elimination:
    """Order in which units are removed.

    Attributes:
        order: units, the first removed first.
        errors: sum of the relative errors after each of them, (len(order),).
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


def eliminate(
    problems: Sequence[SharedProblem], units: int, stays: npt.NDArray[np.bool_], remove: int
) -> Elimination:
    """Choose units one by one: each time the one with the least error after all others are refitted.

    Args:
        problems: problems of the layers that read the units.
        units: number of units.
        stays: units that are never removed, (units,).
        remove: number of units to remove; fewer where fewer may go.
    """
    states = [state for each in problems for state in _states(each, units)]
    left = [unit for unit in range(units) if not stays[unit]]
    order, errors, total = list[int](), list[float](), 0.0
    for _ in range(min(remove, len(left))):
        scores = np.zeros(len(left))
        for state in states:
            scores += state.scores(left)
        best = int(np.argmin(scores))
        total += float(scores[best])
        unit = left.pop(best)
        order.append(unit)
        errors.append(total)
        for state in states:
            state.remove(unit)
    return Elimination(tuple(order), tuple(errors))


def refitted(shared: SharedProblem, removed: npt.NDArray[np.bool_]) -> Floats:
    """Return the weights that minimise the layer's loss without some inputs, (rows, d); zero for these.

    Args:
        shared: the layer's problem.
        removed: inputs that are removed, bool (d,).
    """
    problem = shared.problem
    left = np.flatnonzero(shared.alive & ~removed)
    result = np.zeros(problem.original.shape)
    if len(left):
        rows = len(problem.original) // problem.groups
        for group in range(problem.groups):
            own = slice(group * rows, (group + 1) * rows)
            normal = problem.normal[group][np.ix_(left, left)]
            result[own, left] = np.linalg.solve(normal, problem.linear[own][:, left].T).T
    return result


class _State:
    """Optimum and inverse of one problem while units are removed."""

    def __init__(self, weights: Floats, inverse: Floats, columns: dict[int, Units], scale: float) -> None:
        self._weights, self._inverse = weights, inverse  # (rows, d), (d, d)
        self._columns, self._scale = columns, scale

    def scores(self, units: Sequence[int]) -> Floats:
        """Return what each unit's removal adds to the relative error; 0 for units that it does not read."""
        scores = np.zeros(len(units))
        by_size: dict[int, list[int]] = {}
        for place, unit in enumerate(units):
            by_size.setdefault(len(self._columns.get(unit, ())), []).append(place)
        for size, places in by_size.items():
            if size == 0:
                continue
            columns = np.stack([self._columns[units[place]] for place in places])  # (n, size)
            blocks = self._inverse[columns[:, :, None], columns[:, None, :]]
            weights = np.moveaxis(self._weights[:, columns], 0, 2)  # (n, size, rows)
            scores[places] = np.einsum("nsr,nsr->n", weights, np.linalg.solve(blocks, weights))
        return scores * self._scale

    def remove(self, unit: int) -> None:
        """Remove a unit's inputs, and refit all other weights."""
        columns = self._columns.pop(unit, None)
        if columns is None:
            return
        block = self._inverse[np.ix_(columns, columns)]
        solved = np.linalg.solve(block, self._inverse[columns])  # (size, d)
        self._weights -= self._weights[:, columns] @ solved
        self._inverse -= self._inverse[:, columns] @ solved


def _states(shared: SharedProblem, units: int) -> list[_State]:
    problem = shared.problem
    left = np.flatnonzero(shared.alive)
    rows = len(problem.original) // problem.groups
    energy = float(problem.energy.sum())
    scale = shared.weight / energy if energy > 0 else 0.0
    own_units = shared.units[left]
    columns = {
        unit: np.flatnonzero(own_units == unit) for unit in np.unique(own_units[own_units >= 0]).tolist()
    }
    states = []
    for group in range(problem.groups):
        inverse = np.linalg.inv(problem.normal[group][np.ix_(left, left)])
        linear = problem.linear[group * rows : (group + 1) * rows][:, left]
        states.append(_State(linear @ inverse, inverse, dict(columns), scale))
    return states
