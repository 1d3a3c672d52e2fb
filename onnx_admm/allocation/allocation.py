"""Compression of each layer under one budget: pure functions of measured errors and costs.

Small relative errors add up: a layer changed alone adds ``e`` to the relative squared error of the outputs,
and layers changed together add about the sum, since their errors are nearly uncorrelated. So per-layer
measurements are enough, and the rest is the multiple-choice knapsack problem: one option for each layer,

    minimise  sum_l error(x_l)   subject to   sum_l cost(x_l) <= budget,   x_l one of layer l's options

or the same with errors and costs exchanged (``allocation/knapsack.py`` solves it).

Source: Dong et al., HAWQ-V2, arXiv 1911.03852, for the bits of layers as such a problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from onnx_admm.allocation.knapsack import Floats, Ints, choose, choose_within, require_reach
from onnx_admm.errors import PassRefused

What = TypeVar("What")

FLOAT_BITS = 32
"""Bits of a weight that is not quantised."""

_STEPS = 200
"""Number of densities tried of a layer."""

_LAST_DROP = 64.0
"""Factor of the last error that stands for the error 0 of all weights, which has no logarithm.

Magnitudes near 0 are spread evenly, so the error of n pruned weights grows as n^3: half of the zeros, an
eighth of the error. The interpolation gives that if the end counts as a 64th of the last error.
"""


@dataclass(frozen=True, slots=True)
class Option(Generic[What]):
    """One compression option of one layer.

    Attributes:
        cost: cost in units of the budget (bytes, weights); finite, 0 or more.
        error: relative error of the outputs; finite, 0 or more.
        what: the compression option itself; passed through.
    """

    cost: float
    error: float
    what: What


@dataclass(frozen=True, slots=True)
class Curve:
    """A layer's measured errors by density.

    Attributes:
        densities: shares of weights kept, rising, 0 to 1; at least one.
        errors: error of the outputs at each, 0 or more.
    """

    densities: tuple[float, ...]
    errors: tuple[float, ...]

    def at(self, densities: Floats) -> Floats:
        """Return the errors between the measured points: monotone, piecewise linear in the logarithm.

        More weights never count as worse: an error above that of a lower density counts as that one. At
        density 1 the error is 0 unless it was measured.
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
        rounded: error that levels add, by bits and density; 0 or more.
    """

    pruned: Curve
    rounded: Mapping[int, Curve]

    def at(self, densities: Floats, bits: int = FLOAT_BITS) -> Floats:
        """Return the errors between the measured points; errors of levels are constant beyond them.

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
    """Return an option of every layer, least in total error within a total cost.

    Args:
        options: options of each layer, at least one; any order.
        budget: the most that the costs may add up to.

    Returns:
        The choice, its total error within ``branch_and_cut.GAP`` of the least possible.

    Raises:
        PassRefused: even the cheapest options cost more; says what they cost.
    """
    costs, errors = _columns(options)
    require_reach(costs, budget, "the budget is below what the cheapest compression options cost")
    return _pick(options, choose(errors, costs, budget))


def least_cost(options: Mapping[str, Sequence[Option[What]]], tolerance: float) -> dict[str, Option[What]]:
    """Return an option of every layer, least in total cost within a total error; the other way round.

    Raises:
        PassRefused: even the best options err more; says by how much.
    """
    costs, errors = _columns(options)
    require_reach(errors, tolerance, "the tolerance is below the error of the mildest compression options")
    return _pick(options, choose(costs, errors, tolerance))


def least_error_within(
    errors: Mapping[str, Floats], costs: Mapping[str, Floats], limits: Sequence[float]
) -> dict[str, int]:
    """Return an option of every layer, least in total error within several total costs at once.

    Args:
        errors: errors of each layer's options, (options,).
        costs: costs of each layer's options, (options, limits).
        limits: the most that the costs may add up to, each by itself.

    Returns:
        The index of each layer's option, the total error within ``branch_and_cut.GAP`` of the least possible.

    Raises:
        PassRefused: no choice keeps to them; says what the cheapest for each costs.
    """
    for each, limit in enumerate(limits):
        columns = [np.asarray(costs[name][:, each], np.float64) for name in errors]
        require_reach(columns, limit, "the budget is below what the cheapest compression options cost")
    if len(limits) == 1:
        chosen = choose(list(errors.values()), [costs[name][:, 0] for name in errors], limits[0])
    else:
        chosen = choose_within(list(errors.values()), [costs[name] for name in errors], np.array(limits))
    return dict(zip(errors, map(int, chosen), strict=True))


def densities(curves: Mapping[str, Curve], sizes: Mapping[str, int], keep: float) -> dict[str, float]:
    """Return the density of each layer that keeps a share of all weights at the least total error.

    Args:
        curves: measured errors by density of each layer.
        sizes: weights of each layer.
        keep: share of all weights that stay, over 0 to 1.

    Returns:
        Densities, each a whole number of weights over the layer's size; together ``round(keep * total)``.

    Raises:
        PassRefused: the lowest densities measured keep more than that; states their share.
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
    """Return whole numbers of weights from the lowest measured density up; ``what`` is the number kept."""
    lowest = int(np.ceil(curve.densities[0] * size))
    counts = np.unique(np.linspace(lowest, size, _STEPS + 1).round().astype(np.int64))
    errors = curve.at(counts / max(size, 1))
    return [
        Option(float(count), float(error), int(count)) for count, error in zip(counts, errors, strict=True)
    ]


def _spend(kept: dict[str, int], curves: Mapping[str, Curve], sizes: Mapping[str, int], budget: int) -> None:
    """Distribute the rest of the budget after whole steps, where another weight helps most."""
    left = budget - sum(kept.values())
    while left > 0:
        available = {
            name: min(left, sizes[name] - count) for name, count in kept.items() if count < sizes[name]
        }
        gains = {}
        for name, more in available.items():
            now, then = curves[name].at(np.array([kept[name], kept[name] + more]) / sizes[name])
            gains[name] = float(now - then) / more
        best = max(gains, key=lambda name: gains[name])
        kept[best] += available[best]
        left -= available[best]


# -- columns and back ------------------------------------------------------------------------


def _columns(options: Mapping[str, Sequence[Option[What]]]) -> tuple[list[Floats], list[Floats]]:
    costs = [np.array([option.cost for option in row], np.float64) for row in options.values()]
    errors = [np.array([option.error for option in row], np.float64) for row in options.values()]
    return costs, errors


def _pick(options: Mapping[str, Sequence[Option[What]]], chosen: Ints) -> dict[str, Option[What]]:
    return {name: row[index] for (name, row), index in zip(options.items(), chosen, strict=True)}
