"""Labels: the class of each sample, or of each place of each sample, and which of them are ignored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import IGNORED, Array, ModelView
from onnx_admm.data.sources import Index
from onnx_admm.errors import DataError

IGNORED_WHERE_DENSE = (-1, -100)
"""Values that common training code uses where a pixel or token has no class."""


class Labels:
    """Class numbers, checked once, and read as int64 with ``IGNORED`` for those that are ignored.

    Args:
        array: integers of shape (n,) or (n, 1): the class of each sample; or (n, ...): of each of its places.
        count: number of samples.
        ignored: a label that is ignored; in dense labels -1 and -100 are too.

    Raises:
        DataError: not integers, another length, or a negative label that is not ignored.
    """

    def __init__(self, array: Array, count: int, ignored: int | None = None) -> None:
        labels = np.asarray(array)
        self._array = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        self._ignored = {IGNORED} if ignored is None else {IGNORED, ignored}
        if not np.issubdtype(labels.dtype, np.integer) or not labels.ndim:
            raise DataError(
                "not class labels",
                where="labels",
                got=f"{labels.dtype} of shape {labels.shape}",
                expected="integers of shape (samples,), or (samples, ...) where each place has a class",
            )
        if len(labels) != count:
            raise DataError("labels of the wrong length", where="labels", got=len(labels), expected=count)
        if self.dense:
            self._ignored.update(IGNORED_WHERE_DENSE)
        allowed = self._ignored if self.dense else {ignored}
        negative = np.unique(self._array[self._array < 0])
        wrong = next((label for label in negative.tolist() if label not in allowed), None)
        if wrong is not None:
            hint = "`ignore_label` in [preprocessing] names a label that is ignored."
            raise DataError("a negative label", where="labels", got=wrong, expected="0 or more", hint=hint)

    @property
    def dense(self) -> bool:
        """Whether there is a label for each place of a sample."""
        return self._array.ndim > 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all labels, (n, ...)."""
        return self._array.shape

    def take(self, index: Index) -> npt.NDArray[np.int64]:
        """Return the labels at ``index``, (len(index), ...)."""
        taken = self._array[index].astype(np.int64)
        taken[np.isin(taken, list(self._ignored))] = IGNORED
        return taken


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
