"""Levels with fixed scales: every entry of a matrix has a grid of its own.

An entry's grid is ``scale * {low, low + stride, .. high}``, without 0 where the set has no zero; a pruned
entry's grid is ``{0}``. Entries with one label share a scale. With given scales, the nearest level is the
nearest point in every diagonal metric, so such a set also serves the preconditioned loop; and with given
codes the best scales solve a linear system, whose matrix never needs to be formed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.reconstruction.layer_problem import Floats, LayerProblem
from onnx_admm.admm.sets.levels import Levels, SupportLevels
from onnx_admm.admm.sets.scale import rounded_neighbours, scale_step
from onnx_admm.admm.sets.set_decomposition import LevelSet
from onnx_admm.admm.sets.shifted import ShiftedLevels
from onnx_admm.admm.sets.supports import Array, Mask

Codes = npt.NDArray[np.float64]
"""Integers, kept as floats for the products they go into."""
Labels = npt.NDArray[np.intp]

_SCALE_STEPS = 8


@dataclass(frozen=True, eq=False)
class EntryGrid:
    """A grid for each entry; a constraint set for matrices (rows, d).

    Attributes:
        scales: (labels,), > 0.
        labels: (rows, d), index of each entry's scale.
        low: (rows, d), least code.
        high: (rows, d), greatest code.
        stride: distance of codes.
        gap: whether entries that are not pruned have no code 0.
        metric: factor on entries in the present coordinates; broadcasts to (rows, d).
    """

    scales: Floats
    labels: Labels
    low: Codes
    high: Codes
    stride: int = 1
    gap: bool = False
    metric: Floats | float = 1.0

    @cached_property
    def units(self) -> Floats:
        """Scale of each entry, (rows, d)."""
        units: Floats = self.scales[self.labels] * self.metric
        return units

    @cached_property
    def _judged(self) -> Labels:
        """One number for rows that share scales and so are compared together."""
        rows = np.arange(len(self.labels))
        if (self.labels == self.labels[:, :1]).all() and len(self.scales) <= len(rows):
            return self.labels[:, 0]
        owner = np.zeros(len(self.scales), np.intp)
        owner[self.labels] = rows[:, None]
        alone = bool((owner[self.labels] == rows[:, None]).all())
        return rows if alone else np.zeros_like(rows)

    def improved(self, gains: Floats) -> Mask:
        """Return the rows that improve, given each row's gain; rows of one scale improve together."""
        together: Mask = np.bincount(self._judged, gains, len(gains))[self._judged] > 0
        return together

    def nearest(self, steps: Floats, columns: int | slice = slice(None)) -> Codes:
        """Return the codes nearest to entries of ``columns``, given in units of their scales."""
        low, high = self.low[..., columns], self.high[..., columns]
        first = low if self.stride > 1 else 0.0
        codes = np.clip(first + self.stride * np.rint((steps - first) / self.stride), low, high)
        if self.gap:
            codes = np.where((codes == 0) & (low < 0), np.where(steps < 0, -1.0, 1.0), codes)
        return codes

    def codes(self, v: Array) -> Codes:
        """Return the code of the level nearest to each entry."""
        return self.nearest(v / self.units)

    def project(self, v: Array) -> Array:
        """Return the nearest levels."""
        return (self.codes(v) * self.units).astype(v.dtype)

    def contains(self, z: Array) -> bool:
        """Return whether every entry lies on a level."""
        return bool(np.array_equal(self.project(z), z))


GridAndCodes = tuple[EntryGrid, Codes]
"""Scales and codes that belong together."""


