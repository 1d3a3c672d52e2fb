"""Why a layer is treated as it is: its alternatives and their prices, and what savings cost elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_admm.allocation.allocation import FLOAT_BITS
from onnx_admm.allocation.knapsack import Floats
from onnx_admm.contracts import Treatment
from onnx_admm.targeting.offers import Market, Offers

_BINDING = 0.97
"""A budget that is used up to this share says what savings are worth; others do not count."""

_ROUNDING = 1e-12
"""Prices, as shares of the budget, that differ by less are the same."""


@dataclass(frozen=True, slots=True)
class Step:
    """The move from one offer of a layer to another.

    Attributes:
        index: of the offer it leads to.
        saved: of the budget, as a share of it; negative for a milder offer.
        damage: what it adds to the outputs' damage.
    """

    index: int
    saved: float
    damage: float

    @property
    def rate(self) -> float:
        """Damage for a hundredth of the budget."""
        return self.damage / (100 * self.saved) if self.saved else math.inf


def explain(
    market: Market,
    choice: Mapping[str, int],
    *,
    shares: Sequence[float] | None = None,
    scales: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """For each layer its treatment, the alternatives' prices and a sentence; JSON-ready.

    Args:
        market: what was on offer.
        choice: index of each layer's treatment.
        shares: the budgets it was made for; None: the market's.
        scales: what layers' damages are multiplied by.
    """
    limits = np.array(list(market.budgets.values()) if shares is None else shares)
    binds = np.array(market.cost(choice)) > _BINDING * limits
    weights = (binds if binds.any() else np.ones(len(limits))) / limits
    lines = {
        name: _Line(market, name, index, (scales or {}).get(name, 1.0), weights / max(1, binds.sum()))
        for name, index in choice.items()
    }
    going = max((line.back.rate for line in lines.values() if line.back is not None), default=0.0)
    return {name: line.facts(going) for name, line in lines.items()}


class _Line:
    """One layer's choice among its offers; prices are shares of the budgets that bind, one with another."""

    def __init__(self, market: Market, name: str, index: int, scale: float, weights: Floats) -> None:
        self.market, self.index = market, index
        self.offers: Offers = market.offers[name]
        self.binds = weights > 0
        self.prices: Floats = self.offers.costs @ weights
        self.damages: Floats = self.offers.damages * scale
        self.back, self.on = self._milder(), self._stronger()

    @property
    def chosen(self) -> Treatment:
        return self.offers.treatments[self.index]

    def facts(self, going: float) -> dict[str, Any]:
        chosen = self.chosen
        ratio = self.offers.break_even(chosen.bits)
        return {
            "density": chosen.density,
            "bits": chosen.bits,
            "damage": float(self.damages[self.index]),
            "cost": self._costs(self.index),
            "dense_cost": self._costs(self.offers.untouched),
            "break_even": None if math.isinf(ratio) else ratio,
            "alternatives": [self._alternative(index) for index in self._alternatives()],
            "why": self.why(going),
        }

    def why(self, going: float) -> str:
        """The sentence."""
        chosen = self.chosen
        if self.index == self.offers.untouched:
            return f"left as it is: {self._why_dense()}{self._why_not_on(going)}"
        parts = [self.words(chosen)]
        if chosen.density == 1:
            parts.append(f"not pruned: {self._why_dense()}")
        if self.back is not None:
            parts.append(
                f"{self.words(self.offers.treatments[self.back.index])} instead would cost "
                f"{-100 * self.back.saved:.2g} % of the budget for {-self.back.damage:.2g} less damage"
            )
        return "; ".join(parts) + self._why_not_on(going)

    @staticmethod
    def words(treatment: Treatment) -> str:
        """``pruned 8.3x, 4 bits``."""
        pruned = "dense" if treatment.density == 1 else f"pruned {1 / treatment.density:.3g}x"
        return pruned if treatment.bits == FLOAT_BITS else f"{pruned}, {treatment.bits} bits"

    def _why_dense(self) -> str:
        ratio = self.offers.break_even(self.chosen.bits)
        if math.isinf(ratio):
            return f"zeros never pay here on '{self.market.cost_model.name}'"
        if ratio > 1:
            return f"zeros pay from {ratio:.3g}x on, and that many do more damage than they save"
        return "zeros do more damage here than they save"

    def _why_not_on(self, going: float) -> str:
        if self.on is None:
            return "" if self.index == self.offers.untouched else "; nothing stronger costs less"
        what = self.words(self.offers.treatments[self.on.index])
        return (
            f"; {what} would save {100 * self.on.saved:.2g} % of the budget at {self.on.rate:.2g} damage a "
            f"hundredth (the marginal cost is {going:.2g})"
        )

    def _stronger(self) -> Step | None:
        """The cheapest step to an offer that costs less, and no more of any budget that binds."""
        costs = self.offers.costs[:, self.binds]
        allowed = (costs <= costs[self.index] + _ROUNDING).all(axis=1)
        steps = self._steps(allowed & (self.prices < self.prices[self.index] - _ROUNDING))
        return min(steps, key=lambda step: step.rate, default=None)

    def _milder(self) -> Step | None:
        """The step back that would give back most for what it costs."""
        steps = self._steps(self.prices > self.prices[self.index] + _ROUNDING)
        gains = [step for step in steps if step.damage < 0]
        return max(gains, key=lambda step: step.rate, default=None)

    def _steps(self, wanted: npt.NDArray[np.bool_]) -> list[Step]:
        """To each of the wanted offers."""
        saved, damage = self.prices[self.index] - self.prices, self.damages - self.damages[self.index]
        return [Step(int(each), float(saved[each]), float(damage[each])) for each in np.flatnonzero(wanted)]

    def _alternatives(self) -> list[int]:
        """The dense layer, as many bits without zeros, the next milder and the next stronger."""
        same_bits = [
            index
            for index, each in enumerate(self.offers.treatments)
            if each.density == 1 and each.bits == self.chosen.bits
        ]
        steps = [step.index for step in (self.back, self.on) if step is not None]
        wanted = dict.fromkeys([self.offers.untouched, *same_bits, *steps])
        return [index for index in wanted if index != self.index]

    def _alternative(self, index: int) -> dict[str, Any]:
        treatment = self.offers.treatments[index]
        return {
            "density": treatment.density,
            "bits": treatment.bits,
            "damage": float(self.damages[index]),
            "cost": self._costs(index),
        }

    def _costs(self, index: int) -> dict[str, float]:
        """In the cost model's own units."""
        shares = self.offers.costs[index] * np.array(self.market.original)
        return {figure: float(cost) for figure, cost in zip(self.market.budgets, shares, strict=True)}


def by_operator(market: Market, choice: Mapping[str, int]) -> dict[str, dict[str, list[float]]]:
    """For each operator with treated weights and each budget: cost before and after."""
    operators = {profile.weight: profile.op_type for profile in market.profiles if profile.weight}
    sums: dict[str, dict[str, list[float]]] = {}
    for name, index in choice.items():
        offers = market.offers[name]
        row = sums.setdefault(operators.get(name, ""), {figure: [0.0, 0.0] for figure in market.budgets})
        for place, (figure, whole) in enumerate(zip(market.budgets, market.original, strict=True)):
            for side, option in enumerate((offers.untouched, index)):
                row[figure][side] += float(offers.costs[option, place]) * whole
    return sums
