"""Predictions: the class of each sample, or of each place of a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array
from onnx_admm.errors import DataError
from onnx_admm.model.analysis.class_axis import ClassAxis, axis_by_labels

Classes = npt.NDArray[np.int64]


def predictions(
    output: Array, classes: ClassAxis | None = None, labels: Sequence[int] | None = None
) -> Classes | None:
    """Return the class of each sample (n,), or of each place (n, ...); None where there are no classes.

    Where the graph determines the axis of the classes (``classes``), scores are compared along it, and class
    numbers are used directly. Otherwise the shape of labels determines it (``model.class_axis``). Without
    either: scores ``(n, c)`` with ``c >= 2``, trailing axes of size 1 dropped, are compared over ``c``, and
    integers ``(n,)`` or ``(n, 1)`` are class numbers. Of equal scores the first counts.

    Args:
        output: output of one run, first axis the sample.
        classes: what the graph determines.
        labels: shape of the labels of this run.
    """
    if classes is not None and classes.gives == "nothing":
        return None
    if np.issubdtype(output.dtype, np.integer) or (classes is not None and classes.gives == "numbers"):
        return _numbers(output, classes, labels)
    if not np.issubdtype(output.dtype, np.floating):
        return None
    rows, axis = _scores(output, classes, labels)
    if axis is None or rows.shape[axis] < 2:
        return None
    found: Classes = np.argmax(rows, axis=axis).astype(np.int64)
    return found


def class_count(output: Array, classes: ClassAxis | None, labels: Sequence[int] | None) -> int | None:
    """Return the number of classes that an output has scores for; for class numbers the graph's, or None."""
    if np.issubdtype(output.dtype, np.integer) or (classes is not None and classes.gives != "scores"):
        return None if classes is None else classes.classes
    rows, axis = _scores(output, classes, labels)
    return None if axis is None else rows.shape[axis]


def same_places(labels: Array, found: Classes) -> Array | None:
    """Return the labels in the shape of the predictions; None where they are (n,) and predictions dense.

    Raises:
        DataError: dense labels of another shape.
    """
    first, *others = found.shape
    if labels.shape[0] == first and _long(labels.shape[1:]) == _long(others):
        return labels.reshape(found.shape)
    if not _long(labels.shape[1:]):
        return None
    raise labels_misfit(labels.shape[1:], others)


def labels_misfit(labels: Sequence[int], places: Sequence[int]) -> DataError:
    """Return the error for labels and predictions of different shapes, stated without the sample axis."""
    return DataError(
        "labels of another shape than the predictions",
        where="labels",
        got=_spelt(labels),
        expected=_spelt(places),
        hint="Labels are class numbers: one for each sample, or one for each of its places.",
    )


def _scores(
    output: Array, classes: ClassAxis | None, labels: Sequence[int] | None
) -> tuple[Array, int | None]:
    """Return the scores, and their class axis; None where there is none."""
    axis = _stated(output, classes)
    if classes is not None and axis is not None:
        return (output.reshape(*output.shape[:axis], -1) if classes.joint else output), axis
    squeezed = output
    while squeezed.ndim > 2 and squeezed.shape[-1] == 1:
        squeezed = squeezed[..., 0]
    if squeezed.ndim == 2:
        return squeezed, 1
    return output, None if labels is None else axis_by_labels(output.shape, labels)


def _stated(output: Array, classes: ClassAxis | None) -> int | None:
    """Return the axis that the graph determines, not negative; None where the output has no such axis."""
    if classes is None or classes.output is None or not -output.ndim <= classes.output < output.ndim:
        return None
    return classes.output % output.ndim


def _numbers(output: Array, classes: ClassAxis | None, labels: Sequence[int] | None) -> Classes | None:
    if classes is not None:
        axis = _stated(output, classes)
        best = output if axis is None else np.take(output, 0, axis=axis)
        return np.rint(best).astype(np.int64)
    squeezed = output
    while squeezed.ndim > 1 and squeezed.shape[-1] == 1:
        squeezed = squeezed[..., 0]
    if squeezed.ndim == 1 or (labels is not None and _long(labels) == _long(squeezed.shape)):
        return squeezed.astype(np.int64)
    return None


def _long(shape: Sequence[int]) -> list[int]:
    return [extent for extent in shape if extent != 1]


def _spelt(places: Sequence[int]) -> str:
    return f"({', '.join(['n', *map(str, places)])})" if places else "(n,)"
