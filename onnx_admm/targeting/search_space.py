"""Candidates of each layer: compression options with their relative error and their cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.allocation.allocation import FLOAT_BITS, Surface, least_error_within
from onnx_admm.allocation.knapsack import Floats
from onnx_admm.contracts import QUANTITY_OF, CompressionOption, CostModel, LayerProfile
from onnx_admm.costs.pricing import CostTable, break_even, price_layers
from onnx_admm.errors import BudgetExceeded, PassRefused, UsageError
from onnx_admm.targeting.quantities import WEIGHTS, amount

_STEPS = 48
"""Densities of the candidates for each number of bits, evenly spread by their logarithm."""

_LESS = 1 - 1e-9
_TIGHTENED = 8
"""Times the limits are drawn in where the whole costs more than its rows."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """All compression options of one layer, the untouched one last.

    Attributes:
        options: what can be done.
        relative_errors: (options,), what that does to the outputs.
        costs: (options, budgets), as shares of what the whole original costs.
        break_evens: by bits, for each budget: the least pruning ratio that costs less than the dense layer of
            as many bits; inf where none does.
        dominated: how many pruned compression options were left out, for they cost no less than the dense
            layer.
    """

    options: tuple[CompressionOption, ...]
    relative_errors: Floats
    costs: Floats
    break_evens: Mapping[int, tuple[float, ...]]
    dominated: int = 0

    @property
    def untouched(self) -> int:
        """Index of the dense, unquantised layer."""
        return len(self.options) - 1

    def break_even(self, bits: int) -> float:
        """Over all budgets, the least ratio that pays for one of them."""
        return min(self.break_evens[bits])


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Candidates of all layers, and what the model costs.

    Attributes:
        budgets: the most that may be left of each quantity, as a share of the original's.
        candidates: by site name.
        profiles: rows of the model that is treated.
        cost_model: prices them.
        original: what the original costs, for each budget.
        fixed: share of each that no compression option changes: rows without weights, what the total adds to
            its rows.
    """

    budgets: Mapping[str, float]
    candidates: Mapping[str, Candidates]
    profiles: tuple[LayerProfile, ...]
    cost_model: CostModel
    original: tuple[float, ...]
    fixed: tuple[float, ...]

    def least(self) -> tuple[float, ...]:
        """The share of each quantity that the strongest compression options leave."""
        cheapest = sum(candidates.costs.min(axis=0) for candidates in self.candidates.values())
        return tuple(float(share) for share in np.asarray(self.fixed) + cheapest)

    def choose(self, shares: Sequence[float], scales: Mapping[str, float]) -> dict[str, int]:
        """Return the index of each layer's option: least relative error within shares of the costs.

        Args:
            shares: for each budget.
            scales: what a layer's relative errors are multiplied by.

        Raises:
            BudgetExceeded: no choice keeps to them.
        """
        relative_errors = {
            name: each.relative_errors * scales.get(name, 1.0) for name, each in self.candidates.items()
        }
        costs = {name: each.costs for name, each in self.candidates.items()}
        limits = np.asarray(shares) - np.asarray(self.fixed)
        choice: dict[str, int] = {}
        for _ in range(_TIGHTENED):
            try:
                choice = least_error_within(relative_errors, costs, [float(limit) for limit in limits])
            except PassRefused as error:
                raise self.unreachable() from error
            over = np.asarray(self.cost(choice)) - np.asarray(shares)
            if (over <= 1e-9).all():
                break
            limits = limits - np.maximum(over, 0)
        return choice

    def cost(self, choice: Mapping[str, int]) -> tuple[float, ...]:
        """What is left of each quantity, as a share of the original's."""
        return self.cost_of(self.options(choice))

    def cost_of(self, options: Mapping[str, CompressionOption]) -> tuple[float, ...]:
        """Return the same for any compression options."""
        table = price_layers(self.profiles, self.cost_model, options)
        return tuple(float(share) for share in totals(table, self.budgets) / np.asarray(self.original))

    def options(self, choice: Mapping[str, int]) -> dict[str, CompressionOption]:
        """The compression options chosen, by site name."""
        return {name: self.candidates[name].options[index] for name, index in choice.items()}

    def relative_error(self, choice: Mapping[str, int], scales: Mapping[str, float]) -> float:
        """The relative error that a choice is expected to do."""
        return sum(
            float(self.candidates[name].relative_errors[index]) * scales[name]
            for name, index in choice.items()
        )

    def never(self) -> tuple[str, ...]:
        """Quantities that zeros save nothing of, whatever the layer, the share and the bits."""
        return tuple(
            quantity
            for place, quantity in enumerate(self.budgets)
            if all(
                math.isinf(ratios[place])
                for each in self.candidates.values()
                for ratios in each.break_evens.values()
            )
        )

    def unreachable(self) -> BudgetExceeded:
        """Why the budgets cannot be met at any accuracy."""
        asked = ", ".join(f"{quantity}={share:.4g}x" for quantity, share in self.budgets.items())
        least = ", ".join(
            f"{quantity}={share:.4g}x" for quantity, share in zip(self.budgets, self.least(), strict=True)
        )
        never = " or ".join(self.never())
        why = (
            f"On '{self.cost_model.name}' zeros save no {never}: a pruned layer costs what a dense one does. "
        )
        return BudgetExceeded(
            "the budget is not reachable, whatever the accuracy",
            got=asked,
            expected=f"at least {least}, where every layer has its cheapest compression option",
            hint=f"{why if never else ''}Ask for less, or take another cost model.",
        )


