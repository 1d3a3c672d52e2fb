"""Choice of rows of X: a random sample, or a fixed set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
"""Indices of rows, or of places of an output: flat, shape (p,)."""

Shares = npt.NDArray[np.float64]
"""Share of the draws for each place of each sample, flat; they add up to 1."""


class RowChoice(Protocol):
    """A choice of rows that does not depend on their number."""

    def is_of_places(self, count: int) -> bool:
        """Return whether the choice distinguishes ``count`` places of several samples."""

    def of_each(self, samples: int) -> RowChoice:
        """Return the choice for each of ``samples`` samples, the same places of all."""

    def positions(self, count: int) -> Positions:
        """Return the positions among ``count`` rows."""


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Rows drawn without repetition; with shares, drawn with repetition.

    Attributes:
        requested: approximate number; all where there are fewer.
        seed: decides which; the same rows for the same seed, whatever the values.
        shares: shares of draws; None, or of another length than the rows: uniform.
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
        """Return the positions in order; at most twice as many draws by shares as there are rows."""
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
        """See `RowChoice`: samples are distinguished already."""
        return replace(self, at=self.at[:0])

    def positions(self, count: int) -> Positions:
        """See `RowChoice`."""
        return self.at if count == self.count else self.at[:0]
