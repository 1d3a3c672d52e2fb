"""How much to compress each layer under one budget: pure functions of measured errors and costs.

Small damages add up: a layer changed by itself adds ``e`` to the relative squared error of the outputs, and
layers changed together add about the sum, for their errors are nearly uncorrelated. So per-layer measurements
are enough, and what is left is the multiple-choice knapsack problem: one option for each layer,

    minimise  sum_l error(x_l)   subject to   sum_l cost(x_l) <= budget,   x_l one of layer l's options

or the same with errors and costs exchanged. A price ``p`` of the budget takes the coupling away: each layer
minimises ``error + p cost`` by itself. The best price bounds the total from below, and it says which options
no better solution can hold; what is left is a small integer programme. So the answer is within ``GAP`` of the
best one, wherever the options lie: no curve has to be convex.

Source: Dyer, Kayal and Walker, A branch and bound algorithm for solving the multiple-choice knapsack problem,
J. Comput. Appl. Math. 11 (1984), for the fixing by prices; Dong et al., HAWQ-V2, arXiv 1911.03852, for the
bits of layers as such a problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from onnx_admm.errors import PassRefused
from onnx_admm.silence import quiet_stdout

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
What = TypeVar("What")

FLOAT_BITS = 32
"""Of a weight that is not quantised."""

GAP = 1e-3
"""Share by which the total found may exceed the least possible one."""

_BISECTIONS = 60
_TIGHTER = 2e-6
"""The solver keeps to limits but for a millionth; where that tells, it is asked to stay this much below."""

_STEPS = 200
"""Densities tried of a layer."""

_LAST_DROP = 64.0
"""Where all weights are kept the error is 0, of which there is no logarithm. Magnitudes near 0 are spread
evenly, so the error of n pruned weights goes as n^3: half of the zeros, an eighth of the error. That is what
the interpolation gives if the end counts as a 64th of the last error."""


@dataclass(frozen=True, slots=True)
class Option(Generic[What]):
    """One way to treat one layer.

    Attributes:
        cost: what it takes of the budget (bytes, weights); finite, 0 or more.
        error: what it does to the outputs; finite, 0 or more.
        what: the treatment itself; not looked at.
    """

    cost: float
    error: float
    what: What


@dataclass(frozen=True, slots=True)
class Curve:
    """A layer's measured errors by density.

    Attributes:
        densities: shares of weights kept, rising, 0 to 1; at least one.
        errors: what the outputs suffer at each, 0 or more.
    """

    densities: tuple[float, ...]
    errors: tuple[float, ...]

    def at(self, densities: Floats) -> Floats:
        """Errors between the measured points: monotone, piecewise linear in the logarithm.

        Keeping more is never taken for worse: an error above that of a lower density counts as that one.
        At density 1 the error is 0 unless it was measured.
        """
        known, errors = np.array(self.densities, np.float64), np.minimum.accumulate(self.errors)
        if known[-1] < 1:
            known, errors = np.append(known, 1.0), np.append(errors, 0.0)
        floor = errors[errors > 0].min(initial=1.0) / _LAST_DROP
        logs = np.interp(densities, known, np.log(errors + floor))
        above: Floats = np.maximum(np.exp(logs) - floor, 0.0)
        return above


@dataclass(frozen=True, slots=True)
class Surface:
    """A layer's measured errors by density and bits.

    Attributes:
        pruned: errors of weights that are not quantised.
        rounded: what levels add to that, by bits and density; 0 or more.
    """

    pruned: Curve
    rounded: Mapping[int, Curve]

    def at(self, densities: Floats, bits: int = FLOAT_BITS) -> Floats:
        """Errors between the measured points; what levels add is interpolated and constant beyond them.

        Raises:
            KeyError: levels of so many bits were not measured.
        """
        errors = self.pruned.at(densities)
        if bits == FLOAT_BITS:
            return errors
        added = self.rounded[bits]
        more: Floats = errors + np.interp(densities, added.densities, added.errors)
        return more


def least_error(options: Mapping[str, Sequence[Option[What]]], budget: float) -> dict[str, Option[What]]:
    """An option of every layer, least in total error within a total cost.

    Args:
        options: of each layer, at least one; any order.
        budget: the most that the costs may add up to.

    Returns:
        The choice, its total error within ``GAP`` of the least possible.

    Raises:
        PassRefused: even the cheapest options cost more; says what they cost.
    """
    costs, errors = _columns(options)
    _require_reach(costs, budget, "the budget is below what the cheapest treatments cost")
    return _pick(options, _choose(errors, costs, budget))


def least_cost(options: Mapping[str, Sequence[Option[What]]], tolerance: float) -> dict[str, Option[What]]:
    """An option of every layer, least in total cost within a total error; the other way round.

    Raises:
        PassRefused: even the best options err more; says by how much.
    """
    costs, errors = _columns(options)
    _require_reach(errors, tolerance, "the tolerance is below the error of the mildest treatments")
    return _pick(options, _choose(costs, errors, tolerance))


def least_error_within(
    errors: Mapping[str, Floats], costs: Mapping[str, Floats], limits: Sequence[float]
) -> dict[str, int]:
    """An option of every layer, least in total error within several total costs at once.

    Args:
        errors: of each layer's options, (options,).
        costs: of each layer's options, (options, limits).
        limits: the most that the costs may add up to, each by itself.

    Returns:
        The index of each layer's option, the total error within ``GAP`` of the least possible.

    Raises:
        PassRefused: no choice keeps to them; says what the cheapest for each costs.
    """
    for each, limit in enumerate(limits):
        columns = [np.asarray(costs[name][:, each], np.float64) for name in errors]
        _require_reach(columns, limit, "the budget is below what the cheapest treatments cost")
    if len(limits) == 1:
        chosen = _choose(list(errors.values()), [costs[name][:, 0] for name in errors], limits[0])
    else:
        chosen = _chosen_within(list(errors.values()), [costs[name] for name in errors], np.array(limits))
    return dict(zip(errors, map(int, chosen), strict=True))


def densities(curves: Mapping[str, Curve], sizes: Mapping[str, int], keep: float) -> dict[str, float]:
    """The density of each layer that keeps a share of all weights at the least total error.

    Args:
        curves: measured errors by density of each layer.
        sizes: weights of each layer.
        keep: share of all weights that stay, over 0 to 1.

    Returns:
        Densities, each a whole number of weights over the layer's size; together ``round(keep * total)``.

    Raises:
        PassRefused: the lowest densities measured keep more than that; says what share they keep.
    """
    total = sum(sizes[name] for name in curves)
    budget = round(keep * total)
    options = {name: _density_options(curve, sizes[name]) for name, curve in curves.items()}
    least = sum(min(option.what for option in choices) for choices in options.values())
    if least > budget:
        raise PassRefused(
            "fewer weights are to be kept than the lowest densities measured keep",
            got=f"a share of {keep:.4g}",
            expected=f"at least {least / total:.4g}",
        )
    kept = {name: option.what for name, option in least_error(options, budget).items()}
    _spend(kept, curves, sizes, budget)
    return {name: kept[name] / sizes[name] for name in curves}


# -- densities -------------------------------------------------------------------------------


def _density_options(curve: Curve, size: int) -> list[Option[int]]:
    """Whole numbers of weights from the lowest measured density up; ``what`` is the number kept."""
    lowest = int(np.ceil(curve.densities[0] * size))
    counts = np.unique(np.linspace(lowest, size, _STEPS + 1).round().astype(np.int64))
    errors = curve.at(counts / max(size, 1))
    return [
        Option(float(count), float(error), int(count)) for count, error in zip(counts, errors, strict=True)
    ]


def _spend(kept: dict[str, int], curves: Mapping[str, Curve], sizes: Mapping[str, int], budget: int) -> None:
    """Hand out what whole steps left of the budget, where another weight helps most."""
    left = budget - sum(kept.values())
    while left > 0:
        room = {name: min(left, sizes[name] - count) for name, count in kept.items() if count < sizes[name]}
        gains = {}
        for name, more in room.items():
            now, then = curves[name].at(np.array([kept[name], kept[name] + more]) / sizes[name])
            gains[name] = float(now - then) / more
        best = max(gains, key=lambda name: gains[name])
        kept[best] += room[best]
        left -= room[best]


# -- the knapsack ----------------------------------------------------------------------------


def _columns(options: Mapping[str, Sequence[Option[What]]]) -> tuple[list[Floats], list[Floats]]:
    costs = [np.array([option.cost for option in row], np.float64) for row in options.values()]
    errors = [np.array([option.error for option in row], np.float64) for row in options.values()]
    return costs, errors


def _pick(options: Mapping[str, Sequence[Option[What]]], chosen: Ints) -> dict[str, Option[What]]:
    return {name: row[index] for (name, row), index in zip(options.items(), chosen, strict=True)}


def _require_reach(weights: Sequence[Floats], limit: float, complaint: str) -> None:
    least = sum(float(row.min()) for row in weights)
    if not least <= limit:
        raise PassRefused(complaint, got=f"{limit:.6g}", expected=f"at least {least:.6g}")


def _choose(values: Sequence[Floats], weights: Sequence[Floats], limit: float) -> Ints:
    """Index of each layer's option: least total value, total weight within the limit."""
    room = limit - sum(float(row.min()) for row in weights)
    problem = _Knapsack(_padded(values, np.inf), _padded(weights, 0.0), room)
    priced = problem.priced()
    if priced.value - priced.bound <= GAP * priced.value:
        return priced.chosen
    return problem.searched(priced)


