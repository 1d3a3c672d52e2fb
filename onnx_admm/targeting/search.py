"""Search in rounds until a budget and an accuracy are both met, or the best result is known.

A round chooses a compression option for every layer (one knapsack over measured relative errors and costs),
applies it and measures the result. If too much accuracy is lost, the next round corrects the errors: each
layer's relative errors are multiplied by the ratio of the layer's effect among the compressed layers to its
effect alone, and the same budget is allocated again. If a new allocation does not help, the budget is
relaxed: half way back to the dense model, then by bisection. So the best result found is close to the least
cost that the accuracy allows.

Source: the loop around ADMM of Ren et al., arXiv 1812.11677, Fig. 5, where the densities are lowered by hand,
one layer after the other. Here a knapsack chooses them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from onnx_admm.allocation.knapsack import Floats
from onnx_admm.targeting.search_space import SearchSpace

_logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_RESPLITS = 2
"""Rounds that allocate one budget again before it is relaxed."""

_MOST_CORRECTION = 4.0
"""Largest factor by which one measurement corrects a layer's relative errors, up or down."""


@dataclass(frozen=True, slots=True)
class CandidateResult(Generic[Result]):
    """Result of a choice.

    Attributes:
        result: the compressed model, or its substitute.
        drop: accuracy lost, in percentage points; None where it was not measured.
        recovered: relative error that disappears when a layer alone is restored, by site name.
    """

    result: Result
    drop: float | None = None
    recovered: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Attributes:
        shares: the budget of the round, as shares of the original's costs.
        choice: index of each layer's candidate.
        cost: cost of the choice.
        relative_error: expected relative error.
        drop: accuracy lost, in percentage points.
    """

    shares: tuple[float, ...]
    choice: Mapping[str, int]
    cost: tuple[float, ...]
    relative_error: float
    drop: float | None


@dataclass(frozen=True, slots=True)
class SearchResult(Generic[Result]):
    """Result of a search.

    Attributes:
        best: the cheapest round that keeps the accuracy; None if none does, and the model stays unchanged.
        result: its result.
        is_met: whether it keeps to the budget too.
        rounds: all rounds, in order.
        scales: final factors on layers' relative errors.
    """

    best: Round | None
    result: Result | None
    is_met: bool
    rounds: tuple[Round, ...]
    scales: Mapping[str, float]


def search(
    search_space: SearchSpace,
    attempt: Callable[[Mapping[str, int]], CandidateResult[Result]],
    *,
    max_drop: float | None,
    most_rounds: int,
) -> SearchResult[Result]:
    """Meet ``search_space.budgets`` at a drop of at most ``max_drop`` points.

    Args:
        search_space: the candidates of all layers.
        attempt: applies a choice and measures it.
        max_drop: accuracy that may be lost, in percentage points; None: one round, without a limit.
        most_rounds: attempts at most.

    Raises:
        BudgetExceeded: no choice is within the budget, at any accuracy.
    """
    target = np.array(list(search_space.budgets.values()))
    scales: dict[str, float] = dict.fromkeys(search_space.candidates, 1.0)
    rounds: list[Round] = []
    tried: set[tuple[int, ...]] = set()
    best: tuple[Round, Result] | None = None
    failing, holding, relaxed = 1.0, 0.0, 1.0  # exponents of the target: 1 is the budget, 0 the dense model
    resplits = 0
    while len(rounds) < most_rounds:
        shares = target**relaxed
        choice = search_space.choose([float(share) for share in shares], scales)
        is_new = tuple(choice.values()) not in tried
        if is_new:
            tried.add(tuple(choice.values()))
            outcome = attempt(choice)
            made = Round(
                tuple(map(float, shares)),
                choice,
                search_space.cost(choice),
                search_space.relative_error(choice, scales),
                outcome.drop,
            )
            rounds.append(made)
            _logger.info(
                "round %d: cost %s of the original's, %s points lost",
                len(rounds),
                ", ".join(f"{share:.4g}x" for share in made.cost),
                "no" if made.drop is None else f"{made.drop:.2f}",
            )
            if max_drop is None or (outcome.drop is not None and outcome.drop <= max_drop + 1e-3):
                if best is None or _cost_ratio(made, target) < _cost_ratio(best[0], target):
                    best = made, outcome.result
                if relaxed == 1.0:
                    break
                holding = relaxed
                resplits = _RESPLITS
            else:
                scales = _corrected(search_space, choice, outcome.recovered, scales)
                if relaxed == 1.0 and resplits < _RESPLITS:
                    resplits += 1
                    continue
                failing = relaxed
        else:
            failing = relaxed
        relaxed = (failing + holding) / 2
        if failing - holding < 1 / 64:
            break
    met = best is not None and bool((np.array(best[0].cost) <= target + 1e-9).all())
    return SearchResult(best[0] if best else None, best[1] if best else None, met, tuple(rounds), scales)


def not_reachable(
    search_space: SearchSpace, found: SearchResult[Result], max_drop: float | None
) -> str | None:
    """Return the sentence for a budget that was not met; None where it was."""
    if found.is_met:
        return None
    asked = ", ".join(f"{quantity}={share:.4g}x" for quantity, share in search_space.budgets.items())
    limit = "" if max_drop is None else f" within a drop of {max_drop:g} points"
    tried = f"after {len(found.rounds)} round{'' if len(found.rounds) == 1 else 's'}"
    if found.best is None:
        least = min(found.rounds, key=lambda each: np.inf if each.drop is None else each.drop)
        got = f"; the result of least drop lost {least.drop:.2f} points" if least.drop is not None else ""
        return f"{asked}{limit} is not reachable: the best found {tried} is the original model{got}"
    reached = ", ".join(
        f"{quantity}={share:.4g}x"
        for quantity, share in zip(search_space.budgets, found.best.cost, strict=True)
    )
    at = "" if found.best.drop is None else f" at a drop of {found.best.drop:.2f} points"
    return f"{asked}{limit} is not reachable: the best found {tried} is {reached}{at}"


def _cost_ratio(made: Round, target: Floats) -> float:
    return float((np.array(made.cost) / target).max())


def _corrected(
    search_space: SearchSpace,
    choice: Mapping[str, int],
    recovered: Mapping[str, float],
    scales: Mapping[str, float],
) -> dict[str, float]:
    """Scale each layer's error: what restoring it recovers in the model, over its error when changed alone.

    Only the ratios between layers matter, so the mean correction (of the logarithms) is removed.
    """
    ratios: dict[str, float] = {}
    for name, index in choice.items():
        alone = float(search_space.candidates[name].relative_errors[index])
        if alone > 0 and recovered.get(name, 0.0) > 0:
            ratios[name] = recovered[name] / alone
    if not ratios:
        return dict(scales)
    mean = float(np.exp(np.mean(np.log(list(ratios.values())))))
    return {
        name: float(np.clip(ratios[name] / mean, 1 / _MOST_CORRECTION, _MOST_CORRECTION))
        if name in ratios
        else scale
        for name, scale in scales.items()
    }
