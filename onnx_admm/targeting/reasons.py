"""Reasons for each layer's option: its alternatives, their costs, and the cost of savings elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_admm.allocation.allocation import FLOAT_BITS
from onnx_admm.allocation.knapsack import Floats
from onnx_admm.contracts import CompressionOption
from onnx_admm.targeting.search_space import Candidates, SearchSpace

_BINDING = 0.97
"""Share of a budget from which on it counts as binding."""

_ROUNDING = 1e-12
"""Difference of costs, as shares of the budget, below which they are equal."""


@dataclass(frozen=True, slots=True)
class Step:
    """The change from one candidate of a layer to another.

    Attributes:
        index: index of the other candidate.
        saved: saving as a share of the budget; negative for a milder candidate.
        relative_error: increase of the outputs' relative error.
    """

    index: int
    saved: float
    relative_error: float

    @property
    def rate(self) -> float:
        """Relative error for a hundredth of the budget."""
        return self.relative_error / (100 * self.saved) if self.saved else math.inf


def explain(
    search_space: SearchSpace,
    choice: Mapping[str, int],
    *,
    shares: Sequence[float] | None = None,
    scales: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return for each layer its option, the alternatives' costs and a sentence; JSON-ready.

    Args:
        search_space: the candidates of all layers.
        choice: index of each layer's compression option.
        shares: the budgets of the choice; None: the search space's.
        scales: factors on layers' relative errors.
    """
    limits = np.array(list(search_space.budgets.values()) if shares is None else shares)
    binds = np.array(search_space.cost(choice)) > _BINDING * limits
    weights = (binds if binds.any() else np.ones(len(limits))) / limits
    lines = {
        name: _Line(search_space, name, index, (scales or {}).get(name, 1.0), weights / max(1, binds.sum()))
        for name, index in choice.items()
    }
    going = max((line.back.rate for line in lines.values() if line.back is not None), default=0.0)
    return {name: line.facts(going) for name, line in lines.items()}