def _chosen_within(errors: Sequence[Floats], costs: Sequence[Floats], limits: Floats) -> Ints:
    """Branch and cut over the options that no other one of the layer beats in every respect."""
    kept = [_undominated(np.column_stack([error, cost])) for error, cost in zip(errors, costs, strict=True)]
    rows = np.repeat(np.arange(len(kept)), [len(each) for each in kept])
    columns = np.concatenate(kept)
    value = np.concatenate([error[each] for error, each in zip(errors, kept, strict=True)])
    weights = np.concatenate([cost[each] for cost, each in zip(costs, kept, strict=True)]) / limits
    one_each = csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(kept), len(rows)))
    for limit in (1.0, 1.0 - _TIGHTER):
        found = milp(
            value / max(float(value.max(initial=0.0)), np.finfo(np.float64).tiny),
            integrality=np.ones(len(rows), np.int64),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(weights.T, -np.inf, limit)],
            options={"mip_rel_gap": GAP, "presolve": False},  # with presolve it prints now and then
        )
        if found.x is None:
            break
        taken = found.x > 0.5
        chosen = np.zeros(len(kept), np.int64)
        chosen[rows[taken]] = columns[taken]
        if (sum(cost[index] for cost, index in zip(costs, chosen, strict=True)) <= limits).all():
            return chosen
    raise PassRefused("no choice of treatments keeps to all budgets at once")


