"""Histograms of a model's inner values, streamed over samples in two runs.

The first run finds the extremes of each value, the second counts into bins between them. So a value takes a
few kilobytes, independent of the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array, Dataset, ModelView
from onnx_admm.runtime.inner_values import InnerValues

BINS = 2048
_MOST_BATCH = 32
_ENOUGH_BYTES = 1 << 28
"""Memory for the values of one run with which larger batches run no faster."""


@dataclass
class Histogram:
    """Counts of a value's elements in equal bins between its extremes.

    Attributes:
        low, high: extremes; ``low == high`` for a constant value.
        counts: (BINS,), of finite elements.
        rank: number of axes.
        elements: elements that were seen, finite or not.
    """

    low: float = np.inf
    high: float = -np.inf
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64), repr=False)
    rank: int = 0
    elements: int = 0

    @property
    def is_known(self) -> bool:
        """Whether any finite element was seen."""
        return self.low <= self.high

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Values at the middle of the bins."""
        step = (self.high - self.low) / BINS
        return np.asarray(self.low + step * (np.arange(BINS) + 0.5), np.float64)

    def widen(self, array: Array) -> None:
        """Take the extremes of further elements into account."""
        self.rank = array.ndim
        self.elements += array.size
        finite = array[np.isfinite(array)] if not np.isfinite(array).all() else array
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    def count(self, array: Array) -> None:
        """Count further elements; ``widen`` has seen them, but for what follows the size of a batch."""
        if self.high > self.low:
            step = (float(self.high) - self.low) / BINS  # numpy's histogram takes several times as long
            finite = array[np.isfinite(array)].astype(np.float64)
            bins = np.clip(((finite - self.low) / step).astype(np.int64), 0, BINS - 1)
            self.counts += np.bincount(bins, minlength=BINS)


def histograms_of(
    view: ModelView, names: Sequence[str], samples: Dataset, *, memory_bytes: int, threads: int
) -> dict[str, Histogram]:
    """Return the histograms of inputs and inner values of the main graph, by name.

    Args:
        view: the model.
        names: inputs, or outputs of nodes of the main graph.
        samples: calibration samples.
        memory_bytes: approximate memory for the values of one run.
        threads: intra-op threads; 0 lets the runtime choose.

    Raises:
        DataError, WorkError: the model does not run with the samples.
    """
    found = extremes_of(view, names, samples, memory_bytes=memory_bytes, threads=threads)
    count_into(found, view, samples, memory_bytes=memory_bytes, threads=threads)
    return found


def extremes_of(
    view: ModelView, names: Sequence[str], samples: Dataset, *, memory_bytes: int, threads: int
) -> dict[str, Histogram]:
    """Return histograms that know the extremes and count nothing yet: the first run of ``histograms_of``."""
    found = {name: Histogram() for name in names}
    for name, array in _values(view, names, samples, memory_bytes, threads):
        found[name].widen(array)
    return found


def count_into(
    histograms: Mapping[str, Histogram],
    view: ModelView,
    samples: Dataset,
    *,
    memory_bytes: int,
    threads: int,
) -> None:
    """Count the elements of values whose extremes are known: the second run of ``histograms_of``."""
    for name, array in _values(view, list(histograms), samples, memory_bytes, threads):
        histograms[name].count(array)


def _values(
    view: ModelView, names: Sequence[str], samples: Dataset, memory_bytes: int, threads: int
) -> Iterator[tuple[str, Array]]:
    values = InnerValues(view, names, threads, keeps_arena=False)
    for batch in samples.batches(_batch_size(values, samples, memory_bytes)):
        for run in values.runs(batch.feeds):
            yield from run.items()


def _batch_size(values: InnerValues, samples: Dataset, memory_bytes: int) -> int:
    """Return the samples of one run, whose values fit the memory; measured on one sample."""
    first = next(samples.select(np.arange(1)).batches(1)).feeds
    used = sum(array.nbytes for run in values.runs(first) for array in run.values())
    return int(np.clip(min(memory_bytes, _ENOUGH_BYTES) // max(1, 4 * used), 1, _MOST_BATCH))
