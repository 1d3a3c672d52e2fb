"""Second moments of a layer's inputs and of the outputs they should give, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.layer_problem import LayerProblem, ridge_for
from onnx_admm.contracts import Array

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What the samples say about one layer, means taken off where ``centred``.

    Attributes:
        problem: second moments of X and T, T being what the original makes of its own inputs.
        input_mean: mean of X, (group, d); zeros where not centred.
        target_mean: mean of T, (rows,); zeros where not centred.
        rows: rows of X that were seen.
    """

    problem: LayerProblem
    input_mean: Floats
    target_mean: Floats
    rows: int

    def bias_shift(self, weights: Array) -> Floats:
        """What the bias must grow by so that the mean output stays: ``mean(T) - mean(X) W'``, (rows,)."""
        group = len(self.input_mean)
        blocks = weights.astype(np.float64).reshape(group, -1, weights.shape[1])
        shift: Floats = self.target_mean - np.einsum("grd,gd->gr", blocks, self.input_mean).reshape(-1)
        return shift


class MomentSums:
    """Running sums of one layer.

    Products of a batch are taken in the batch's own precision about a fixed point near the mean, so that
    no digits are lost to it, and added up in float64.

    Args:
        weights: the original's, (rows, d).
        group: row blocks with inputs of their own.
        centred: take means off (the layer has a bias that takes up the difference).
    """

    def __init__(self, weights: Array, group: int, centred: bool) -> None:
        rows, d = weights.shape
        self._weights = weights.astype(np.float32).reshape(group, rows // group, d)
        self._original = weights
        self._centred = centred
        self._count = 0
        self._point: Array | None = None  # (group, d): taken off X before products
        self._target_point: Array | None = None
        self._x = np.zeros((group, d))
        self._t = np.zeros((group, rows // group))
        self._xx = np.zeros((group, d, d))
        self._tx = np.zeros((group, rows // group, d))
        self._tt = np.zeros((group, rows // group))

    def add(self, x: Array, original_x: Array) -> None:
        """Take in some rows.

        Args:
            x: what the compressed prefix hands to the layer, (group, n, d).
            original_x: what the original hands to it, same rows.
        """
        t = original_x.astype(np.float32) @ np.swapaxes(self._weights, 1, 2)  # (group, n, rows / group)
        x = x.astype(np.float32)
        if self._point is None or self._target_point is None:
            scale = 1 if self._centred else 0
            self._point, self._target_point = x.mean(1) * scale, t.mean(1) * scale
        x, t = x - self._point[:, None], t - self._target_point[:, None]
        turned = np.swapaxes(x, 1, 2)
        self._xx += turned @ x
        self._tx += np.swapaxes(t, 1, 2) @ x
        self._tt += np.square(t).sum(1)
        self._x += x.sum(1)
        self._t += t.sum(1)
        self._count += x.shape[1]

    def finish(self, ridge: float | None) -> Moments:
        """The problem the rows make up; a ridge of None goes by how few they are."""
        n = max(self._count, 1)
        scale = 1.0 if self._centred else 0.0
        x, t = scale * self._x / n, scale * self._t / n
        gram = self._xx / n - x[:, :, None] * x[:, None, :]
        cross = self._tx / n - t[:, :, None] * x[:, None, :]
        energy = self._tt / n - np.square(t)
        d = gram.shape[-1]
        point = 0.0 if self._point is None else self._point
        target_point = 0.0 if self._target_point is None else self._target_point
        problem = LayerProblem(
            gram=gram,
            cross=cross.reshape(-1, d),
            original=self._original,
            energy=energy.reshape(-1),
            ridge=ridge_for(d, n) if ridge is None else ridge,
        )
        return Moments(problem, x + point, (t + target_point).reshape(-1), self._count)
