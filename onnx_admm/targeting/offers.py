"""What is on offer for each layer: treatments with their damage and their price."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.allocation.allocation import FLOAT_BITS, Surface, least_error_within
from onnx_admm.allocation.knapsack import Floats
from onnx_admm.contracts import FIGURE_OF, CostModel, LayerProfile, Treatment
from onnx_admm.errors import BudgetExceeded, PassRefused, UsageError
from onnx_admm.pricing.pricing import CostTable, break_even, price_layers
from onnx_admm.targeting.figures import WEIGHTS, amount

_STEPS = 48
"""Densities on offer for each number of bits, evenly spread by their logarithm."""

_LESS = 1 - 1e-9
_TIGHTENED = 8
"""Times the limits are drawn in where the whole costs more than its rows."""


@dataclass(frozen=True, slots=True)
class Offers:
    """All treatments of one layer, the untouched one last.

    Attributes:
        treatments: what can be done.
        damages: (options,), what that does to the outputs.
        costs: (options, budgets), as shares of what the whole original costs.
        break_evens: by bits, for each budget: the least pruning ratio that costs less than the dense layer of
            as many bits; inf where none does.
        withheld: how many pruned treatments were left out, for they cost no less than the dense layer.
    """

    treatments: tuple[Treatment, ...]
    damages: Floats
    costs: Floats
    break_evens: Mapping[int, tuple[float, ...]]
    withheld: int = 0

    @property
    def untouched(self) -> int:
        """Index of the dense, unquantised layer."""
        return len(self.treatments) - 1

    def break_even(self, bits: int) -> float:
        """Over all budgets, the least ratio that pays for one of them."""
        return min(self.break_evens[bits])


@dataclass(frozen=True, slots=True)
class Market:
    """Offers of all layers, and what the model costs.

    Attributes:
        budgets: the most that may be left of each figure, as a share of the original's.
        offers: by site name.
        profiles: rows of the model that is treated.
        cost_model: prices them.
        original: what the original costs, for each budget.
        fixed: share of each that no treatment changes: rows without weights, what the total adds to its rows.
    """

    budgets: Mapping[str, float]
    offers: Mapping[str, Offers]
    profiles: tuple[LayerProfile, ...]
    cost_model: CostModel
    original: tuple[float, ...]
    fixed: tuple[float, ...]

    def least(self) -> tuple[float, ...]:
        """The share of each figure that the strongest treatments leave."""
        cheapest = sum(offers.costs.min(axis=0) for offers in self.offers.values())
        return tuple(float(share) for share in np.asarray(self.fixed) + cheapest)

    def choose(self, shares: Sequence[float], scales: Mapping[str, float]) -> dict[str, int]:
        """The index of each layer's treatment: least damage within these shares of the original's costs.

        Args:
            shares: for each budget.
            scales: what a layer's damages are multiplied by.

        Raises:
            BudgetExceeded: no choice keeps to them.
        """
        damages = {name: each.damages * scales.get(name, 1.0) for name, each in self.offers.items()}
        costs = {name: each.costs for name, each in self.offers.items()}
        limits = np.asarray(shares) - np.asarray(self.fixed)
        choice: dict[str, int] = {}
        for _ in range(_TIGHTENED):
            try:
                choice = least_error_within(damages, costs, [float(limit) for limit in limits])
            except PassRefused as error:
                raise self.unreachable() from error
            over = np.asarray(self.cost(choice)) - np.asarray(shares)
            if (over <= 1e-9).all():
                break
            limits = limits - np.maximum(over, 0)
        return choice

    def cost(self, choice: Mapping[str, int]) -> tuple[float, ...]:
        """What is left of each figure, as a share of the original's."""
        return self.cost_of(self.treatments(choice))

    def cost_of(self, treatments: Mapping[str, Treatment]) -> tuple[float, ...]:
        """The same for any treatments, on offer or not."""
        table = price_layers(self.profiles, self.cost_model, treatments)
        return tuple(float(share) for share in totals(table, self.budgets) / np.asarray(self.original))

    def treatments(self, choice: Mapping[str, int]) -> dict[str, Treatment]:
        """The treatments chosen, by site name."""
        return {name: self.offers[name].treatments[index] for name, index in choice.items()}

    def damage(self, choice: Mapping[str, int], scales: Mapping[str, float]) -> float:
        """The damage that a choice is expected to do."""
        return sum(float(self.offers[name].damages[index]) * scales[name] for name, index in choice.items())

    def never(self) -> tuple[str, ...]:
        """Figures that zeros save nothing of, whatever the layer, the share and the bits."""
        return tuple(
            figure
            for place, figure in enumerate(self.budgets)
            if all(
                math.isinf(ratios[place])
                for each in self.offers.values()
                for ratios in each.break_evens.values()
            )
        )

    def unreachable(self) -> BudgetExceeded:
        """Why the budgets cannot be met at any accuracy."""
        asked = ", ".join(f"{figure}={share:.4g}x" for figure, share in self.budgets.items())
        least = ", ".join(
            f"{figure}={share:.4g}x" for figure, share in zip(self.budgets, self.least(), strict=True)
        )
        never = " or ".join(self.never())
        why = (
            f"On '{self.cost_model.name}' zeros save no {never}: a pruned layer costs what a dense one does. "
        )
        return BudgetExceeded(
            "the budget is not reachable, whatever the accuracy",
            got=asked,
            expected=f"at least {least}, where every layer has its cheapest treatment",
            hint=f"{why if never else ''}Ask for less, or take another cost model.",
        )


