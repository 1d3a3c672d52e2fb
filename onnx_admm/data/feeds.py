"""Datasets from whole feeds, one dict for each run: iterables, calibration readers, ONNX test sets."""

from __future__ import annotations

import array
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array, Feeds, ModelView, PortSpec
from onnx_admm.data.fitting import check_names, check_shape, fit_samples
from onnx_admm.data.ragged import Places, RaggedSamples
from onnx_admm.data.samples import SampleSet, plain_texts
from onnx_admm.data.spooled_rows import Spool, SpooledRows
from onnx_admm.errors import DataError
from onnx_admm.model.files.tensor_files import read_tensor

T = TypeVar("T")

LABELS = "labels"
"""Default key of the labels."""

_LABEL_ROWS = ""
"""Key of the labels among the inputs' arrays: no input has that name."""


@runtime_checkable
class CalibrationReader(Protocol):
    """Interface of ONNX Runtime's ``CalibrationDataReader``."""

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next feed, or None at the end."""


def from_iterable(
    feeds: Iterable[Mapping[str, npt.ArrayLike]] | CalibrationReader,
    model: ModelView,
    *,
    label: str | None = None,
) -> SampleSet | RaggedSamples:
    """Return a dataset from dicts by input name, or from a ``CalibrationDataReader``, read once.

    A dict whose arrays all have the model's rank and one length along the first axis is that many samples;
    any other (a scalar, recurrent state, a sample without its batch axis) is one. The key ``label``, or
    ``labels`` unless the model has an input of that name, holds classes. Samples may differ in shape where
    the model leaves it open, such as texts in length: they need no padding, and neighbours of one shape are
    run together. The items are kept in a temporary folder, not in memory.

    Raises:
        DataError: nothing in it, or a name, shape or type that does not fit the model.
        LimitReached: more samples or bytes than `spooled_rows` keeps.
    """
    spool = Spool()
    try:
        return _spooled(_each(feeds), model, label, spool)
    except BaseException:
        spool.close()
        raise


def _spooled(
    feeds: Iterable[Mapping[str, npt.ArrayLike]], model: ModelView, label: str | None, spool: Spool
) -> SampleSet | RaggedSamples:
    ports = {port.name: port for port in model.signature().inputs}
    sets: dict[tuple[Any, ...], _OneShape] = {}
    numbers = array.array("q")
    for feed in feeds:
        arrays = {name: plain_texts(np.asarray(value)) for name, value in feed.items()}
        labels = take_labels(arrays, ports, label)
        check_names(tuple(arrays), ports)
        if not _is_stack(arrays, ports):
            arrays = {name: rows[None] for name, rows in arrays.items()}
        key = tuple((name, arrays[name].shape[1:]) for name in sorted(arrays))
        if key not in sets:
            for name, rows in arrays.items():
                check_shape(rows.shape[1:], ports[name])
            sets[key] = _OneShape(len(sets), spool)
        count = len(next(iter(arrays.values()), ()))
        spool.count(count)
        numbers.extend([sets[key].number] * count)
        sets[key].append(arrays, None if labels is None else np.atleast_1d(labels))
    if not sets:
        raise DataError("the data holds no samples", where="the iterable")
    spool.finish()
    fitted = [fit_samples(one.samples(), model) for one in sets.values()]
    return fitted[0] if len(fitted) == 1 else RaggedSamples(fitted, _places(numbers))


class _OneShape:
    """Samples of one shape, the ``number``-th that was met, and their labels."""

    def __init__(self, number: int, spool: Spool) -> None:
        self.number = number
        self._spool = spool
        self._rows: dict[str, SpooledRows] = {}

    def append(self, arrays: Mapping[str, Array], labels: Array | None) -> None:
        every = dict(arrays) if labels is None else {**arrays, _LABEL_ROWS: labels}
        for name, rows in every.items():
            if name not in self._rows:
                self._rows[name] = self._spool.rows(name, rows.shape[1:])
            self._rows[name].append(rows)

    def samples(self) -> SampleSet:
        inputs = {name: rows for name, rows in self._rows.items() if name != _LABEL_ROWS}
        return SampleSet(inputs, self._rows.get(_LABEL_ROWS))


def _places(numbers: array.array[int]) -> Places:
    """Return the set of each sample and its number there, (n, 2).

    Args:
        numbers: the set of each sample; a set's samples keep their order.
    """
    set_of = np.frombuffer(numbers, np.int64)
    places = np.stack([set_of, np.empty_like(set_of)], 1)
    for number in np.unique(set_of):
        places[set_of == number, 1] = np.arange(np.count_nonzero(set_of == number))
    return places


def take_labels(arrays: dict[str, T], inputs: Container[str], label: str | None) -> T | None:
    """Remove the labels from named arrays and return them; None where there are none.

    Args:
        arrays: arrays by name; changed in place.
        inputs: names of the model's inputs.
        label: name of the labels; None: ``labels``, unless an input has that name.

    Raises:
        DataError: the name belongs to an input, or another array is no input.
    """
    if label is None:
        return None if LABELS in inputs else arrays.pop(LABELS, None)
    if label in inputs:
        raise DataError("the array of labels is an input of the model", where="--label", got=label)
    if label not in arrays:
        if all(name in inputs for name in arrays):
            return None
        raise DataError(
            "the data have no labels of that name",
            where="--label",
            got=label,
            expected=f"one of {', '.join(sorted(arrays))}",
        )
    return arrays.pop(label)


def read_test_data_sets(folder: Path, model: ModelView) -> SampleSet | RaggedSamples:
    """Return the inputs of an ONNX backend test: ``test_data_set_*/input_*.pb``, each set one feed.

    A tensor feeds the input of its name, or the one with its number.

    Raises:
        DataError: a file that is no tensor, or that does not fit the model.
    """
    sets = [folder] if any(folder.glob("input_*.pb")) else sorted(folder.glob("test_data_set_*"))
    return from_iterable((_read_set(path, model) for path in sets), model)


def has_test_data_sets(folder: Path) -> bool:
    """Return whether a folder is or holds ONNX test data sets."""
    return any(folder.glob("input_*.pb")) or any(folder.glob("test_data_set_*/input_*.pb"))


def _read_set(folder: Path, model: ModelView) -> Feeds:
    names = [port.name for port in model.signature().inputs]
    feeds: Feeds = {}
    for path in folder.glob("input_*.pb"):
        number = path.stem.removeprefix("input_")
        name, array = read_tensor(path)
        if name not in names:
            if not number.isdecimal() or int(number) >= len(names):
                raise DataError(
                    "a tensor that belongs to no input", where=path, expected=f"one of {', '.join(names)}"
                )
            name = names[int(number)]
        feeds[name] = array
    return feeds


def _each(
    feeds: Iterable[Mapping[str, npt.ArrayLike]] | CalibrationReader,
) -> Iterator[Mapping[str, npt.ArrayLike]]:
    if isinstance(feeds, CalibrationReader):
        yield from iter(feeds.get_next, None)
    else:
        yield from feeds


def _is_stack(arrays: Mapping[str, Array], ports: Mapping[str, PortSpec]) -> bool:
    ranks = {name: len(port.shape) for name, port in ports.items() if port.shape is not None}
    if any(array.ndim == 0 or array.ndim != ranks.get(name, array.ndim) for name, array in arrays.items()):
        return False
    return len({len(array) for array in arrays.values()}) == 1
