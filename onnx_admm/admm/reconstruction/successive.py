"""Successive rounding: column by column, each error compensated by the columns that are still free.

The nearest-plane method for the closest lattice point (Babai 1986), as in GPTQ (arXiv 2210.17323), with three
additions: it starts from the problem's optimum; its order places last the columns that vary least once those
after them are known; and scales are chosen by the error that they lead to, not by that of plain rounding.
With ``A^-1 = U^T U``, U upper triangular in that order, a row's loss above the optimum is the sum of
``(rounding error of column i)^2 / U_ii^2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.reconstruction.grids import Codes, EntryGrid, GridAndCodes, with_rows
from onnx_admm.admm.reconstruction.layer_problem import Floats, LayerProblem

Order = npt.NDArray[np.intp]

_COLUMNS = 64
_SCALE_FACTORS = (0.8, 1.6)
"""Range of factors on scales: compensated errors widen the range of the values to round."""
_FEWEST, _MOST = 9, 65
_WORK = 1e9
"""Multiplications spent on trying scales, unless the fewest scales take more."""
_ROWS = 4096
"""Rows that are rounded together, of several scales where one scale has fewer."""


def round_successively(problem: LayerProblem, grids: Sequence[EntryGrid], target: Floats) -> GridAndCodes:
    """Return codes near ``target`` in the problem's metric, on the best grid and scale factor.

    Args:
        problem: the layer.
        grids: grids of the entries, equal except for scales and ranges; each row chooses for itself.
        target: (rows, d), the unconstrained optimum.
    """
    order = _order(problem.normal)
    factor = _factor(problem.normal, order)
    most_factors = int(_WORK / (target.size * target.shape[1] * len(grids)))
    scale_factors = np.linspace(*_SCALE_FACTORS, int(np.clip(most_factors, _FEWEST, _MOST)))
    tried = [
        replace(grid, scales=grid.scales * scale_factor) for grid in grids for scale_factor in scale_factors
    ]
    together = max(1, _ROWS // len(target))
    best: GridAndCodes = tried[0], np.zeros(target.shape)
    least = np.full(len(target), np.inf)
    for first in range(0, len(tried), together):
        batch = tried[first : first + together]
        for grid, (codes, losses) in zip(batch, _round(problem, batch, target, order, factor), strict=True):
            better = grid.improved(least - losses)
            best, least = with_rows(best, (grid, codes), better), np.where(better, losses, least)
    return best


def _order(normal: Floats) -> Order:
    """Return the columns of each group from first to last, (group, d).

    A Cholesky factorisation that always takes the least pivot finds them backwards.
    """
    groups, inputs = normal.shape[:2]
    number = np.arange(groups)
    left = np.diagonal(normal, axis1=1, axis2=2).copy()
    free = np.ones((groups, inputs), np.bool_)
    factor, pivots = np.zeros((groups, inputs, inputs)), np.zeros((groups, inputs), np.intp)
    for step in range(inputs):
        pivot = np.argmin(np.where(free, left, np.inf), axis=1)
        pivots[:, inputs - 1 - step], free[number, pivot] = pivot, False
        known = factor[:, :, :step]
        column = normal[number, :, pivot] - (known @ known[number, pivot, :, None])[..., 0]
        column /= np.sqrt(left[number, pivot])[:, None]
        factor[:, :, step] = column
        left = np.maximum(left - column**2, np.finfo(np.float64).tiny)
    return pivots


def _factor(normal: Floats, order: Order) -> Floats:
    """Return U for each group, (group, d, d)."""
    ordered = np.take_along_axis(np.take_along_axis(normal, order[:, :, None], 1), order[:, None, :], 2)
    inverse = np.linalg.inv(ordered)
    lower = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
    return lower.transpose(0, 2, 1).astype(np.float64, copy=False)


def _round(
    problem: LayerProblem, grids: Sequence[EntryGrid], target: Floats, order: Order, factor: Floats
) -> Iterator[tuple[Codes, Floats]]:
    """Yield for each grid the codes (rows, d), and each row's loss above the optimum (rows,)."""

    def stacked(parts: Iterable[Floats]) -> Floats:
        """Return the parts of all grids, columns in order: (group, grids * rows of the group, d)."""
        by_group = [part.reshape(problem.groups, -1, target.shape[1]) for part in parts]
        return np.take_along_axis(np.concatenate(by_group, axis=1), order[:, None], 2)

    left = stacked(target for _ in grids)
    units = stacked(grid.units for grid in grids)
    stacked_grids = replace(
        grids[0], low=stacked(grid.low for grid in grids), high=stacked(grid.high for grid in grids)
    )
    codes, losses = np.zeros_like(left), np.zeros(left.shape[:2])
    for first in range(0, left.shape[2], _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, left.shape[2]))
        block, local = left[..., columns].copy(), factor[:, columns, columns]
        passed = np.zeros_like(block)
        for j in range(block.shape[2]):
            column = first + j
            codes[..., column] = stacked_grids.nearest(block[..., j] / units[..., column], column)
            wrong = block[..., j] - codes[..., column] * units[..., column]
            passed[..., j] = wrong / local[:, j, j, None]
            block[..., j:] -= passed[..., j, None] * local[:, None, j, j:]
        losses += np.square(passed).sum(axis=2)
        left[..., columns.stop :] -= passed @ factor[:, columns, columns.stop :]
    unsorted = np.zeros_like(codes)
    np.put_along_axis(unsorted, order[:, None], codes, 2)
    parts = np.split(unsorted, len(grids), axis=1), np.split(losses, len(grids), axis=1)
    return ((part.reshape(target.shape), loss.reshape(-1)) for part, loss in zip(*parts, strict=True))
