"""Samples of different shapes: texts of different lengths, decoder steps with and without a past."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array, Batch
from onnx_admm.data.samples import SampleSet, checked_indices
from onnx_admm.errors import DataError

Places = npt.NDArray[np.int64]


class RaggedSamples:
    """Several sets of samples as one dataset; within a set all samples have one shape.

    A batch holds samples of one set, since arrays have one shape. Without a seed the samples keep their
    order, so that neighbours of different shape are separate batches; with a seed, samples are shuffled and
    those of each batch sorted by set first.

    Args:
        sets: sets with the same inputs; all with labels or all without.
        places: set and number in the set of each sample in view, (n, 2); None: all, set by set.

    Raises:
        DataError: no set, sets of different inputs, or some of them without labels.
    """

    def __init__(self, sets: Sequence[SampleSet], places: Places | None = None) -> None:
        if not sets:
            raise DataError("the data holds no samples")
        for other in sets[1:]:
            if set(other.input_names) != set(sets[0].input_names):
                got = f"{', '.join(sets[0].input_names)} and {', '.join(other.input_names)}"
                raise DataError("samples that feed different inputs", got=got)
            if other.has_labels != sets[0].has_labels:
                raise DataError("labels for some samples only", where="labels")
        self._sets = tuple(sets)
        if places is None:
            places = np.concatenate(
                [np.stack([np.full(len(one), i), np.arange(len(one))], 1) for i, one in enumerate(sets)]
            )
        self._places: Places = places

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph inputs that the data feeds."""
        return self._sets[0].input_names

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self._sets[0].has_labels

    @property
    def sets(self) -> tuple[SampleSet, ...]:
        """The sets, with all their samples."""
        return self._sets

    @property
    def places(self) -> Places:
        """Set and number in the set of each sample in view, (n, 2)."""
        return self._places

    def __len__(self) -> int:
        return len(self._places)

    def batches(self, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """Yield all samples once, at most ``size`` at a time; shuffled when a seed is given."""
        places = self._places if seed is None else np.random.default_rng(seed).permutation(self._places)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            if seed is not None:
                part = part[np.argsort(part[:, 0], kind="stable")]
            cuts = np.flatnonzero(np.diff(part[:, 0])) + 1
            for run in np.split(part, cuts):
                yield from self._sets[run[0, 0]].select(run[:, 1]).batches(len(run))

    def select(self, indices: Array) -> RaggedSamples:
        """Return a view of the samples at ``indices``, in that order; nothing is read.

        Raises:
            DataError: no indices, or one out of range.
        """
        chosen = checked_indices(indices, len(self))
        if not len(chosen):
            raise DataError("the data holds no samples")
        return RaggedSamples(self._sets, self._places[chosen])


def in_turns(sets: Sequence[SampleSet]) -> SampleSet | RaggedSamples:
    """Return the samples of several sets of one length in turns: ``i`` is of set ``i`` modulo their number.

    Number ``i`` of the result is number ``i`` of its set, so a longer dataset begins with a shorter one.
    """
    if len(sets) == 1:
        return sets[0]
    numbers = np.arange(len(sets[0]))
    return RaggedSamples(sets, np.stack([numbers % len(sets), numbers], 1))
