"""Metrics: the interface of a number that judges a model's outputs, higher is better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from onnx_admm.contracts.data import Array, Batch, Dataset, Feeds


class MetricState(Protocol):
    """Sums over the runs of one evaluation.

    Example:
        >>> import numpy as np
        >>> from onnx_admm.contracts import MetricState
        >>> class LargestOutput:
        ...     '''The largest output of all runs, negated: smaller is better.'''
        ...     def __init__(self):
        ...         self.largest = 0.0
        ...     def update(self, outputs, labels, reference, samples):
        ...         self.largest = max(self.largest, *(float(array.max()) for array in outputs.values()))
        ...     def compute(self):
        ...         return -self.largest
        >>> state: MetricState = LargestOutput()
        >>> state.update({"y": np.array([[1.0, 3.0]])}, None, {}, 1)
        >>> state.compute()
        -3.0
    """

    def update(self, outputs: Feeds, labels: Array | None, reference: Feeds, samples: int) -> None:
        """Add the outputs of one run.

        Args:
            outputs: arrays by output name, first axis the sample where the output has one; predictions are
                read from the first entry.
            labels: labels of these samples, (n,) or (n, ...); None where the data has none.
            reference: the original model's outputs for the same samples.
            samples: number of samples; outputs may have another first axis, such as detections.
        """

    def compute(self) -> float:
        """Return the metric over all runs so far; higher is better."""


@dataclass(frozen=True)
class Metric:
    """A measure of quality that replaces accuracy.

    Drops are given in points, hundredths of its value, as for an accuracy between 0 and 1.

    Attributes:
        name: name in reports.
        start: makes the state of one evaluation.
        needs_labels: whether it says nothing without labels: data without are refused before any work.

    Example:
        >>> import numpy as np
        >>> from onnx_admm.metrics import as_metric
        >>> metric = as_metric("top-2")
        >>> state = metric.start()
        >>> scores = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
        >>> state.update({"scores": scores}, np.array([2, 2]), {"scores": scores}, 2)
        >>> metric.name, state.compute()
        ('top-2', 0.5)
    """

    name: str
    start: Callable[[], MetricState]
    needs_labels: bool = False


@dataclass(frozen=True)
class ScoredDataset:
    """A dataset that names the metric its samples are judged by."""

    data: Dataset
    metric: Metric

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph inputs that the data feeds."""
        return self.data.input_names

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self.data.has_labels

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """Yield all samples once; see `Dataset.batches`."""
        return self.data.batches(size, seed=seed)

    def select(self, indices: Array) -> ScoredDataset:
        """Return the samples at ``indices``, judged by the same metric."""
        return ScoredDataset(self.data.select(indices), self.metric)


def metric_of(data: Dataset) -> Metric | None:
    """Return the metric that samples are judged by; None for accuracy."""
    return data.metric if isinstance(data, ScoredDataset) else None


def is_scored(data: Dataset) -> bool:
    """Return whether samples give a model a score of its own, by labels or by a metric."""
    return data.has_labels or metric_of(data) is not None
