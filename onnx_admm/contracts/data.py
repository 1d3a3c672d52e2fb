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

    Example:
        >>> import numpy as np
        >>> from onnx_admm.contracts import Batch
        >>> batch = Batch({"x": np.zeros((4, 3), np.float32)}, labels=np.array([0, 2, 1, 1]))
        >>> len(batch)
        4
    """

    feeds: Feeds
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))


@runtime_checkable
class Dataset(Protocol):
    """Samples for a model, streamed; in memory only where they are few.

    Example:
        >>> import numpy as np
        >>> from onnx_admm.contracts import Batch, Dataset
        >>> class Numbers:
        ...     '''Samples of one input, made as they are asked for.'''
        ...     input_names = ("x",)
        ...     has_labels = False
        ...     def __init__(self, numbers):
        ...         self.numbers = np.asarray(numbers)
        ...     def __len__(self):
        ...         return len(self.numbers)
        ...     def batches(self, size, *, seed=None):
        ...         order = np.arange(len(self))
        ...         if seed is not None:
        ...             np.random.default_rng(seed).shuffle(order)
        ...         for start in range(0, len(self), size):
        ...             rows = self.numbers[order[start : start + size], None]
        ...             yield Batch({"x": np.repeat(rows, 3, axis=1).astype(np.float32)})
        ...     def select(self, indices):
        ...         return Numbers(self.numbers[indices])
        >>> data = Numbers(range(5))
        >>> isinstance(data, Dataset)
        True
        >>> [batch.feeds["x"].shape for batch in data.batches(2)]
        [(2, 3), (2, 3), (1, 3)]
    """

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