class _Line:
    """One layer's choice among its candidates; prices are shares of the budgets that bind, on average."""

    def __init__(
        self, search_space: SearchSpace, name: str, index: int, scale: float, weights: Floats
    ) -> None:
        self.search_space, self.index = search_space, index
        self.candidates: Candidates = search_space.candidates[name]
        self.binds = weights > 0
        self.prices: Floats = self.candidates.costs @ weights
        self.relative_errors: Floats = self.candidates.relative_errors * scale
        self.back, self.on = self._milder(), self._stronger()

    @property
    def chosen(self) -> CompressionOption:
        return self.candidates.options[self.index]

    def facts(self, going: float) -> dict[str, Any]:
        chosen = self.chosen
        ratio = self.candidates.break_even(chosen.bits)
        return {
            "density": chosen.density,
            "bits": chosen.bits,
            "relative_error": float(self.relative_errors[self.index]),
            "cost": self._costs(self.index),
            "dense_cost": self._costs(self.candidates.untouched),
            "break_even": None if math.isinf(ratio) else ratio,
            "alternatives": [self._alternative(index) for index in self._alternatives()],
            "why": self.why(going),
        }

    def why(self, going: float) -> str:
        """Return the sentence."""
        chosen = self.chosen
        if self.index == self.candidates.untouched:
            return f"left as it is: {self._why_dense()}{self._why_not_on(going)}"
        parts = [self.words(chosen)]
        if chosen.density == 1:
            parts.append(f"not pruned: {self._why_dense()}")
        if self.back is not None:
            parts.append(
                f"{self.words(self.candidates.options[self.back.index])} instead would cost "
                f"{-100 * self.back.saved:.2g} % of the budget "
                f"for {-self.back.relative_error:.2g} less relative error"
            )
        return "; ".join(parts) + self._why_not_on(going)

    @staticmethod
    def words(option: CompressionOption) -> str:
        """Return the option as words: ``pruned 8.3x, 4 bits``."""
        pruned = "dense" if option.density == 1 else f"pruned {1 / option.density:.3g}x"
        return pruned if option.bits == FLOAT_BITS else f"{pruned}, {option.bits} bits"

    def _why_dense(self) -> str:
        ratio = self.candidates.break_even(self.chosen.bits)
        if math.isinf(ratio):
            return f"zeros never pay here on '{self.search_space.cost_model.name}'"
        if ratio > 1:
            return f"zeros pay from {ratio:.3g}x on, and that many add more error than they save"
        return "zeros add more error here than they save"

    def _why_not_on(self, going: float) -> str:
        if self.on is None:
            return "" if self.index == self.candidates.untouched else "; nothing stronger costs less"
        what = self.words(self.candidates.options[self.on.index])
        return (
            f"; {what} would save {100 * self.on.saved:.2g} % of the budget "
            f"at {self.on.rate:.2g} relative error a hundredth (the marginal cost is {going:.2g})"
        )

    def _stronger(self) -> Step | None:
        """Return the cheapest step to a candidate that costs less, and no more of any binding budget."""
        costs = self.candidates.costs[:, self.binds]
        allowed = (costs <= costs[self.index] + _ROUNDING).all(axis=1)
        steps = self._steps(allowed & (self.prices < self.prices[self.index] - _ROUNDING))
        return min(steps, key=lambda step: step.rate, default=None)

    def _milder(self) -> Step | None:
        """Return the milder option that recovers most error for its cost."""
        steps = self._steps(self.prices > self.prices[self.index] + _ROUNDING)
        gains = [step for step in steps if step.relative_error < 0]
        return max(gains, key=lambda step: step.rate, default=None)

    def _steps(self, requested: npt.NDArray[np.bool_]) -> list[Step]:
        """Return the step to each of the requested candidates."""
        saved, relative_error = (
            self.prices[self.index] - self.prices,
            self.relative_errors - self.relative_errors[self.index],
        )
        return [
            Step(int(each), float(saved[each]), float(relative_error[each]))
            for each in np.flatnonzero(requested)
        ]

    def _alternatives(self) -> list[int]:
        """Return the indices of the alternatives to report.

        These are the dense layer, as many bits without zeros, the next milder and the next stronger
        candidate.
        """
        same_bits = [
            index
            for index, each in enumerate(self.candidates.options)
            if each.density == 1 and each.bits == self.chosen.bits
        ]
        steps = [step.index for step in (self.back, self.on) if step is not None]
        requested = dict.fromkeys([self.candidates.untouched, *same_bits, *steps])
        return [index for index in requested if index != self.index]

    def _alternative(self, index: int) -> dict[str, Any]:
        option = self.candidates.options[index]
        return {
            "density": option.density,
            "bits": option.bits,
            "relative_error": float(self.relative_errors[index]),
            "cost": self._costs(index),
        }

    def _costs(self, index: int) -> dict[str, float]:
        """Return the costs in the cost model's own units."""
        shares = self.candidates.costs[index] * np.array(self.search_space.original)
        return {
            quantity: float(cost) for quantity, cost in zip(self.search_space.budgets, shares, strict=True)
        }


def by_operator(search_space: SearchSpace, choice: Mapping[str, int]) -> dict[str, dict[str, list[float]]]:
    """Return the costs before and after for each operator with compressed weights and each budget."""
    operators = {profile.weight: profile.op_type for profile in search_space.profiles if profile.weight}
    sums: dict[str, dict[str, list[float]]] = {}
    for name, index in choice.items():
        candidates = search_space.candidates[name]
        row = sums.setdefault(
            operators.get(name, ""), {quantity: [0.0, 0.0] for quantity in search_space.budgets}
        )
        for place, (quantity, whole) in enumerate(
            zip(search_space.budgets, search_space.original, strict=True)
        ):
            for side, option in enumerate((candidates.untouched, index)):
                row[quantity][side] += float(candidates.costs[option, place]) * whole
    return sums
