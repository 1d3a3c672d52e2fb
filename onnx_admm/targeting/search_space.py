"""Candidates of each layer: compression options with their relative error and their cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.allocation.allocation import FLOAT_BITS, Surface, least_error_within
from onnx_admm.allocation.knapsack import Floats
from onnx_admm.contracts import QUANTITY_OF, CompressionOption, CostModel, LayerProfile
from onnx_admm.errors import BudgetExceeded, PassRefused, UsageError
from onnx_admm.pricing.pricing import CostTable, break_even, price_layers
from onnx_admm.targeting.quantities import WEIGHTS, amount

_STEPS = 48
"""Densities of the candidates for each number of bits, evenly spread by their logarithm."""

_LESS = 1 - 1e-9
_TIGHTENED = 8
"""Number of times the limits are lowered where the whole costs more than its rows."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """All compression options of one layer, the unchanged layer last.

    Attributes:
        options: the options.
        relative_errors: (options,), relative error of the outputs.
        costs: (options, budgets), as shares of the whole original's cost.
        break_evens: by bits, for each budget: the least pruning ratio that costs less than the dense layer of
            as many bits; inf where none does.
        dominated: number of pruned options left out because they cost no less than the dense layer.
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
        """Return the least ratio that pays for any of the budgets."""
        return min(self.break_evens[bits])


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Candidates of all layers, and the costs of the model.

    Attributes:
        budgets: largest share of each quantity, relative to the original's.
        candidates: candidates of each layer, by site name.
        profiles: rows of the model to compress.
        cost_model: prices them.
        original: cost of the original, for each budget.
        fixed: share of each budget that no option changes: rows without weights, additions of the total.
    """

    budgets: Mapping[str, float]
    candidates: Mapping[str, Candidates]
    profiles: tuple[LayerProfile, ...]
    cost_model: CostModel
    original: tuple[float, ...]
    fixed: tuple[float, ...]

    def least(self) -> tuple[float, ...]:
        """Return the share of each quantity under the cheapest options."""
        cheapest = sum(candidates.costs.min(axis=0) for candidates in self.candidates.values())
        return tuple(float(share) for share in np.asarray(self.fixed) + cheapest)

    def choose(self, shares: Sequence[float], scales: Mapping[str, float]) -> dict[str, int]:
        """Return the index of each layer's option: least relative error within shares of the costs.

        Args:
            shares: share for each budget.
            scales: factors on layers' relative errors.

        Raises:
            BudgetExceeded: no choice is within them.
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
        """Return the remaining share of each quantity, relative to the original's."""
        return self.cost_of(self.options(choice))

    def cost_of(self, options: Mapping[str, CompressionOption]) -> tuple[float, ...]:
        """Return the same for any compression options."""
        table = price_layers(self.profiles, self.cost_model, options)
        return tuple(float(share) for share in totals(table, self.budgets) / np.asarray(self.original))

    def options(self, choice: Mapping[str, int]) -> dict[str, CompressionOption]:
        """Return the compression options chosen, by site name."""
        return {name: self.candidates[name].options[index] for name, index in choice.items()}

    def relative_error(self, choice: Mapping[str, int], scales: Mapping[str, float]) -> float:
        """Return the expected relative error of a choice."""
        return sum(
            float(self.candidates[name].relative_errors[index]) * scales[name]
            for name, index in choice.items()
        )

    def never(self) -> tuple[str, ...]:
        """Return the quantities that zeros never reduce, for any layer, density or bits."""
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
        """Return the error for budgets that cannot be met at any accuracy."""
        asked = ", ".join(f"{quantity}={share:.4g}x" for quantity, share in self.budgets.items())
        least = ", ".join(
            f"{quantity}={share:.4g}x" for quantity, share in zip(self.budgets, self.least(), strict=True)
        )
        never = " or ".join(self.never())
        why = f"On '{self.cost_model.name}' zeros save no {never}: pruned layers cost as much as dense ones. "
        return BudgetExceeded(
            "the budget is not reachable, whatever the accuracy",
            got=asked,
            expected=f"at least {least}, where every layer has its cheapest compression option",
            hint=f"{why if never else ''}Relax the budget, or choose another cost model.",
        )


def totals(table: CostTable, quantities: Iterable[str]) -> Floats:
    """Return the total of each quantity in a price list."""
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
    """Price every compression option of every measured layer.

    A pruned option that costs no less than the dense layer of as many bits, for every budget, is left out:
    pruning it would add error to the outputs and save nothing.

    Args:
        profiles: rows of the model to compress (``node_profiles``).
        cost_model: prices them.
        budgets: largest share, by quantity.
        surfaces: measured relative error by density and bits, by site name; only these layers are compressed.
        original: costs of the user's model, which the shares relate to.
        least_density: lowest density of a candidate.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: the original costs nothing of a quantity, so that shares of it are undefined.
    """
    wholes = totals(original, budgets)
    for quantity, whole in zip(budgets, wholes, strict=True):
        if not whole > 0:
            raise UsageError(
                "the model costs nothing of this quantity, so a share of it is undefined", where=quantity
            )
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
    """Return the densities of candidates, rising to 1, each a whole number of weights."""
    counts = np.unique(np.round(size * np.geomspace(max(least, 1 / size), 1, _STEPS)).clip(1, size))
    shares: Floats = counts / size
    return shares
