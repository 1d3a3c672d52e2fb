"""Fits data to a model: names, shapes, types and finiteness, each with its own error."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

import numpy as np

from onnx_admm.contracts import Array, Dataset, ModelView, PortSpec
from onnx_admm.data.labels import check_labels
from onnx_admm.data.samples import SampleSet
from onnx_admm.data.sources import ArraySource, Index, Source
from onnx_admm.data.spooled_rows import SpooledRows
from onnx_admm.data.stored_rows import StoredRows
from onnx_admm.errors import DataError

CHECKED_AT_OPENING_BYTES = 256 * 2**20
"""Size up to which floats are read once when opened, so that a NaN is found before work begins."""


def fit_dataset(dataset: Dataset, model: ModelView) -> Dataset:
    """Return the dataset as the model takes it: fit a ``SampleSet``, check the names of other kinds.

    Raises:
        DataError: a name, shape, type or value that does not fit; names it.
    """
    if isinstance(dataset, SampleSet):
        return fit_samples(dataset, model)
    check_names(tuple(dataset.input_names), _ports(model))
    if not len(dataset):
        raise DataError("the data holds no samples")
    return dataset


def fit_samples(samples: SampleSet, model: ModelView) -> SampleSet:
    """Return the samples in the model's types, inputs in its order; shapes and values checked.

    Raises:
        DataError: as ``fit_dataset``.
    """
    ports = _ports(model)
    check_names(samples.input_names, ports)
    if samples.all_labels is not None:
        check_labels(samples.all_labels, model)
    return samples.over({name: fit_source(samples.sources[name], port) for name, port in ports.items()})


def check_names(names: tuple[str, ...], ports: Mapping[str, PortSpec]) -> None:
    """Check that every input is fed, and nothing else.

    Raises:
        DataError: a missing or an unexpected name.
    """
    unexpected = [name for name in names if name not in ports]
    for name in ports:
        if name not in names:
            close = difflib.get_close_matches(name, unexpected, n=1) or unexpected
            raise DataError(
                "no data for an input of the model",
                where=name,
                got=f"arrays named {', '.join(names)}" if names else "no arrays",
                expected=f"one per input: {', '.join(ports)}",
                hint=f"Rename {close[0]} to {name}?" if len(close) == 1 else None,
            )
    if unexpected:
        raise DataError(
            "the model has no such input",
            where=unexpected[0],
            expected=f"only {', '.join(ports)}, and labels",
        )


def fit_source(source: Source, port: PortSpec) -> Source:
    """Return the source with the port's dtype, its shape and values checked.

    Raises:
        DataError: another shape, a type whose conversion loses values, NaN or infinity.
    """
    check_shape(source.sample_shape, port)
    fitted = _cast(source, port)
    holds_values = isinstance(source, ArraySource | SpooledRows | StoredRows)
    if not holds_values or not np.issubdtype(source.dtype, np.floating):
        return fitted  # integers, pixels and random values are finite as they are
    checked = FiniteSource(fitted, port.name)
    size = len(source) * math.prod(source.sample_shape) * source.dtype.itemsize
    if size > CHECKED_AT_OPENING_BYTES:
        return checked
    step = max(1, len(source) * 2**24 // max(size, 1))
    for start in range(0, len(source), step):
        checked.take(np.arange(start, min(start + step, len(source)), dtype=np.int64))
    return fitted


def check_shape(sample: tuple[int, ...], port: PortSpec, hint: str | None = None) -> None:
    """Check that a sample is a row of the input (its shape without the first axis) or one whole feed.

    Raises:
        DataError: it is neither.
    """
    if port.shape is None or _matches(sample, port.shape):
        return
    if port.shape and _matches(sample, port.shape[1:]):
        return
    raise DataError(
        "data of another shape than the input",
        where=port.name,
        got=_spelt(("n", *sample)),
        expected=_spelt(port.shape),
        hint=hint or _layout_hint(sample, port.shape),
    )


def _layout_hint(sample: tuple[int, ...], shape: tuple[int | str | None, ...]) -> str | None:
    """Return how to transpose samples with channels at the other end; None for other errors."""
    if len(sample) != len(shape) - 1 or len(sample) < 2:
        return None
    last = len(sample)
    if _matches((sample[-1], *sample[:-1]), shape[1:]):
        return f"The data has its channels last: transpose it with {(0, last, *range(1, last))}."
    if _matches((*sample[1:], sample[0]), shape[1:]):
        return f"The data has its channels first: transpose it with {(0, *range(2, last + 1), 1)}."
    return None


class _Converted:
    """A source whose samples are converted or checked when they are read.

    Args:
        source: the original source.
        name: name of the graph input, for errors.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self._name = name

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self._source.dtype

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self._source.sample_shape

    def __len__(self) -> int:
        return len(self._source)

    def take(self, index: Index) -> Array:
        return self._convert(self._source.take(index), index)

    def _convert(self, array: Array, index: Index) -> Array:
        raise NotImplementedError


