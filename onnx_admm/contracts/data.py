"""Datasets: the interface of samples that are streamed to a model."""

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

IGNORED = -1
"""Label of a place that counts neither for the loss nor for the accuracy."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of samples: one array for each graph input, first axis the sample, and labels if known.

    Attributes:
        feeds: array by input name, (n, ...).
        labels: integers, (n,): the class of each sample; or (n, ...): the class of each place (pixel, token),
            in the order of the model's predictions. Negative labels, such as ``IGNORED``, are ignored.
    """

    feeds: Feeds
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))


@runtime_checkable
class Dataset(Protocol):
    """Samples for a model, streamed; in memory only where they are few."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph inputs that the data feeds."""

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def batches(self, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """Yield all samples once, ``size`` at a time (the last batch may be short); shuffle with a seed."""

    def select(self, indices: Array) -> Dataset:
        """Return the samples at ``indices``, in that order."""
