"""Labels: the class of each sample, or of each place of each sample, and which of them are ignored."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import IGNORED, Array, ModelView
from onnx_admm.data.sources import ArraySource, Index, Source
from onnx_admm.errors import DataError

IGNORED_WHERE_DENSE = (-1, -100)
"""Values that common training code uses where a pixel or token has no class."""


class Labels:
    """Class numbers, checked once, and read as int64 with ``IGNORED`` for those that are ignored.

    Args:
        array: integers of shape (n,) or (n, 1): the class of each sample; or (n, ...): of each of its places;
            in memory, or read as they are asked for.
        count: number of samples.
        ignored: a label that is ignored; in dense labels -1 and -100 are too.

    Raises:
        DataError: not integers, another length, or a negative label that is not ignored.
    """

    def __init__(self, array: Array | Source, count: int, ignored: int | None = None) -> None:
        if isinstance(array, np.ndarray) and not array.ndim:
            raise _no_labels(array.dtype, array.shape)
        source: Source = ArraySource(array) if isinstance(array, np.ndarray) else array
        shape = (len(source), *source.sample_shape)
        if not np.issubdtype(source.dtype, np.integer):
            raise _no_labels(source.dtype, shape)
        if len(source) != count:
            raise DataError("labels of the wrong length", where="labels", got=len(source), expected=count)
        self._source = source
        self._shape = shape[:1] if len(shape) == 2 and shape[1] == 1 else shape
        self._ignored = {IGNORED} if ignored is None else {IGNORED, ignored}
        if self.dense:
            self._ignored.update(IGNORED_WHERE_DENSE)
        allowed = self._ignored if self.dense else {ignored}
        self._largest = IGNORED
        for part in self._parts():
            kept = part[~np.isin(part, list(self._ignored))]
            if kept.size:
                self._largest = max(self._largest, int(kept.max()))
            negative = np.unique(part[part < 0]).tolist()
            wrong = next((label for label in negative if label not in allowed), None)
            if wrong is not None:
                raise DataError(
                    "a negative label",
                    where="labels",
                    got=wrong,
                    expected="0 or more",
                    hint="`ignore_label` in [preprocessing] names a label that is ignored.",
                )

    @property
    def dense(self) -> bool:
        """Whether there is a label for each place of a sample."""
        return len(self._shape) > 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all labels, (n, ...)."""
        return self._shape

    @property
    def largest(self) -> int:
        """Largest class of all labels; ``IGNORED`` where all are ignored."""
        return self._largest

    def take(self, index: Index) -> npt.NDArray[np.int64]:
        """Return the labels at ``index``, (len(index), ...)."""
        taken = self._source.take(index).astype(np.int64).reshape(-1, *self._shape[1:])
        taken[np.isin(taken, list(self._ignored))] = IGNORED
        return taken

    def _parts(self) -> Iterator[Array]:
        """All labels, in parts of some 2^22."""
        step = max(1, 2**22 // max(1, math.prod(self._shape[1:])))
        for start in range(0, self._shape[0], step):
            yield self._source.take(np.arange(start, min(start + step, self._shape[0]), dtype=np.int64))


def _no_labels(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> DataError:
    return DataError(
        "not class labels",
        where="labels",
        got=f"{dtype} of shape {shape}",
        expected="integers of shape (samples,), or (samples, ...) where each place has a class",
    )


def check_labels(labels: Labels, model: ModelView) -> None:
    """Refuse labels with more axes than the model's predictions, such as one-hot labels.

    Raises:
        DataError: states both shapes.
    """
    output = next(iter(model.signature().outputs), None)
    if output is None or output.shape is None:
        return
    places = len(output.shape) - (0 if output.dtype.startswith(("int", "uint")) else 1)
    axes = 1 + sum(extent != 1 for extent in labels.shape[1:])
    if labels.dense and axes > places:
        raise DataError(
            "labels have more axes than the model's predictions",
            where="labels",
            got=str(list(labels.shape)),
            expected=f"class numbers for the output {output.name} of shape {_spelt(output.shape)}",
            hint="One-hot labels: give the numbers of the classes.",
        )


def _spelt(shape: tuple[int | str | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