class CastSource(_Converted):
    """A source in another dtype; integers are checked against the range of a narrower type."""

    def __init__(self, source: Source, dtype: np.dtype[np.generic], name: str) -> None:
        super().__init__(source, name)
        self._dtype = dtype

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """See `Source.dtype`."""
        return self._dtype

    def _convert(self, array: Array, index: Index) -> Array:
        with np.errstate(over="ignore"):
            cast: Array = array.astype(self._dtype)
        if np.issubdtype(self._dtype, np.integer) and not np.array_equal(cast, array):
            raise DataError(
                "a number out of the input's range",
                where=self._name,
                got=f"{array.min()} to {array.max()}",
                expected=f"{self._dtype}",
            )
        return cast


class DecodedSource(_Converted):
    """A source of bytes, decoded from UTF-8."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """See `Source.dtype`."""
        return np.dtype(f"U{self._source.dtype.itemsize}")

    def _convert(self, array: Array, index: Index) -> Array:
        try:
            texts: Array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError("bytes that are not UTF-8", where=self._name, got=error.reason) from error
        return texts


class FiniteSource(_Converted):
    """A source whose samples are checked for NaN and infinity."""

    def _convert(self, array: Array, index: Index) -> Array:
        finite = np.isfinite(array)
        if not finite.all():
            row = int(np.argmin(finite.reshape(len(array), -1).all(axis=1)))
            bad = array[row][~finite[row]].flat[0]
            raise DataError(
                "a value that is not finite", where=f"{self._name}, sample {index[row]}", got=f"{bad}"
            )
        return array


def _ports(model: ModelView) -> dict[str, PortSpec]:
    return {port.name: port for port in model.signature().inputs}


def _cast(source: Source, port: PortSpec) -> Source:
    """Return the source cast to the same kind or a safer one, else raise an error.

    Safe are ``uint8`` or ``float64`` to ``float32``, and ``int64`` to ``int32``.
    """
    try:
        target = np.dtype(port.dtype)
    except TypeError as error:
        raise DataError("the input has a type that no array has", where=port.name, got=port.dtype) from error
    if target.kind == "U":
        return _texts(source, port)
    if source.dtype == target:
        return source
    if not np.issubdtype(target, np.number) or not _is_safe(source.dtype, target):
        raise DataError(
            "data of another type than the input", where=port.name, got=source.dtype, expected=target
        )
    return CastSource(source, target, port.name)


def _texts(source: Source, port: PortSpec) -> Source:
    """Return texts as they are; bytes are decoded."""
    if source.dtype.kind == "U":
        return source
    if source.dtype.kind == "S":
        return DecodedSource(source, port.name)
    raise DataError(
        "data of another type than the input",
        where=port.name,
        got=source.dtype,
        expected="texts",
        hint="Store them as numpy.array([...], dtype=str).",
    )


def _is_safe(given: np.dtype[np.generic], target: np.dtype[np.generic]) -> bool:
    if np.issubdtype(given, np.integer):
        return True
    return np.issubdtype(given, np.floating) and np.issubdtype(target, np.floating)


def _matches(sample: tuple[int, ...], shape: tuple[int | str | None, ...]) -> bool:
    return len(sample) == len(shape) and all(
        want == got for got, want in zip(sample, shape, strict=True) if isinstance(want, int)
    )


def _spelt(shape: tuple[int | str | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
