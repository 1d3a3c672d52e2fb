"""The multiple-choice knapsack: one option of each layer, least in total value within total weights.

A price of the weight decouples the layers: each minimises ``value + price weight`` by itself. The best price
bounds the total from below, and it excludes options that no better solution can contain; the rest is searched
by lists of partial choices. So the answer is within ``GAP`` of the best one for any options: no curve has to
be convex. Several limits at once are an integer programme for branch and cut.

Source: Dyer, Kayal and Walker, A branch and bound algorithm for solving the multiple-choice knapsack problem,
J. Comput. Appl. Math. 11 (1984); Nemhauser and Ullmann, Discrete dynamic programming and capital allocation,
Management Science 15 (1969).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_admm.allocation.branch_and_cut import GAP, best_choice
from onnx_admm.errors import PassRefused

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BISECTIONS = 60
_MOST_STATES = 2_000
"""Partial choices that are kept, at most."""

_TIGHTER = 2e-6
"""Relative margin below limits, since the solver may exceed them by a millionth."""


def require_reach(weights: Sequence[Floats], limit: float, complaint: str) -> None:
    """Raise PassRefused with the complaint and the least total weight, where that is over the limit."""
    least = sum(float(row.min()) for row in weights)
    if not least <= limit:
        raise PassRefused(complaint, got=f"{limit:.6g}", expected=f"at least {least:.6g}")


def choose(values: Sequence[Floats], weights: Sequence[Floats], limit: float) -> Ints:
    """Return the index of each layer's option: least total value, total weight within the limit.

    Args:
        values: values of each layer's options, (options,); finite.
        weights: weights of each layer's options, (options,); finite.
        limit: within reach (``require_reach``).
    """
    if not values:
        return np.zeros(0, np.int64)
    capacity = limit - sum(float(row.min()) for row in weights)
    problem = _Knapsack(_padded(values, np.inf), _padded(weights, 0.0), capacity)
    priced = problem.priced()
    if priced.value - priced.bound <= GAP * priced.value:
        return priced.chosen
    return problem.searched(priced)


def choose_within(errors: Sequence[Floats], costs: Sequence[Floats], limits: Floats) -> Ints:
    """Return the index of each layer's option: least total error, each total cost within its limit.

    Branch and cut over the options that no other one of the layer dominates.

    Args:
        errors: errors of each layer's options, (options,).
        costs: costs of each layer's options, (options, limits).
        limits: (limits,), over 0.

    Raises:
        PassRefused: no choice keeps to all limits at once.
    """
    kept = [_undominated(np.column_stack([error, cost])) for error, cost in zip(errors, costs, strict=True)]
    rows = np.repeat(np.arange(len(kept)), [len(each) for each in kept])
    columns = np.concatenate(kept)
    value = np.concatenate([error[each] for error, each in zip(errors, kept, strict=True)])
    weights = np.concatenate([cost[each] for cost, each in zip(costs, kept, strict=True)]) / limits
    largest = max(float(value.max(initial=0.0)), np.finfo(np.float64).tiny)
    for limit in (1.0, 1.0 - _TIGHTER):
        taken = best_choice(value / largest, rows, len(kept), weights.T, limit)
        if taken is None:
            break
        chosen = np.zeros(len(kept), np.int64)
        chosen[rows[taken]] = columns[taken]
        if (sum(cost[index] for cost, index in zip(costs, chosen, strict=True)) <= limits).all():
            return chosen
    raise PassRefused("no choice of compression options keeps to all budgets at once")


def _undominated(points: Floats) -> Ints:
    """Return the indices of points that no other dominates (the first of equals stays)."""
    order = np.lexsort(points.T[::-1])
    front: list[int] = []
    for index in order:
        if not front or not (points[front] <= points[index]).all(axis=1).any():
            front.append(int(index))
    return np.array(front, np.int64)


def _frontier(weights: Floats, values: Floats) -> Ints:
    """Return the places of choices that no other one dominates, ordered by weight; not too many.

    Beyond ``_MOST_STATES`` the one of least value stays of those whose weights are nearly equal.
    """
    order = np.lexsort((values, weights))
    lowest = np.minimum.accumulate(values[order])
    front = order[np.diff(lowest, prepend=np.inf) < 0]
    if len(front) > _MOST_STATES:
        parts = np.array_split(front, _MOST_STATES)
        front = np.array([part[-1] for part in parts], np.int64)  # values fall along the frontier
    return front.astype(np.int64)


def _padded(rows: Sequence[Floats], filler: float) -> Floats:
    """Return the rows as a matrix (layers, options), each relative to its least value."""
    matrix = np.full((len(rows), max(map(len, rows), default=0)), filler)
    for line, row in zip(matrix, rows, strict=True):
        line[: len(row)] = row - row.min()
    return matrix


class _Priced(NamedTuple):
    """A choice within the capacity, and a lower bound on the value of any choice."""

    chosen: Ints
    value: float
    bound: float
    price: float


@dataclass(frozen=True)
class _Knapsack:
    """Least total value within a total weight, one option of each row.

    Attributes:
        values, weights: (layers, options), least of each row 0; value inf where a layer has fewer options.
        capacity: largest sum of weights, at least 0.
    """

    values: Floats
    weights: Floats
    capacity: float

    def priced(self) -> _Priced:
        """Return the choice at the lowest price of weight at which it fits.

        For a price p, ``sum_l min(value + p weight) - p capacity`` is at most the least total value (weak
        duality), and as p falls the weight of the choice only grows.
        """
        dearest = float(self.values.max(initial=0.0, where=np.isfinite(self.values)))
        lightest = float(self.weights.min(initial=np.inf, where=self.weights > 0))
        low, high = 0.0, 2 * (dearest or 1.0) / lightest  # no layer takes more weight at that price
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self._weight(self._at(middle)) > self.capacity:
                low = middle
            else:
                high = middle
        chosen = self._at(high)
        value = self._value(chosen)
        bound = max(0.0, value + high * (self._weight(chosen) - self.capacity))
        return _Priced(chosen, value, bound, high)

    def searched(self, priced: _Priced) -> Ints:
        """Return the best choice, by lists of partial choices over options that may improve on ``priced``.

        Row by row, each partial choice is continued with each option. It is dropped where another one has no
        more weight and no more value, and where its bound (the price of the weight, and the least totals of
        the rows to come) cannot improve on the best known value by more than ``GAP``.
        """
        totals = self.values + priced.price * self.weights
        least = totals.min(axis=1)
        allowed = (totals - least[:, None] <= priced.value - priced.bound) & (self.weights <= self.capacity)
        to_come = np.append(np.cumsum(least[::-1])[::-1], 0.0)[1:] - priced.price * self.capacity
        most = priced.value * (1 - GAP)
        weight, value = np.zeros(1), np.zeros(1)
        steps: list[tuple[Ints, Ints]] = []
        for row, options in enumerate(allowed):
            columns = np.flatnonzero(options)
            weights = np.add.outer(weight, self.weights[row, columns]).ravel()
            values = np.add.outer(value, self.values[row, columns]).ravel()
            bounds = values + priced.price * weights + to_come[row]
            kept = np.flatnonzero((weights <= self.capacity) & (bounds < most))
            kept = kept[_frontier(weights[kept], values[kept])]
            if not kept.size:
                return priced.chosen
            steps.append((kept // len(columns), columns[kept % len(columns)]))
            weight, value = weights[kept], values[kept]
        chosen, place = np.empty(len(self.values), np.int64), int(np.argmin(value))
        for row in reversed(range(len(steps))):
            before, options_taken = steps[row]
            chosen[row], place = options_taken[place], int(before[place])
        return chosen if self._value(chosen) < priced.value else priced.chosen

    def _at(self, price: float) -> Ints:
        chosen: Ints = np.argmin(self.values + price * self.weights, axis=1).astype(np.int64)
        return chosen

    def _value(self, chosen: Ints) -> float:
        return float(np.take_along_axis(self.values, chosen[:, None], axis=1).sum())

    def _weight(self, chosen: Ints) -> float:
        return float(np.take_along_axis(self.weights, chosen[:, None], axis=1).sum())