def totals(table: CostTable, figures: Iterable[str]) -> Floats:
    """The totals of a price list."""
    sums = []
    for figure in figures:
        if figure == WEIGHTS:
            sums.append(sum(row.treatment.density * row.layer.parameters for row in table.rows))
        else:
            sums.append(getattr(table.total, FIGURE_OF[figure]) or 0.0)
    return np.array(sums, np.float64)


def open_market(
    profiles: Sequence[LayerProfile],
    cost_model: CostModel,
    budgets: Mapping[str, float],
    surfaces: Mapping[str, Surface],
    *,
    original: CostTable,
    least_density: float,
) -> Market:
    """Price every treatment of every layer that was measured.

    A pruned treatment that costs no less than the dense layer of as many bits, for every budget, is left out:
    such a layer goes back to dense, for pruning it would damage the outputs and save nothing.

    Args:
        profiles: rows of the model to treat (``node_profiles``).
        cost_model: prices them.
        budgets: share that may be left, by figure.
        surfaces: measured damage by density and bits, by site name; only these layers are treated.
        original: what the user's model costs, which the shares are of.
        least_density: the lowest on offer.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: the original costs nothing of a figure, so that no share can be left of it.
    """
    wholes = totals(original, budgets)
    for figure, whole in zip(budgets, wholes, strict=True):
        if not whole > 0:
            raise UsageError("the model costs nothing of that, so no share can be left", where=figure)
    dense = price_layers(profiles, cost_model, dict.fromkeys(surfaces, Treatment()))
    rows: dict[str, list[LayerProfile]] = {name: [] for name in surfaces}
    for row in dense.rows:
        if row.layer.weight in rows:
            rows[row.layer.weight].append(row.layer)
    pricer = _Pricer(cost_model, tuple(budgets), wholes, least_density)
    offers = {name: pricer.offers(rows[name], surfaces[name]) for name in surfaces}
    treated = sum((each.costs[each.untouched] for each in offers.values()), np.zeros(len(budgets)))
    return Market(
        budgets=dict(budgets),
        offers=offers,
        profiles=tuple(profiles),
        cost_model=cost_model,
        original=tuple(float(whole) for whole in wholes),
        fixed=tuple(float(share) for share in totals(dense, budgets) / wholes - treated),
    )


@dataclass(frozen=True)
class _Pricer:
    """Prices one layer's treatments as shares of the whole."""

    cost_model: CostModel
    figures: tuple[str, ...]
    wholes: Floats
    least_density: float

    def offers(self, rows: Sequence[LayerProfile], surface: Surface) -> Offers:
        treatments: list[Treatment] = []
        damages: list[float] = []
        costs: list[Floats] = []
        break_evens: dict[int, tuple[float, ...]] = {}
        withheld = 0
        densities = _densities(rows[0].size if rows else 1, self.least_density)
        for bits in (*sorted(surface.rounded), FLOAT_BITS):
            prices = np.array([self._price(rows, Treatment(float(share), bits)) for share in densities])
            pays = (prices < prices[-1] * _LESS).any(axis=1)
            pays[-1] = True
            withheld += int(np.count_nonzero(~pays))
            treatments += [Treatment(float(share), bits) for share in densities[pays]]
            damages += list(surface.at(densities[pays], bits))
            costs += list(prices[pays])
            break_evens[bits] = tuple(self._break_even(rows, bits, figure) for figure in self.figures)
        damages[-1] = 0.0
        return Offers(tuple(treatments), np.array(damages), np.array(costs), break_evens, withheld)

    def _price(self, rows: Sequence[LayerProfile], treatment: Treatment) -> Floats:
        costs = [(row, self.cost_model.estimate(row, treatment)) for row in rows]
        sums = [sum(amount(figure, cost, row, treatment) for row, cost in costs) for figure in self.figures]
        return np.array(sums, np.float64) / self.wholes

    def _break_even(self, rows: Sequence[LayerProfile], bits: int, figure: str) -> float:
        if not rows:
            return math.inf
        if figure == WEIGHTS:
            return 1.0
        return break_even(self.cost_model, rows, bits, figure=FIGURE_OF[figure])


def _densities(size: int, least: float) -> Floats:
    """Shares on offer, rising to 1, each a whole number of weights."""
    counts = np.unique(np.round(size * np.geomspace(max(least, 1 / size), 1, _STEPS)).clip(1, size))
    shares: Floats = counts / size
    return shares
