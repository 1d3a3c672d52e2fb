"""Second moments of a layer's inputs and of the outputs they should give, in float64."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.reconstruction.layer_problem import LayerProblem, ridge_for
from onnx_admm.contracts import Array

Floats = npt.NDArray[np.float64]

_FEW = 19
"""Rows for each input below which a ridge is better measured than taken for granted; of enough rows
twenty are drawn."""

MOST_HALVED = 2048
"""Inputs of a row up to which samples are told apart in halves: more make every solution expensive."""


@dataclass(frozen=True)
class Moments:
    """What the samples say about one layer, means taken off where ``centred``.

    Attributes:
        problem: second moments of X and T, T being what the original makes of its own inputs.
        input_mean: mean of X, (group, d); zeros where not centred.
        target_mean: mean of T, (rows,); zeros where not centred.
        rows: rows of X that were seen.
        halves: problems of every other run of samples, one to fit and one to judge by; where rows are few
            for the inputs there are and nobody chose the ridge.
    """

    problem: LayerProblem
    input_mean: Floats
    target_mean: Floats
    rows: int
    halves: tuple[LayerProblem, LayerProblem] | None = None

    def bias_shift(self, weights: Array) -> Floats:
        """What the bias must grow by so that the mean output stays: ``mean(T) - mean(X) W'``, (rows,)."""
        group = len(self.input_mean)
        blocks = weights.astype(np.float64).reshape(group, -1, weights.shape[1])
        shift: Floats = self.target_mean - np.einsum("grd,gd->gr", blocks, self.input_mean).reshape(-1)
        return shift


class MomentSums:
    """Running sums of one layer, in two halves.

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
        self._scale = 1.0 if centred else 0.0
        self._points: tuple[Array, Array] | None = None  # (group, d) and (group, rows / group): taken off
        self._halves = (_Sums(self._weights.shape), _Sums(self._weights.shape))

    def add(self, x: Array, original_x: Array, half: int = 0) -> None:
        """Take in some rows.

        Args:
            x: what the compressed prefix hands to the layer, (group, n, d).
            original_x: what the original hands to it, same rows.
            half: 0 or 1, to which the samples belong that the rows are of.
        """
        t = original_x.astype(np.float32) @ np.swapaxes(self._weights, 1, 2)  # (group, n, rows / group)
        x = x.astype(np.float32)
        if self._points is None:
            self._points = x.mean(1) * self._scale, t.mean(1) * self._scale
        point, target_point = self._points
        kept = half if self._original.shape[1] <= MOST_HALVED else 0
        self._halves[kept].add(x - point[:, None], t - target_point[:, None])

    def finish(self, ridge: float | None) -> Moments:
        """The problem the rows make up; a ridge of None goes by how few they are."""
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
    """Of rows X and T about the points: counts, sums, products; for weights (group, rows / group, d)."""

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
        """Rows (group, n, d) and (group, n, rows / group)."""
        self.xx += np.swapaxes(x, 1, 2) @ x
        self.tx += np.swapaxes(t, 1, 2) @ x
        self.tt += np.square(t).sum(1)
        self.x += x.sum(1)
        self.t += t.sum(1)
        self.count += x.shape[1]

    def take(self, other: _Sums) -> None:
        """Add what ``other`` has."""
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
        """Of X and T; with ``scale`` 0 none are taken off."""
        n = max(self.count, 1)
        return scale * self.x / n, scale * self.t / n

    def moments(self, scale: float) -> tuple[Floats, Floats, Floats]:
        """Gram matrix, cross moments and energy about the means."""
        n, (x, t) = max(self.count, 1), self.means(scale)
        gram = self.xx / n - x[:, :, None] * x[:, None, :]
        cross = self.tx / n - t[:, :, None] * x[:, None, :]
        return gram, cross, self.tt / n - np.square(t)