def grids_of(
    levels: LevelSet, start: Array, shape: tuple[int, ...] | None, mask: Mask | None
) -> list[EntryGrid]:
    """Return the grids of a set of levels around ``start``: one, or a few where levels may be shifted.

    Args:
        levels: the set.
        start: (rows, d); its projection gives the scales and the initial shift.
        shape: shape in which the set sees the matrix; None for its own.
        mask: (rows, d), where entries may differ from zero; None for everywhere.
    """
    seen = start.reshape(start.shape if shape is None else shape)
    found = levels.quantize(seen)
    scales = np.atleast_1d(found.scales)
    extents = [1] * seen.ndim
    if found.axis is not None:
        extents[found.axis] = -1
    labels = np.broadcast_to(np.arange(len(scales)).reshape(extents), seen.shape).reshape(start.shape)
    live = scales[labels] > 0 if mask is None else mask & (scales[labels] > 0)
    scales = np.where(scales > 0, scales, 1.0)

    def grid(low: npt.NDArray[Any], high: npt.NDArray[Any], stride: int = 1, gap: bool = False) -> EntryGrid:
        lowest, highest = (np.where(live, bound[labels], 0.0) for bound in (low, high))
        return EntryGrid(scales, labels, lowest, highest, stride, gap)

    if isinstance(levels, ShiftedLevels):
        shifts = levels.shifts_near(np.asarray(found.lowest).reshape(-1))
        return [grid(low, low + levels.span, stride=2) for low in shifts]
    highest = np.full(len(scales), levels.codes.highest)
    gap = isinstance(levels, Levels | SupportLevels) and levels.codes.lowest > 0
    return [grid(-highest, highest, gap=gap)]


def refit(problem: LayerProblem, grid: EntryGrid, codes: Codes) -> EntryGrid:
    """Return the grid with the scales that are best for ``codes``; the old ones where none are better.

    The loss is a quadratic in the scales, minimised by conjugate gradients: a product with its matrix takes
    one product with A.
    """
    count = len(grid.scales)

    def gathered(values: Floats) -> Floats:
        return np.bincount(grid.labels.reshape(-1), (codes * values).reshape(-1), count).astype(np.float64)

    def image(scales: Floats) -> Floats:
        return gathered(problem.times(codes * scales[grid.labels], problem.normal))

    diagonal = gathered(codes * problem.per_row(np.diagonal(problem.normal, axis1=1, axis2=2)))
    sums = image(np.ones(count))  # equal to the diagonal where a row has one scale
    weight = np.where(sums > 0.1 * diagonal, sums, diagonal)
    inverse = np.divide(1.0, weight, out=np.zeros(count), where=weight > 0)
    scales, right = grid.scales, gathered(problem.linear)
    residual = right - image(scales)
    direction = residual * inverse
    left = residual @ direction
    for _ in range(_SCALE_STEPS):
        if left <= 1e-16 * (right @ (right * inverse)):
            break
        turned = image(direction)
        length = left / (direction @ turned)
        scales, residual = scales + length * direction, residual - length * turned
        improved = residual * inverse
        before, left = left, residual @ improved
        direction = improved + left / before * direction
    better = replace(grid, scales=np.where(scales > 0, scales, grid.scales))
    return min((better, grid), key=lambda each: problem.loss(codes * each.units))


def better_rows(problem: LayerProblem, one: GridAndCodes, other: GridAndCodes) -> GridAndCodes:
    """Return each row (or all rows, where scales span rows) from the solution of lower loss."""
    losses = [problem.row_losses(codes * grid.units) for grid, codes in (one, other)]
    return with_rows(one, other, one[0].improved(losses[0] - losses[1]))


def with_rows(one: GridAndCodes, other: GridAndCodes, rows: Mask) -> GridAndCodes:
    """Return ``one`` with some rows replaced by ``other``, whose scales have the same labels."""
    (grid, codes), (second, second_codes) = one, other
    scales = grid.scales.copy()
    scales[grid.labels[rows]] = second.scales[grid.labels[rows]]
    low, high, chosen = (
        np.where(rows[:, None], theirs, ours)
        for ours, theirs in ((grid.low, second.low), (grid.high, second.high), (codes, second_codes))
    )
    return replace(grid, scales=scales, low=low, high=high), chosen


def rounded(grid: EntryGrid, scale_bits: int, dtype: np.dtype[Any]) -> EntryGrid:
    """Return the grid with its scales rounded to ``scale_bits`` significant bits.

    Args:
        grid: levels of a matrix.
        scale_bits: significant bits of a scale.
        dtype: type in which the matrix will be stored; it represents the products of scales and codes
            exactly.
    """
    neighbours = rounded_neighbours(grid.scales, scale_bits, scale_step(dtype)).reshape(-1, 2)
    nearer = np.abs(neighbours - grid.scales[:, None]).argmin(axis=1)
    return replace(grid, scales=neighbours[np.arange(len(nearer)), nearer])
