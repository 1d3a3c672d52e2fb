"""Choice of rows of X: a random sample, or a fixed set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
"""Of rows, or of places of an output: flat, shape (p,)."""

Shares = npt.NDArray[np.float64]
"""Of the draws, for each place of each sample, flat; they add up to 1."""


class RowChoice(Protocol):
    """Rows to take, whatever their number turns out to be."""

    def is_of_places(self, count: int) -> bool:
        """Whether it tells ``count`` places of several samples apart."""

    def of_each(self, samples: int) -> RowChoice:
        """What is taken of each of so many samples, the same places of all."""

    def positions(self, count: int) -> Positions:
        """Of ``count`` rows."""


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Rows drawn without repetition; with shares, each draw is from all of them.

    Attributes:
        requested: about how many; all where there are fewer.
        seed: decides which; the same rows for the same seed, whatever flows.
        shares: None, or not one for each row: all alike.
    """

    requested: int
    seed: tuple[int, ...]
    shares: Shares | None = None

    def is_of_places(self, count: int) -> bool:
        """See `RowChoice`."""
        return self.shares is not None and len(self.shares) == count

    def of_each(self, samples: int) -> SampledRows:
        """See `RowChoice`."""
        return replace(self, requested=max(1, self.requested // samples))

    def positions(self, count: int) -> Positions:
        """In order; twice as many draws by shares as there are rows tell all there is to tell."""
        rng = np.random.default_rng(self.seed)
        if self.is_of_places(count):
            return np.sort(rng.choice(count, min(self.requested, 2 * count), p=self.shares))
        if self.requested >= count:
            return np.arange(count)
        return np.sort(rng.choice(count, self.requested, replace=False))


@dataclass(frozen=True, slots=True, eq=False)
class FixedRows:
    """The rows at ``at``, in that order, of ``count`` places of several samples; none of any other number."""

    at: Positions
    count: int

    def is_of_places(self, count: int) -> bool:
        """See `RowChoice`."""
        return count == self.count

    def of_each(self, samples: int) -> FixedRows:
        """See `RowChoice`: samples are told apart already."""
        return replace(self, at=self.at[:0])

    def positions(self, count: int) -> Positions:
        """See `RowChoice`."""
        return self.at if count == self.count else self.at[:0]
