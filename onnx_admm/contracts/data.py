"""What data promises: samples for a model, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Blocks = dict[str, npt.NDArray[np.floating[Any]]]
"""Weights by site name."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples: one array per graph input, first axis the sample, and their labels if known."""

    feeds: Feeds
    labels: Array | None = None  # int64, shape (n,)

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))


@runtime_checkable
class Dataset(Protocol):
    """Samples for a model, streamed; never all in memory unless they are few."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Graph inputs the data feeds."""

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""

    def __len__(self) -> int:
        """Number of samples."""

    def batches(self, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """All samples once, ``size`` at a time (the last may be short); shuffled when a seed is given."""

    def select(self, indices: Array) -> Dataset:
        """The samples at ``indices``, in that order."""
