"""Successive rounding: columns one after the other, each error made up for by the columns still free.

The nearest-plane method for the closest lattice point (Babai 1986), which GPTQ (arXiv 2210.17323) is too,
with three things beside: it starts from the problem's optimum; its order leaves for the end the columns
that vary least once those after them are known; and scales are chosen by the error they lead to, not by
that of plain rounding. With ``A^-1 = U^T U``, U upper triangular in that order, a row's loss above the
optimum is the sum of ``(rounding error of column i)^2 / U_ii^2``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.grids import Codes, Grid
from onnx_admm.admm.layer_problem import Floats, LayerProblem

Order = npt.NDArray[np.intp]

_COLUMNS = 64
_STRETCHES = tuple(np.linspace(0.8, 1.6, 9))
"""What scales are multiplied by: errors that are passed on widen the range of what is rounded."""


def round_successively(problem: LayerProblem, grid: Grid, target: Floats) -> tuple[Grid, Codes]:
    """Codes near ``target`` in the problem's metric, and the grid with its scales stretched as they are best.

    Args:
        problem: the layer.
        grid: ladders of the entries.
        target: (rows, d), the unconstrained optimum.
    """
    order = _order(problem.normal)
    factor = _factor(problem.normal, order)
    rows, count = len(target), len(grid.scales)
    best_codes, best_errors = np.zeros(target.shape), np.full(rows, np.inf)
    stretches = np.ones(count)
    for stretch in _STRETCHES:
        stretched = replace(grid, scales=grid.scales * stretch)
        codes, errors = _round(problem, stretched, target, order, factor)
        pooled = np.bincount(grid.judged, errors, rows)[grid.judged]
        better = pooled < best_errors
        best_errors[better], best_codes[better] = pooled[better], codes[better]
        stretches[grid.labels[better]] = stretch
    return replace(grid, scales=grid.scales * stretches), best_codes


def _order(normal: Floats) -> Order:
    """Columns of each group from first to last, (group, d).

    A Cholesky factorisation that always takes the least pivot finds them backwards.
    """
    groups, inputs = normal.shape[:2]
    number = np.arange(groups)
    left = np.diagonal(normal, axis1=1, axis2=2).copy()
    free = np.ones((groups, inputs), np.bool_)
    factor, picked = np.zeros((groups, inputs, inputs)), np.zeros((groups, inputs), np.intp)
    for step in range(inputs):
        pivot = np.argmin(np.where(free, left, np.inf), axis=1)
        picked[:, inputs - 1 - step], free[number, pivot] = pivot, False
        known = factor[:, :, :step]
        column = normal[number, :, pivot] - (known @ known[number, pivot, :, None])[..., 0]
        column /= np.sqrt(left[number, pivot])[:, None]
        factor[:, :, step] = column
        left = np.maximum(left - column**2, np.finfo(np.float64).tiny)
    return picked


def _factor(normal: Floats, order: Order) -> Floats:
    """U for each group, (group, d, d)."""
    ordered = np.take_along_axis(np.take_along_axis(normal, order[:, :, None], 1), order[:, None, :], 2)
    inverse = np.linalg.inv(ordered)
    lower = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
    return lower.transpose(0, 2, 1).astype(np.float64, copy=False)


def _round(
    problem: LayerProblem, grid: Grid, target: Floats, order: Order, factor: Floats
) -> tuple[Codes, Floats]:
    """Codes (rows, d) and the loss above the optimum of each row (rows,)."""
    ranks = problem.per_row(order)
    left = np.take_along_axis(target, ranks, 1)
    units = np.take_along_axis(grid.units, ranks, 1)
    sorted_grid = replace(
        grid, low=np.take_along_axis(grid.low, ranks, 1), high=np.take_along_axis(grid.high, ranks, 1)
    )
    codes, errors = np.zeros_like(left), np.zeros(len(left))
    for first in range(0, left.shape[1], _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, left.shape[1]))
        block, local = left[:, columns].copy(), factor[:, columns, columns]
        passed = np.zeros_like(block)
        for j in range(block.shape[1]):
            column = first + j
            codes[:, column] = sorted_grid.nearest(block[:, j] / units[:, column], column)
            wrong = block[:, j] - codes[:, column] * units[:, column]
            passed[:, j] = wrong / problem.per_row(local[:, j, j])
            block[:, j:] -= passed[:, j, None] * problem.per_row(local[:, j, j:])
        errors += np.square(passed).sum(axis=1)
        left[:, columns.stop :] -= problem.times(passed, factor[:, columns, columns.stop :])
    unsorted = np.zeros_like(codes)
    np.put_along_axis(unsorted, ranks, codes, 1)
    return unsorted, errors
