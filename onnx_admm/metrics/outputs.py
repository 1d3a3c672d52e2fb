"""Metrics of outputs against the original model's, without labels."""

from __future__ import annotations

import math

import numpy as np

from onnx_admm.contracts import Array, Feeds
from onnx_admm.errors import DataError


class Cosine:
    """Mean cosine between the first float output and the original's, sample by sample, -1 to 1."""

    def __init__(self) -> None:
        self._sum, self._samples = 0.0, 0

    def update(self, outputs: Feeds, labels: Array | None, reference: Feeds, samples: int) -> None:
        """Add the outputs of one run; see `MetricState.update`."""
        name = _float_names(outputs)[0]
        got, expected = (_rows(side[name]) for side in (outputs, reference))
        if got.shape != expected.shape:
            self._samples += len(expected)  # an output of another shape counts as 0
            return
        dots = np.einsum("nd,nd->n", got, expected)
        lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
        equal = np.all(got == expected, axis=1)
        cosines = np.where(lengths > 0, dots / np.where(lengths > 0, lengths, 1), 0.0)
        self._sum += float(np.where(equal, 1.0, np.nan_to_num(cosines, nan=0.0)).sum())
        self._samples += len(expected)

    def compute(self) -> float:
        """Return the mean."""
        return self._sum / max(1, self._samples)


class RelativeFidelity:
    """One minus the relative error of all float outputs: ``1 - 10^(-SQNR / 20)``.

    40 dB lose one point of a hundred, 20 dB ten.
    """

    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def update(self, outputs: Feeds, labels: Array | None, reference: Feeds, samples: int) -> None:
        """Add the outputs of one run; see `MetricState.update`."""
        for name in _float_names(outputs):
            got, expected = (_rows(side[name]) for side in (outputs, reference))
            if got.shape != expected.shape:
                self._noise = math.inf
                return
            self._signal += float(np.vdot(expected, expected))
            self._noise += float(np.vdot(expected - got, expected - got))

    def compute(self) -> float:
        """Return the share, at least 0."""
        if self._noise == 0:
            return 1.0
        return max(0.0, 1 - math.sqrt(self._noise / self._signal)) if self._signal > 0 else 0.0


def _float_names(outputs: Feeds) -> list[str]:
    names = [name for name, array in outputs.items() if np.issubdtype(array.dtype, np.floating)]
    if not names:
        raise DataError("this metric needs an output of floats", got=", ".join(outputs))
    return names


def _rows(array: Array) -> Array:
    """Return samples as rows of float64."""
    return array.astype(np.float64).reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
