"""SampleSet: the dataset that every reader returns, and its split in two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array, Batch, Dataset
from onnx_admm.contracts.metrics import ScoredDataset
from onnx_admm.data.labels import Labels
from onnx_admm.data.sources import ArraySource, Index, OneRow, Source
from onnx_admm.errors import DataError

_MOST_EMPTY = 2**24
"""Most samples of a file without data: samples are numbered in memory."""


class SampleSet:
    """One source per graph input, labels if known, and an index of the samples in view.

    Raises:
        DataError: no inputs, no samples, sources or labels of unequal length, labels that are no classes.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        labels: Array | Source | Labels | None = None,
        *,
        index: Index | None = None,
        ignore_label: int | None = None,
    ) -> None:
        self._sources = dict(sources)
        count = _common_length(self._sources)
        if labels is not None and not isinstance(labels, Labels):
            labels = Labels(labels, count, ignore_label)
        self._labels: Labels | None = labels
        self._index = np.arange(count, dtype=np.int64) if index is None else index
        if not len(self._index):
            raise DataError("the data holds no samples")

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph inputs that the data feeds."""
        return tuple(self._sources)

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self._labels is not None

    @property
    def sources(self) -> dict[str, Source]:
        """Source by input name, with all its samples; ``index`` says which are in view."""
        return dict(self._sources)

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """Labels of the samples in view, (n,), or (n, ...) with one for each place."""
        return None if self._labels is None else self._labels.take(self._index)

    @property
    def all_labels(self) -> Labels | None:
        """Labels of every sample, in view or not."""
        return self._labels

    def __len__(self) -> int:
        return len(self._index)

    def batches(self, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """Yield all samples once, ``size`` at a time (the last may be short); shuffle with a seed."""
        order = self._index if seed is None else np.random.default_rng(seed).permutation(self._index)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            feeds = {name: source.take(part) for name, source in self._sources.items()}
            yield Batch(feeds, None if self._labels is None else self._labels.take(part))

    def select(self, indices: Array) -> SampleSet:
        """Return a view of the samples at ``indices``, in that order; nothing is read.

        Raises:
            DataError: no indices, or one out of range.
        """
        chosen = checked_indices(indices, len(self))
        return SampleSet(self._sources, self._labels, index=self._index[chosen])

    def over(self, sources: Mapping[str, Source]) -> SampleSet:
        """Return the same samples and labels, read from other sources."""
        return SampleSet(sources, self._labels, index=self._index)


def one_at_a_time(data: Dataset) -> Dataset:
    """Return stacked samples as whole feeds of one each, for a model that does not take several at once.

    Other kinds of datasets stay.
    """
    if isinstance(data, ScoredDataset):
        return ScoredDataset(one_at_a_time(data.data), data.metric)
    if not isinstance(data, SampleSet):
        return data
    return data.over({name: OneRow(source) for name, source in data.sources.items()})


def checked_indices(indices: Array, count: int) -> Index:
    """Return the indices of samples as integers.

    Raises:
        DataError: one lies out of range.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    outside = chosen[(chosen < 0) | (chosen >= count)]
    if len(outside):
        raise DataError("no such sample", got=int(outside[0]), expected=f"0 to {count - 1}")
    return chosen


def from_arrays(
    feeds: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike | None = None,
    *,
    ignore_label: int | None = None,
) -> SampleSet:
    """Return a dataset from arrays in memory.

    Args:
        feeds: one array per graph input name, first axis the sample; one whole feed per sample (shape ``(n,
            *input shape)``) where the input has no sample axis.
        labels: class of each sample, integers of shape (n,); or of each place of each sample, (n, ...).
        ignore_label: a label that is ignored; in dense labels -1, -100 and, where the model has no such
            class, 255 are too.

    Raises:
        DataError: as ``SampleSet``.
    """
    arrays = {name: plain_texts(np.asarray(array)) for name, array in feeds.items()}
    for name, array in arrays.items():
        if array.dtype == object:
            raise DataError(
                "an array of Python objects", where=name, expected="numbers of one type, or texts alone"
            )
        check_has_samples(name, array)
    sources = {name: ArraySource(array) for name, array in arrays.items()}
    classes = None if labels is None else np.asarray(labels)
    return SampleSet(sources, classes, ignore_label=ignore_label)


def plain_texts(array: Array) -> Array:
    """Return Python objects that are all texts as an array of texts; anything else as it is."""
    if array.dtype == object and array.size and all(isinstance(item, str) for item in array.flat):
        return array.astype(str)
    return array


def split_dataset(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split a dataset into two disjoint views that cover it: (train, validation).

    Validation gets ``round(fraction * n)`` samples, at least one, and train keeps at least one. Where labels,
    one a sample, are known without reading samples, each class gives its share (largest remainders first).

    Args:
        dataset: the dataset; no sample is read.
        fraction: share of the samples for validation, between 0 and 1.
        seed: decides which samples.

    Raises:
        DataError: fewer than two samples, or a fraction out of range.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError("an impossible share of samples", got=fraction, expected="between 0 and 1")
    if len(dataset) < 2:
        raise DataError("too few samples to set some aside", got=len(dataset), expected="at least 2")
    validation_count = min(max(round(fraction * len(dataset)), 1), len(dataset) - 1)
    known = dataset.all_labels if isinstance(dataset, SampleSet) else None
    labels = dataset.labels if isinstance(dataset, SampleSet) and known and not known.dense else None
    groups = np.zeros(len(dataset), dtype=np.int64) if labels is None else labels
    is_validation = _stratified(groups, validation_count, np.random.default_rng(seed))
    return dataset.select(np.flatnonzero(~is_validation)), dataset.select(np.flatnonzero(is_validation))


def check_has_samples(name: str, array: Array) -> None:
    """Check that an array has a first axis, which counts samples.

    Raises:
        DataError: it has no axis.
    """
    if array.ndim == 0:
        raise DataError("a single number", where=name, expected="an array whose first axis counts samples")


def _common_length(sources: Mapping[str, Source]) -> int:
    if not sources:
        raise DataError("the data feeds no input")
    lengths = {name: len(source) for name, source in sources.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError("inputs with different numbers of samples", got=found)
    count = next(iter(lengths.values()))
    if count > _MOST_EMPTY and not any(math.prod(source.sample_shape) for source in sources.values()):
        raise DataError(
            "samples that hold no values", got=f"{count} of them", expected=f"at most {_MOST_EMPTY}"
        )
    return count


def _stratified(groups: Array, validation_count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return a mask of ``validation_count`` members, each group's share by largest remainder."""
    order = rng.permutation(len(groups))
    _, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)
    exact = sizes * (validation_count / len(groups))
    quota = np.floor(exact).astype(np.int64)
    remainders = np.argsort(quota - exact, kind="stable")
    quota[remainders[: validation_count - int(quota.sum())]] += 1
    is_validation = np.zeros(len(groups), dtype=np.bool_)
    for group, share in enumerate(quota):
        is_validation[order[members[order] == group][:share]] = True
    return is_validation