def totals(table: CostTable, quantities: Iterable[str]) -> Floats:
    """The totals of a price list."""
    sums = []
    for quantity in quantities:
        if quantity == WEIGHTS:
            sums.append(sum(row.option.density * row.layer.parameters for row in table.rows))
        else:
            sums.append(getattr(table.total, QUANTITY_OF[quantity]) or 0.0)
    return np.array(sums, np.float64)


def build_search_space(
    profiles: Sequence[LayerProfile],
    cost_model: CostModel,
    budgets: Mapping[str, float],
    surfaces: Mapping[str, Surface],
    *,
    original: CostTable,
    least_density: float,
) -> SearchSpace:
    """Price every compression option of every layer that was measured.

    A pruned compression option that costs no less than the dense layer of as many bits, for every budget, is
    left out: such a layer goes back to dense, for pruning it would add error to the outputs and save nothing.

    Args:
        profiles: rows of the model to treat (``node_profiles``).
        cost_model: prices them.
        budgets: share that may be left, by quantity.
        surfaces: measured relative error by density and bits, by site name; only these layers are treated.
        original: what the user's model costs, which the shares are of.
        least_density: lowest density of a candidate.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: the original costs nothing of a quantity, so that no share can be left of it.
    """
    wholes = totals(original, budgets)
    for quantity, whole in zip(budgets, wholes, strict=True):
        if not whole > 0:
            raise UsageError("the model costs nothing of that, so no share can be left", where=quantity)
    dense = price_layers(profiles, cost_model, dict.fromkeys(surfaces, CompressionOption()))
    rows: dict[str, list[LayerProfile]] = {name: [] for name in surfaces}
    for row in dense.rows:
        if row.layer.weight in rows:
            rows[row.layer.weight].append(row.layer)
    pricer = _Pricer(cost_model, tuple(budgets), wholes, least_density)
    candidates = {name: pricer.candidates(rows[name], surfaces[name]) for name in surfaces}
    treated = sum((each.costs[each.untouched] for each in candidates.values()), np.zeros(len(budgets)))
    return SearchSpace(
        budgets=dict(budgets),
        candidates=candidates,
        profiles=tuple(profiles),
        cost_model=cost_model,
        original=tuple(float(whole) for whole in wholes),
        fixed=tuple(float(share) for share in totals(dense, budgets) / wholes - treated),
    )


@dataclass(frozen=True)
class _Pricer:
    """Prices one layer's compression options as shares of the whole."""

    cost_model: CostModel
    quantities: tuple[str, ...]
    wholes: Floats
    least_density: float

    def candidates(self, rows: Sequence[LayerProfile], surface: Surface) -> Candidates:
        options: list[CompressionOption] = []
        relative_errors: list[float] = []
        costs: list[Floats] = []
        break_evens: dict[int, tuple[float, ...]] = {}
        dominated = 0
        densities = _densities(rows[0].size if rows else 1, self.least_density)
        for bits in (*sorted(surface.rounded), FLOAT_BITS):
            prices = np.array(
                [self._price(rows, CompressionOption(float(share), bits)) for share in densities]
            )
            pays = (prices < prices[-1] * _LESS).any(axis=1)
            pays[-1] = True
            dominated += int(np.count_nonzero(~pays))
            options += [CompressionOption(float(share), bits) for share in densities[pays]]
            relative_errors += list(surface.at(densities[pays], bits))
            costs += list(prices[pays])
            break_evens[bits] = tuple(self._break_even(rows, bits, quantity) for quantity in self.quantities)
        relative_errors[-1] = 0.0
        return Candidates(tuple(options), np.array(relative_errors), np.array(costs), break_evens, dominated)

    def _price(self, rows: Sequence[LayerProfile], option: CompressionOption) -> Floats:
        costs = [(row, self.cost_model.estimate(row, option)) for row in rows]
        sums = [
            sum(amount(quantity, cost, row, option) for row, cost in costs) for quantity in self.quantities
        ]
        return np.array(sums, np.float64) / self.wholes

    def _break_even(self, rows: Sequence[LayerProfile], bits: int, quantity: str) -> float:
        if not rows:
            return math.inf
        if quantity == WEIGHTS:
            return 1.0
        return break_even(self.cost_model, rows, bits, quantity=QUANTITY_OF[quantity])


def _densities(size: int, least: float) -> Floats:
    """Shares of the candidates, rising to 1, each a whole number of weights."""
    counts = np.unique(np.round(size * np.geomspace(max(least, 1 / size), 1, _STEPS)).clip(1, size))
    shares: Floats = counts / size
    return shares
