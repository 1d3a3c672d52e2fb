"""Second moments of a layer's inputs and target outputs, in float64."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.reconstruction.layer_problem import LayerProblem, ridge_for
from onnx_admm.contracts import Array

Floats = npt.NDArray[np.float64]

_FEW = 19
"""Rows for each input below which the ridge is measured instead of assumed.

Twenty rows for each input are drawn where there are enough.
"""

MOST_HALVED = 2048
"""Inputs of a row up to which moments are kept for two halves of the samples: above, it costs too much."""


@dataclass(frozen=True)
class Moments:
    """Second moments of one layer from samples, with means subtracted where ``centred``.

    Attributes:
        problem: second moments of X and T, T being the original's outputs for its own inputs.
        input_mean: mean of X, (group, d); zeros where not centred.
        target_mean: mean of T, (rows,); zeros where not centred.
        rows: rows of X that were used.
        halves: problems of two halves of the samples, one to fit and one to judge by; where rows are few for
            the number of inputs and no ridge was given.
    """

    problem: LayerProblem
    input_mean: Floats
    target_mean: Floats
    rows: int
    halves: tuple[LayerProblem, LayerProblem] | None = None

    def bias_shift(self, weights: Array) -> Floats:
        """Return the increase of the bias that keeps the mean output: ``mean(T) - mean(X) W'``, (rows,)."""
        group = len(self.input_mean)
        blocks = weights.astype(np.float64).reshape(group, -1, weights.shape[1])
        shift: Floats = self.target_mean - np.einsum("grd,gd->gr", blocks, self.input_mean).reshape(-1)
        return shift


class MomentSums:
    """Running sums of one layer, in two halves.

    Products of a batch are computed in the batch's own precision about a fixed point near the mean, so that
    no digits are lost to it, and summed in float64.

    Args:
        weights: weights of the original, (rows, d).
        group: row blocks with inputs of their own.
        centred: subtract means (the layer has a bias that corrects the difference).
    """

    def __init__(self, weights: Array, group: int, centred: bool) -> None:
        rows, d = weights.shape
        self._weights = weights.astype(np.float32).reshape(group, rows // group, d)
        self._original = weights
        self._scale = 1.0 if centred else 0.0
        self._points: tuple[Array, Array] | None = None  # (group, d) and (group, rows / group): taken off
        self._halves = (_Sums(self._weights.shape), _Sums(self._weights.shape))

    def add(self, x: Array, original_x: Array, half: int = 0, drift: Array | None = None) -> None:
        """Add some rows.

        Args:
            x: inputs of the layer behind the compressed layers, (group, n, d).
            original_x: inputs in the original, same rows.
            half: 0 or 1, the half of the samples that the rows belong to.
            drift: what the targets gain in addition, (group, n, rows / group).
        """
        t = original_x.astype(np.float32) @ np.swapaxes(self._weights, 1, 2)  # (group, n, rows / group)
        t = t if drift is None else t + drift.astype(np.float32)
        x = x.astype(np.float32)
        if self._points is None:
            self._points = x.mean(1) * self._scale, t.mean(1) * self._scale
        point, target_point = self._points
        kept = half if self._original.shape[1] <= MOST_HALVED else 0
        self._halves[kept].add(x - point[:, None], t - target_point[:, None])

    def finish(self, ridge: float | None) -> Moments:
        """Return the problem of all rows; a ridge of None depends on their number."""
        first, second = self._halves
        is_few = first.count + second.count < _FEW * self._original.shape[1]
        is_measured = ridge is None and is_few and first.count > 0 and second.count > 0
        halves = (self._problem(first, ridge), self._problem(second, ridge)) if is_measured else None
        first.take(second)
        x, t = first.means(self._scale)
        point, target_point = (0.0, 0.0) if self._points is None else self._points
        problem = self._problem(first, ridge)
        return Moments(problem, x + point, (t + target_point).reshape(-1), first.count, halves)

    def _problem(self, sums: _Sums, ridge: float | None) -> LayerProblem:
        d = self._original.shape[1]
        gram, cross, energy = sums.moments(self._scale)
        return LayerProblem(
            gram=gram,
            cross=cross.reshape(-1, d),
            original=self._original,
            energy=energy.reshape(-1),
            ridge=ridge_for(d, sums.count) if ridge is None else ridge,
        )


@dataclass
class _Sums:
    """Counts, sums and products of rows X and T about the points; for weights (group, rows / group, d)."""

    shape: InitVar[tuple[int, ...]]
    count: int = 0
    x: Floats = field(init=False)
    t: Floats = field(init=False)
    xx: Floats = field(init=False)
    tx: Floats = field(init=False)
    tt: Floats = field(init=False)

    def __post_init__(self, shape: tuple[int, ...]) -> None:
        group, rows, d = shape
        self.x, self.t = np.zeros((group, d)), np.zeros((group, rows))
        self.xx, self.tx, self.tt = np.zeros((group, d, d)), np.zeros(shape), np.zeros((group, rows))

    def add(self, x: Array, t: Array) -> None:
        """Add rows (group, n, d) and (group, n, rows / group)."""
        self.xx += np.swapaxes(x, 1, 2) @ x
        self.tx += np.swapaxes(t, 1, 2) @ x
        self.tt += np.square(t).sum(1)
        self.x += x.sum(1)
        self.t += t.sum(1)
        self.count += x.shape[1]

    def take(self, other: _Sums) -> None:
        """Add the sums of ``other``."""
        for mine, more in (
            (self.x, other.x),
            (self.t, other.t),
            (self.xx, other.xx),
            (self.tx, other.tx),
            (self.tt, other.tt),
        ):
            mine += more
        self.count += other.count

    def means(self, scale: float) -> tuple[Floats, Floats]:
        """Return the means of X and T; zeros where ``scale`` is 0."""
        n = max(self.count, 1)
        return scale * self.x / n, scale * self.t / n

    def moments(self, scale: float) -> tuple[Floats, Floats, Floats]:
        """Return the Gram matrix, cross moments and energy about the means."""
        n, (x, t) = max(self.count, 1), self.means(scale)
        gram = self.xx / n - x[:, :, None] * x[:, None, :]
        cross = self.tx / n - t[:, :, None] * x[:, None, :]
        return gram, cross, self.tt / n - np.square(t)