def _undominated(points: Floats) -> Ints:
    """Indices of the points that no other is at or below in every coordinate (the first of equals stays)."""
    order = np.lexsort(points.T[::-1])
    front: list[int] = []
    for index in order:
        if not front or not (points[front] <= points[index]).all(axis=1).any():
            front.append(int(index))
    return np.array(front, np.int64)


def _padded(rows: Sequence[Floats], filler: float) -> Floats:
    """Rows as a matrix (layers, options), each counted from its least."""
    matrix = np.full((len(rows), max(map(len, rows), default=0)), filler)
    for line, row in zip(matrix, rows, strict=True):
        line[: len(row)] = row - row.min()
    return matrix


class _Priced(NamedTuple):
    """A choice within the room, and what no choice can undercut."""

    chosen: Ints
    value: float
    bound: float
    price: float


@dataclass(frozen=True)
class _Knapsack:
    """Least total value within a total weight, one option of each row.

    Attributes:
        values, weights: (layers, options), least of each row 0; value inf where a layer has fewer options.
        room: what the weights may add up to, at least 0.
    """

    values: Floats
    weights: Floats
    room: float

    def priced(self) -> _Priced:
        """The choice at the lowest price of weight at which it fits.

        For a price p, ``sum_l min(value + p weight) - p room`` is at most the least total value (weak
        duality), and as p falls the choice only grows in weight.
        """
        dearest = float(self.values.max(initial=0.0, where=np.isfinite(self.values)))
        lightest = float(self.weights.min(initial=np.inf, where=self.weights > 0))
        low, high = 0.0, 2 * (dearest or 1.0) / lightest  # no layer pays that for any weight
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self._weight(self._at(middle)) > self.room:
                low = middle
            else:
                high = middle
        chosen = self._at(high)
        value = self._value(chosen)
        bound = max(0.0, value + high * (self._weight(chosen) - self.room))
        return _Priced(chosen, value, bound, high)

    def searched(self, priced: _Priced) -> Ints:
        """The best choice, by branch and cut over the options that one better than ``priced`` can hold."""
        totals = self.values + priced.price * self.weights
        losses = totals - totals.min(axis=1, keepdims=True)
        rows, columns = np.nonzero((losses <= priced.value - priced.bound) & (self.weights <= self.room))
        value = self.values[rows, columns] / priced.value
        weight = self.weights[rows, columns] / self.room
        entries = (np.ones(len(rows)), (rows, np.arange(len(rows))))
        one_each = csr_array(entries, shape=(len(self.values), len(rows)))
        for limit in (1.0, 1.0 - _TIGHTER):
            with quiet_stdout():  # its search leaves lines of its own there
                found = milp(
                    value,
                    integrality=np.ones(len(rows), np.int64),
                    bounds=Bounds(0, 1),
                    constraints=[
                        LinearConstraint(one_each, 1, 1),
                        LinearConstraint(weight[None], -np.inf, limit),
                    ],
                    options={"mip_rel_gap": GAP},
                )
            if found.x is None:
                break
            taken = found.x > 0.5
            chosen = np.empty(len(self.values), np.int64)
            chosen[rows[taken]] = columns[taken]
            if self._weight(chosen) <= self.room:
                return chosen if self._value(chosen) < priced.value else priced.chosen
        return priced.chosen

    def _at(self, price: float) -> Ints:
        chosen: Ints = np.argmin(self.values + price * self.weights, axis=1).astype(np.int64)
        return chosen

    def _value(self, chosen: Ints) -> float:
        return float(np.take_along_axis(self.values, chosen[:, None], axis=1).sum())

    def _weight(self, chosen: Ints) -> float:
        return float(np.take_along_axis(self.weights, chosen[:, None], axis=1).sum())
