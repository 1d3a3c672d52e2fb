"""Metrics of class scores against labels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array, Feeds
from onnx_admm.errors import DataError


class TopK:
    """Share of labels that are among the ``k`` highest scores, 0 to 1.

    A label counts as found where fewer than ``k`` scores are higher than its own.

    Args:
        k: at least 1.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._found = self._labelled = 0

    def update(self, outputs: Feeds, labels: Array | None, reference: Feeds, samples: int) -> None:
        """Add the outputs of one run; see `MetricState.update`."""
        scores, known = scores_and_labels(outputs, labels, f"top-{self._k}")
        own = np.take_along_axis(scores, known[:, None], axis=1)
        self._found += int(np.count_nonzero(np.count_nonzero(scores > own, axis=1) < self._k))
        self._labelled += len(known)

    def compute(self) -> float:
        """Return the share."""
        if not self._labelled:
            raise DataError("every label is ignored", where="labels")
        return self._found / self._labelled


class MeanIoU:
    """Mean over classes of intersection over union, 0 to 1.

    Classes that neither labels nor predictions have are left out, and so are places with a negative label.
    """

    def __init__(self) -> None:
        self._both: Counter[int] = Counter()
        self._either: Counter[int] = Counter()

    def update(self, outputs: Feeds, labels: Array | None, reference: Feeds, samples: int) -> None:
        """Add the outputs of one run; see `MetricState.update`."""
        output = _first(outputs)
        if labels is not None and np.issubdtype(output.dtype, np.integer) and output.size == labels.size:
            flat = labels.reshape(-1)
            found, known = output.reshape(-1)[flat >= 0], flat[flat >= 0]
        else:
            scores, known = scores_and_labels(outputs, labels, "miou")
            found = np.argmax(scores, axis=1)
        for which in np.unique(np.concatenate([found, known])).tolist():
            predicted, true = found == which, known == which
            self._both[which] += int(np.count_nonzero(predicted & true))
            self._either[which] += int(np.count_nonzero(predicted | true))

    def compute(self) -> float:
        """Return the mean."""
        if not self._either:
            raise DataError("every label is ignored", where="labels")
        return float(np.mean([self._both[which] / total for which, total in self._either.items()]))


class LogLikelihood:
    """Mean log-likelihood of the labels, in nats; perplexity is ``exp(-value)``.

    Scores that are not probabilities go through a softmax. For a language model the label of each position is
    the next token, negative where none counts.
    """

    def __init__(self) -> None:
        self._sum, self._labelled = 0.0, 0

    def update(self, outputs: Feeds, labels: Array | None, reference: Feeds, samples: int) -> None:
        """Add the outputs of one run; see `MetricState.update`."""
        scores, known = scores_and_labels(outputs, labels, "log-likelihood")
        rows = scores.astype(np.float64)
        if rows.size and rows.min() >= 0 and np.allclose(rows.sum(axis=1), 1, atol=1e-3):
            logs = np.log(np.maximum(rows, np.finfo(np.float32).tiny))
        else:
            rows = rows - rows.max(axis=1, keepdims=True, initial=-np.inf)
            logs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        self._sum += float(np.take_along_axis(logs, known[:, None], axis=1).sum())
        self._labelled += len(known)

    def compute(self) -> float:
        """Return the mean."""
        if not self._labelled:
            raise DataError("every label is ignored", where="labels")
        return self._sum / self._labelled


def scores_and_labels(outputs: Feeds, labels: Array | None, what: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return the scores (places, classes) of the first output and the labels (places,) that count.

    The axis of the classes is the one without which the output has the labels' shape, searched from the
    second axis on; axes of size 1 are dropped where needed.

    Raises:
        DataError: no labels, no such axis, or a label without a class.
    """
    if labels is None:
        raise DataError("this metric needs labels", where=what)
    output = _first(outputs)
    shaped = _by_place(output, labels)
    if shaped is None or not np.issubdtype(output.dtype, np.floating):
        raise DataError(
            "the output does not fit the labels",
            where=what,
            got=f"{output.dtype} of shape {output.shape} for labels of shape {labels.shape}",
            expected="scores with one axis more than the labels, that of the classes",
        )
    flat = labels.reshape(-1).astype(np.int64)
    if flat.size and flat.max() >= shaped.shape[1]:
        raise DataError(
            "a label the model has no class for",
            where=what,
            got=int(flat.max()),
            expected=f"below {shaped.shape[1]}",
        )
    return shaped[flat >= 0], flat[flat >= 0]


def _by_place(output: Array, labels: Array) -> Array | None:
    for axis in range(1, output.ndim):
        moved = np.moveaxis(output, axis, -1)
        if moved.shape[-1] > 1 and _long(moved.shape[:-1]) == _long(labels.shape):
            return moved.reshape(-1, moved.shape[-1])
    return None


def _long(shape: tuple[int, ...]) -> list[int]:
    return [shape[0], *(extent for extent in shape[1:] if extent != 1)]


def _first(outputs: Feeds) -> Array:
    return next(iter(outputs.values()))
