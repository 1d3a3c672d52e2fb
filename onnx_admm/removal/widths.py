"""Widths of groups: the number of units that each keeps, by the added error and the saved cost.

The cost of a model with narrower groups is predicted node by node,

    cost(k) = sum_n c_n * prod_g r_gn(k_g),

where r_gn(k) is the share of the cost of node n that is left when group g alone keeps k units. The error is
the sum of the groups' own errors at their widths. Widths are lowered one step at a time, until the budget is
met: each time the step that adds the least error for the cost it saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WidthOptions:
    """Widths that one group may have.

    Attributes:
        widths: numbers of units, the largest first; the first is the present one, (n,).
        errors: what each adds to the error, not decreasing, (n,).
        ratios: by node, the share of its cost that is left at each width, (n,).
    """

    widths: tuple[int, ...]
    errors: Floats
    ratios: Mapping[str, Floats]


@dataclass(frozen=True)
class Widths:
    """A choice of widths.

    Attributes:
        kept: number of units of each group, by its key.
        share: predicted share of the cost that is left.
        error: sum of the groups' errors.
    """

    kept: Mapping[int, int]
    share: float
    error: float


def choose_widths(groups: Mapping[int, WidthOptions], costs: Mapping[str, float], share: float) -> Widths:
    """Return widths whose predicted cost is at most ``share`` of the present one, or the narrowest ones.

    Args:
        groups: options of each group, by its key.
        costs: present cost of every node.
        share: share of the cost that may be left, 0 to 1.
    """
    whole = sum(costs.values())
    state = dict.fromkeys(groups, 0)
    while _cost(groups, costs, state) > share * whole * (1 + 1e-12):
        present = _cost(groups, costs, state)
        step = _best_step(groups, costs, state, present)
        if step is None:
            break
        state[step[0]] = step[1]
    _widen(groups, costs, state, share * whole)
    kept = {key: groups[key].widths[place] for key, place in state.items()}
    error = sum(float(groups[key].errors[place]) for key, place in state.items())
    return Widths(kept, _cost(groups, costs, state) / whole if whole else 1.0, error)


def _best_step(
    groups: Mapping[int, WidthOptions], costs: Mapping[str, float], state: Mapping[int, int], present: float
) -> tuple[int, int] | None:
    """Return the group and the place of its next width with the least error for the cost saved."""
    best, found = np.inf, None
    for key, options in groups.items():
        own = _costs_along(groups, costs, state, key)
        for place in range(state[key] + 1, len(options.widths)):
            saved = present - own[place]
            if saved <= 0:
                continue
            added = max(float(options.errors[place] - options.errors[state[key]]), 1e-15)
            if added / saved < best:
                best, found = added / saved, (key, place)
    return found


def _widen(
    groups: Mapping[int, WidthOptions], costs: Mapping[str, float], state: dict[int, int], limit: float
) -> None:
    """Widen groups again as far as the budget allows, first the one whose error falls most."""
    while True:
        best, found = 0.0, None
        for key, options in groups.items():
            own = _costs_along(groups, costs, state, key)
            for place in range(state[key]):
                gained = float(options.errors[state[key]] - options.errors[place])
                if own[place] <= limit * (1 + 1e-12) and gained > best:
                    best, found = gained, (key, place)
        if found is None:
            return
        state[found[0]] = found[1]


def _cost(groups: Mapping[int, WidthOptions], costs: Mapping[str, float], state: Mapping[int, int]) -> float:
    return sum(cost * _ratio(groups, state, node) for node, cost in costs.items())


def _ratio(
    groups: Mapping[int, WidthOptions], state: Mapping[int, int], node: str, but: int | None = None
) -> float:
    ratio = 1.0
    for key, options in groups.items():
        if key != but and node in options.ratios:
            ratio *= float(options.ratios[node][state[key]])
    return ratio


def _costs_along(
    groups: Mapping[int, WidthOptions], costs: Mapping[str, float], state: Mapping[int, int], key: int
) -> Floats:
    """Return the predicted cost at every width of one group, the others as they are."""
    options = groups[key]
    totals = np.zeros(len(options.widths))
    for node, cost in costs.items():
        others = cost * _ratio(groups, state, node, but=key)
        totals += others * options.ratios[node] if node in options.ratios else others
    return totals
