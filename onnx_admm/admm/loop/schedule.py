"""Schedules of the penalty rho over the iterations of ADMM: fixed, or driven by changes of the support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol


class Penalty(Protocol):
    """Interface of a schedule of rho."""

    @property
    def multipliers(self) -> Mapping[str, float]:
        """Factor on rho by block, 1 where not given."""

    def after(self, changes: Sequence[int]) -> float:
        """Return the base rho of the next iteration.

        Args:
            changes: for each iteration done, how many entries it brought into Z's support or took out.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class RhoSchedule:
    """Geometric schedule from ``start`` to ``end`` over ``iterations``, then constant.

    ``rho(i) = start (end / start)^(min(i, iterations - 1) / (iterations - 1))``, times a block's multiplier.
    With a small rho the loss dominates, with a large one the distance to the set.

    Args:
        start: rho of the first iteration, > 0; ADMM-NN uses 3e-3 throughout (arXiv 1812.11677).
        end: rho from iteration ``iterations`` on; None keeps ``start``.
        iterations: length of the rise.
        multipliers: factor by block, 1 where not given.
    """

    start: float = 3e-3
    end: float | None = None
    iterations: int = 1
    multipliers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive = {"start": self.start, "end": self.start if self.end is None else self.end}
        for name, rho in {**positive, **self.multipliers}.items():
            if not (isfinite(rho) and rho > 0):
                raise ValueError(f"rho must be positive and finite, got {rho} for {name}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def at(self, iteration: int) -> float:
        """Return the base rho of an iteration, counted from 0."""
        if self.end is None:
            return self.start
        rise = max(self.iterations - 1, 1)
        share = 1.0 if self.iterations == 1 else min(iteration, rise) / rise
        return float(self.start * (self.end / self.start) ** share)

    def after(self, changes: Sequence[int]) -> float:
        """Return the base rho of the next iteration; it depends on the number of ``changes`` alone."""
        return self.at(len(changes))


@dataclass(frozen=True, kw_only=True, slots=True)
class SupportDriven:
    """Schedule in which rho grows faster the more the support still changes.

    Every ``every`` iterations rho is multiplied by 1.3 where at least a tenth of the kept entries changed
    since the last time, by 1.2 where at least one in 200 changed, by 1.1 where any changed; otherwise it
    stays. So the loop moves fast at first and slowly while the last entries are decided.

    Source: ALPS, Meng et al., NeurIPS 2024 (arXiv 2406.07831), section 3.3; Gram matrices of unit diagonal.

    Args:
        kept: entries that the set keeps, > 0.
        start: rho of the first iterations, > 0.
        every: iterations between two updates of rho, > 0.
        multipliers: factor by block, 1 where not given.
    """

    kept: int
    start: float = 0.1
    every: int = 3
    multipliers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rho in {"start": self.start, **self.multipliers}.items():
            if not (isfinite(rho) and rho > 0):
                raise ValueError(f"rho must be positive and finite, got {rho} for {name}")
        if self.kept < 1 or self.every < 1:
            raise ValueError(f"kept and every must be at least 1, got {self.kept} and {self.every}")

    def after(self, changes: Sequence[int]) -> float:
        """Return the base rho of the next iteration."""
        rho = self.start
        for first in range(0, len(changes) - self.every + 1, self.every):
            rho *= self._growth(sum(changes[first : first + self.every]))
        return rho

    def _growth(self, changed: int) -> float:
        if changed >= 0.1 * self.kept:
            return 1.3
        if changed >= 0.005 * self.kept:
            return 1.2
        return 1.1 if changed else 1.0
