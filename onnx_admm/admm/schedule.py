"""The penalty rho over the iterations of ADMM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite


@dataclass(frozen=True, kw_only=True, slots=True)
class RhoSchedule:
    """Geometric from ``start`` to ``end`` over ``iterations``, then constant.

    ``rho(i) = start (end / start)^(min(i, iterations - 1) / (iterations - 1))``, times a block's multiplier.
    A small rho lets the loss speak first, a large one draws the weights to the set.

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
        """The base rho of an iteration, the first being 0."""
        if self.end is None:
            return self.start
        rise = max(self.iterations - 1, 1)
        share = 1.0 if self.iterations == 1 else min(iteration, rise) / rise
        return float(self.start * (self.end / self.start) ** share)

    def by_block(self, names: Iterable[str], iteration: int) -> dict[str, float]:
        """The rho of each block in an iteration."""
        base = self.at(iteration)
        return {name: base * self.multipliers.get(name, 1.0) for name in names}
