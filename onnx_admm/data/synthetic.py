"""Random inputs that a model runs with, for where there is no data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from onnx_admm.contracts import Array, ModelView, PortSpec
from onnx_admm.data.samples import SampleSet
from onnx_admm.data.sources import Index, Source
from onnx_admm.errors import DataError, OnnxAdmmError, UnsupportedModel, WorkError
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.sessions import open_session

Ports = tuple[PortSpec, ...]

_SIZES = (64, 224, 640, 512, 1000)
_INTEGERS_BELOW = (100, 2)
_STATE_RANK = 3


def synthetic_dataset(
    model: ModelView, n: int, seed: int, *, sizes: Mapping[str, int] | None = None
) -> SampleSet:
    """``n`` random samples without labels: floats from N(0, 1), integers from [0, 100), booleans.

    The first dynamic axis of an input is the batch. Other dynamic dimensions get the first of a few sizes
    with which the model runs; integers get a smaller range where it does not run with the wide one.

    Args:
        model: whose inputs are to be fed.
        n: samples.
        seed: the same seed, the same samples.
        sizes: of dynamic dimensions, by their name in the model.

    Raises:
        UnsupportedModel: an input of a type that has no random values (strings, sequences).
        DataError: the model ran with nothing tried.
        RuntimeMissing: sizes have to be tried, and there is no runtime.
    """
    ports = model.signature().inputs
    for port in ports:
        if np.dtype(port.dtype if port.dtype != "unknown" else "O").kind not in "fiub":
            raise UnsupportedModel("no random values for this type", where=port.name, got=port.dtype)
        if port.shape is None:
            raise UnsupportedModel("no random values for an input of unknown rank", where=port.name)
    attempts = _attempts(ports, n, seed, sizes or {})
    first, second = next(attempts), next(attempts, None)
    return first if second is None else _first_that_runs(model, itertools.chain((first, second), attempts))


class RandomSource:
    """Random samples of one input; sample ``i`` depends on the seed and on ``i`` alone."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[np.generic], n: int, seed: tuple[int, int], below: int
    ) -> None:
        self._shape = shape
        self._dtype = dtype
        self._n = n
        self._seed = seed
        self._below = below

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self._dtype

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return self._n

    def take(self, index: Index) -> Array:
        samples = np.empty((len(index), *self._shape), self._dtype)
        for row, i in enumerate(index):
            rng = np.random.default_rng((*self._seed, int(i)))
            if self._dtype.kind == "f":
                samples[row] = rng.standard_normal(self._shape, np.float32)
            else:
                samples[row] = rng.integers(0, 2 if self._dtype.kind == "b" else self._below, self._shape)
        return samples


def _first_that_runs(model: ModelView, attempts: Iterable[SampleSet]) -> SampleSet:
    session = open_session(model, threads=1)
    failure: OnnxAdmmError | None = None
    for samples in attempts:
        try:
            for _ in run_samples(session, next(samples.select(np.arange(1)).batches(1)).feeds):
                return samples
        except (DataError, WorkError) as error:
            failure = error
    raise DataError(
        f"the model runs with none of the random inputs tried; the last failed so: {failure}",
        hint="Give some real samples",
    )


def _attempts(ports: Ports, n: int, seed: int, sizes: Mapping[str, int]) -> Iterator[SampleSet]:
    """One sample set for each size and integer range worth trying."""
    shapes = [_sample_shape(port, ports, sizes) for port in ports]
    has_open_sizes = any(size is None for shape in shapes for size in shape)
    has_integers = any(np.dtype(port.dtype).kind in "iu" for port in ports)
    for size in _SIZES if has_open_sizes else _SIZES[:1]:
        for below in _INTEGERS_BELOW if has_integers else _INTEGERS_BELOW[:1]:
            sources: dict[str, Source] = {}
            for number, (port, shape) in enumerate(zip(ports, shapes, strict=True)):
                bound = tuple(size if dimension is None else dimension for dimension in shape)
                sources[port.name] = RandomSource(bound, np.dtype(port.dtype), n, (seed, number), below)
            yield SampleSet(sources)


def _sample_shape(port: PortSpec, ports: Ports, sizes: Mapping[str, int]) -> tuple[int | None, ...]:
    """Shape of one sample, None where a size is open.

    Inputs whose first axes agree are stacked along them; otherwise a sample is a whole feed of batch 1,
    where a dynamic second axis of a state ``[layers, batch, hidden]`` is a batch too.
    """
    shape = port.shape or ()
    if _stacks(ports):
        return tuple(_bound(size, sizes) for size in shape[1:])
    batches = {other.shape[0] for other in ports if other.shape and isinstance(other.shape[0], str)}
    is_state = len(shape) >= _STATE_RANK and isinstance(shape[0], int)
    return tuple(
        1
        if not isinstance(size, int) and (axis == 0 or size in batches or (axis == 1 and is_state))
        else _bound(size, sizes)
        for axis, size in enumerate(shape)
    )


def _stacks(ports: Ports) -> bool:
    if not all(port.shape for port in ports):
        return False
    firsts = {port.shape[0] if port.shape and isinstance(port.shape[0], int) else None for port in ports}
    return len(firsts) == 1


def _bound(size: int | str | None, sizes: Mapping[str, int]) -> int | None:
    return size if isinstance(size, int) else sizes.get(size or "")
