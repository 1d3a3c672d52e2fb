"""Samples in any Python form: paths, arrays, dicts, iterables, readers, loaders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.data.feeds import LABELS, CalibrationReader, from_iterable, take_labels
from onnx_admm.data.fitting import fit_dataset
from onnx_admm.data.opening import open_dataset
from onnx_admm.data.readers.parts import Part
from onnx_admm.data.readers.preprocessing import Preprocessing
from onnx_admm.data.samples import from_arrays
from onnx_admm.errors import DataError

DataLike: TypeAlias = (
    str
    | os.PathLike[str]
    | Dataset
    | Mapping[str, npt.ArrayLike]
    | npt.NDArray[Any]
    | CalibrationReader
    | Iterable[Any]
)
"""Types that `as_dataset` accepts."""


def as_dataset(
    data: DataLike,
    model: ModelView,
    *,
    preprocessing: Preprocessing | None = None,
    part: Part = "train",
    label: str | None = None,
) -> Dataset:
    """Return samples that fit a model.

    - a path: see `open_dataset`;
    - a dict of arrays: one for each graph input, samples along the first axis, and ``labels``;
    - an array: the samples of a model with one input;
    - an iterable, generator or loader, read to its end: dicts by input name, arrays, or tuples with one entry
      for each input in order and then the labels, if there is one more;
    - a ``CalibrationDataReader``: the results of its ``get_next``.

    Items may be batches of anything that numpy converts to an array, tensors of other libraries included.
    Items of an iterable are kept in a temporary folder, at most 32 GiB and 2^24 samples. More data should be
    an ``.npz`` file, which is read in place.

    Args:
        data: the samples.
        model: the model whose inputs they feed.
        preprocessing: from stored samples to inputs, for files.
        label: name of the labels among arrays; None: ``labels``.
        part: which part, where a path has train, validation and test data.

    Raises:
        DataError: nothing readable, or data that does not fit the model; names the entry.
        LimitReached: an iterable that gives more than is kept.
    """
    names = [port.name for port in model.signature().inputs]
    if isinstance(data, str | os.PathLike):
        return open_dataset(data, model, preprocessing=preprocessing, part=part, label=label)
    if isinstance(data, Dataset):
        return fit_dataset(data, model)
    if isinstance(data, Mapping):
        arrays = {str(name): np.asarray(array) for name, array in data.items()}
        labels = take_labels(arrays, names, label)
        return fit_dataset(from_arrays(arrays, labels), model)
    if isinstance(data, np.ndarray):
        return fit_dataset(from_arrays({_only(names): data}), model)
    if isinstance(data, CalibrationReader):
        return from_iterable(data, model, label=label)
    if isinstance(data, Iterable):
        return from_iterable(_named(data, names, label or LABELS), model, label=label)
    raise DataError(
        "data of an unknown kind",
        got=type(data).__name__,
        expected="a path, arrays by input name, an array, an iterable or a CalibrationDataReader",
    )


def _named(items: Iterable[Any], names: list[str], label: str) -> Iterator[Mapping[str, npt.ArrayLike]]:
    """Yield each item as a dict by input name."""
    for item in items:
        if isinstance(item, Mapping):
            yield item
            continue
        parts = list(item) if isinstance(item, tuple | list) else [item]
        if not len(names) <= len(parts) <= len(names) + 1:
            raise DataError(
                "the number of entries of an item does not fit the inputs of the model",
                got=len(parts),
                expected=f"{', '.join(names)}, and labels at most",
            )
        yield dict(zip([*names, label], map(np.asarray, parts), strict=False))


def _only(names: list[str]) -> str:
    if len(names) != 1:
        raise DataError(
            "one array feeds one input, but the model has another number of inputs", got=", ".join(names)
        )
    return names[0]
