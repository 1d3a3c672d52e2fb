"""Splits a batch of samples into runs that a model's input shapes allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_admm.contracts import Array, Feeds
from onnx_admm.errors import DataError

Shape = tuple[int | str | None, ...]


class Runs(Protocol):
    """What runs samples: a session, or one in parts."""

    @property
    def input_shapes(self) -> Mapping[str, Shape]:
        """Return the shape by input name; a symbolic dimension is a string or None."""

    def run(self, feeds: Feeds, /) -> Feeds:
        """Return the outputs of one run by name."""


_MOST_BYTES = 1 << 22
"""Bytes of the inputs of a run: intermediate values take some hundred times as much."""


@dataclass(frozen=True, slots=True)
class Run:
    """Outputs of one run over the samples ``start`` to ``stop`` of a batch."""

    start: int
    stop: int
    outputs: Feeds


def run_samples(session: Runs, feeds: Mapping[str, Array]) -> Iterator[Run]:
    """Run a batch of samples in as few runs as the model allows.

    The first axis of every array counts samples. An array of the input's own rank is a stack along the
    input's first axis; an array of one rank more holds one whole feed per sample (recurrent state of shape
    ``[2, 1, 128]``, a scalar rate). Samples run together where every input is stacked: as many as make up a
    few megabytes if that axis is dynamic, else as many as it states, the last run padded with its last
    sample. Otherwise one at a time. Outputs that have the run's samples along their first axis are cut to the
    real ones.

    Raises:
        DataError: inputs whose first axes are fixed at different numbers.
    """
    count, step = len(next(iter(feeds.values()))), _step(session.input_shapes, feeds)
    for start in range(0, count, step):
        stop = min(start + step, count)
        outputs = session.run(feed_at(session, feeds, start))
        if stop - start < step:
            outputs = {
                name: array[: stop - start] if array.ndim and len(array) == step else array
                for name, array in outputs.items()
            }
        yield Run(start, stop, outputs)


def feeds_of_runs(shapes: Mapping[str, Shape], feeds: Mapping[str, Array]) -> Iterator[Feeds]:
    """Yield the feeds of each run of a batch (see ``run_samples``), without running anything.

    Args:
        shapes: shapes of the model's inputs, by name.
        feeds: arrays by input, samples along the first axis.
    """
    count, step = len(next(iter(feeds.values()))), _step(shapes, feeds)
    for start in range(0, count, step):
        yield feed_of(shapes, feeds, start, step)


def feed_at(session: Runs, feeds: Mapping[str, Array], start: int = 0) -> Feeds:
    """Return the feeds of one run of a batch, from sample ``start`` on (see ``run_samples``)."""
    shapes = session.input_shapes
    return feed_of(shapes, feeds, start, _step(shapes, feeds))


def feed_of(shapes: Mapping[str, Shape], feeds: Mapping[str, Array], start: int, step: int) -> Feeds:
    """Return the feeds of one run: ``step`` samples from ``start`` on, the last repeated if need be.

    Args:
        shapes: shapes of the model's inputs, by name.
        feeds: the batch.
        start: first sample.
        step: samples in a run.
    """
    whole = _whole_feeds(shapes, feeds)
    return {
        name: np.asarray(array[start]) if name in whole else _padded(array[start : start + step], step)
        for name, array in feeds.items()
    }


def fixed_step(shapes: Mapping[str, Shape], feeds: Mapping[str, Array]) -> int | None:
    """Return the samples in each run where input shapes fix their number; None where any number fits.

    Args:
        shapes: shapes of the model's inputs, by name.
        feeds: some samples.

    Raises:
        DataError: inputs whose first axes are fixed at different numbers.
    """
    if _whole_feeds(shapes, feeds):
        return 1
    fixed = {name: shapes[name][0] for name in feeds if shapes.get(name)}
    sizes = {size for size in fixed.values() if isinstance(size, int)}
    if len(sizes) > 1:
        raise DataError(
            "the model's inputs disagree on the number of samples in a run",
            got=", ".join(f"{name} {size}" for name, size in fixed.items()),
            hint="Give one whole feed per sample: arrays of shape (samples, *the input's shape)",
        )
    return sizes.pop() if sizes else None


def _whole_feeds(shapes: Mapping[str, Shape], feeds: Mapping[str, Array]) -> set[str]:
    return {name for name, array in feeds.items() if array.ndim == len(shapes.get(name, ())) + 1}


def _step(shapes: Mapping[str, Shape], feeds: Mapping[str, Array]) -> int:
    """Return the samples in each run: a fixed number, or as many as make up a few megabytes."""
    fixed = fixed_step(shapes, feeds)
    if fixed is not None:
        return fixed
    count = len(next(iter(feeds.values())))
    sample_bytes = sum(array.nbytes for array in feeds.values()) // max(count, 1)
    return min(count, max(1, _MOST_BYTES // max(sample_bytes, 1)))


def _padded(array: Array, size: int) -> Array:
    missing = size - len(array)
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
