"""Sources: the samples of one graph input, read on demand."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array

Index = npt.NDArray[np.int64]


class Source(Protocol):
    """Samples of one input, read by ``take``."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the samples that ``take`` returns."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: that of ``take``'s result without its first axis."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def take(self, index: Index) -> Array:
        """Return the samples at ``index``, stacked along a first axis."""


class ArraySource:
    """An array, in memory or mapped from a file; the first axis counts samples."""

    def __init__(self, array: Array) -> None:
        self._array = array

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """See `Source.dtype`."""
        return self._array.dtype

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See `Source.sample_shape`."""
        return self._array.shape[1:]

    def __len__(self) -> int:
        return len(self._array)

    def take(self, index: Index) -> Array:
        """See `Source.take`."""
        return np.asarray(self._array[index])


class OneRow:
    """Samples each of which is a batch of one: a first axis of extent 1 before its own."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """See `Source.dtype`."""
        return self._source.dtype

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See `Source.sample_shape`."""
        return (1, *self._source.sample_shape)

    def __len__(self) -> int:
        return len(self._source)

    def take(self, index: Index) -> Array:
        """See `Source.take`."""
        return self._source.take(index)[:, np.newaxis]
