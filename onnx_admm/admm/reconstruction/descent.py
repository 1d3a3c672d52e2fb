"""Coordinate descent over codes: each entry in turn moves to the level that lowers the exact loss most.

With every other entry fixed the loss is a parabola in one entry, lowest at ``w_j - R_j / A_jj`` where ``R = W
A - B``; the nearest level to that is the best one. All rows move at once, column by column. Within a block of
columns R is updated for that block alone; a product then applies the block's changes to all other columns.
"""

from __future__ import annotations

import numpy as np

from onnx_admm.admm.reconstruction.grids import Codes, EntryGrid, refit
from onnx_admm.admm.reconstruction.layer_problem import Floats, LayerProblem

_COLUMNS = 64


def descend(
    problem: LayerProblem, grid: EntryGrid, codes: Codes, *, sweeps: int, fit_scales: bool
) -> tuple[EntryGrid, Codes]:
    """Return codes (and scales where fitted) that no single change improves, unless sweeps run out.

    The loss never rises.

    Args:
        problem: the layer.
        grid: grids of the entries.
        codes: (rows, d), initial codes.
        sweeps: passes over all entries at most.
        fit_scales: refit the scales before each pass.
    """
    codes = codes.copy()
    for _ in range(sweeps):
        grid = refit(problem, grid, codes) if fit_scales else grid
        if not _sweep(problem, grid, codes):
            break
    return (refit(problem, grid, codes) if fit_scales else grid), codes


def _sweep(problem: LayerProblem, grid: EntryGrid, codes: Codes) -> bool:
    """Make one pass over all entries, in place; return whether any code changed."""
    units = grid.units
    residual = problem.times(codes * units, problem.normal) - problem.linear
    changed = False
    for first in range(0, codes.shape[1], _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, codes.shape[1]))
        moved = _move_block(problem, grid, codes, residual[:, columns].copy(), columns)
        if moved.any():
            changed = True
            residual += problem.times(moved, problem.normal[:, columns])
    return changed


def _move_block(
    problem: LayerProblem, grid: EntryGrid, codes: Codes, residual: Floats, columns: slice
) -> Floats:
    """Update the columns of a block, in place; return the changes of its entries."""
    units = grid.units[:, columns]
    local = problem.normal[:, columns, columns]
    moved = np.zeros_like(residual)
    for j in range(residual.shape[1]):
        column, unit = columns.start + j, units[:, j]
        curvature = problem.per_row(local[:, j, j])
        codes_now = codes[:, column]
        best = grid.nearest(codes_now - residual[:, j] / (curvature * unit), column)
        step = (best - codes_now) * unit
        if step.any():
            moved[:, j] = step
            residual += step[:, None] * problem.per_row(local[:, j])
            codes[:, column] = best
    return moved
