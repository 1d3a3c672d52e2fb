"""GPTQ: columns rounded one after the other, each error spread over the columns to come.

Frantar et al., ICLR 2023 (arXiv 2210.17323), algorithm 1; grids fixed beforehand. ``act_order`` takes the
columns by falling diagonal of H (the authors' released option).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rivals.inverse import inverse_factor

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BLOCK = 128
_SHRINKS = np.linspace(1.0, 0.2, 161)


@dataclass(frozen=True)
class RowGrid:
    """``offset + scale * {0 .. levels - 1}`` for each row; scale and offset (rows, 1)."""

    scale: Floats
    offset: Floats
    levels: int

    def round(self, values: Floats) -> Floats:
        """The nearest level of each entry, (rows, any)."""
        codes = np.rint((values - self.offset) / self.scale)
        return self.offset + self.scale * np.clip(codes, 0, self.levels - 1)


FORMS = ("asymmetric", "symmetric", "midrise")
"""An integer zero point; zero a level, one level more below than above; symmetric without zero."""


def best_grid(weights: Floats, bits: int, form: str, mask: Mask | None = None) -> RowGrid:
    """The grid of least squared error for each row, among ranges shrunken in steps of half a per cent.

    Args:
        weights: (rows, d).
        bits: 2^bits levels.
        form: one of ``FORMS``.
        mask: entries whose error counts; None for all.
    """
    counted = 1.0 if mask is None else mask.astype(np.float64)
    levels = 2**bits
    low = np.minimum(weights.min(axis=1, keepdims=True), 0.0)
    high = np.maximum(weights.max(axis=1, keepdims=True), 0.0)
    if form != "asymmetric":
        high = np.maximum(np.maximum(-low, high), 1e-30)
        low = -high
    best, least = None, np.full((len(weights), 1), np.inf)
    for shrink in _SHRINKS:
        scale = np.maximum((high - low) * shrink / (levels - 1), 1e-30)
        middle = {"symmetric": levels // 2, "midrise": (levels - 1) / 2}
        zero_point = middle.get(form, np.clip(np.rint(-low * shrink / scale), 0, levels - 1))
        grid = RowGrid(scale, -scale * zero_point, levels)
        error = (counted * np.square(grid.round(weights) - weights)).sum(axis=1, keepdims=True)
        better = error < least
        least = np.where(better, error, least)
        best = grid if best is None else _choose(better, grid, best)
    assert best is not None  # noqa: S101
    return best


def _choose(first: Mask, one: RowGrid, other: RowGrid) -> RowGrid:
    return RowGrid(
        np.where(first, one.scale, other.scale), np.where(first, one.offset, other.offset), one.levels
    )


def gptq(
    weights: Floats, gram: Floats, grid: RowGrid, *, mask: Mask | None = None, act_order: bool = False
) -> Floats:
    """Weights on the grid, (rows, d); entries outside ``mask`` stay zero."""
    inputs = weights.shape[1]
    order = np.argsort(-np.diagonal(gram), kind="stable") if act_order else np.arange(inputs)
    left = np.where(np.diagonal(gram) == 0, 0.0, weights)[:, order]
    factor = inverse_factor(gram[np.ix_(order, order)])
    kept = np.ones(left.shape, np.bool_) if mask is None else mask[:, order]
    out = np.zeros_like(left)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        block, local = left[:, start:stop].copy(), factor[start:stop, start:stop]
        errors = np.zeros_like(block)
        for j in range(stop - start):
            column = np.where(kept[:, start + j], grid.round(block[:, j, None])[:, 0], 0.0)
            errors[:, j] = (block[:, j] - column) / local[j, j]
            block[:, j:] -= errors[:, j, None] * local[j, j:]
            out[:, start + j] = column
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    back = np.empty_like(out)
    back[:, order] = out
    return back
