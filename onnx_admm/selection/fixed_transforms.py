"""Constants that were designed, not learned: transforms and filter banks, recognised by their values.

A weight may lose digits where the outputs tolerate it, since its values are not the only good ones. A
transform is exact by design, and its errors are not noise: a rounded Fourier basis leaks at fixed
frequencies.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SHORTEST_WAVE = 32
"""Least length of a row for a spectrum: short learned filters are smooth too."""

_NEIGHBOURS = 2
"""Frequencies on either side of the strongest: the main lobe of the usual windows."""

_FINER = 8
_FEW_VALUES, _REPEATED = 256, 64
"""Distinct values of a pattern at most, or how often each is there."""

_CONCENTRATED, _OF_THE_ROWS = 0.85, 0.9
_FEWEST_ROWS = 8
_CONSTANT = 1e-5
"""Share of a row's largest magnitude within which it counts as constant: float32 rounding, no sinusoid."""
_MOST_BAND = 0.5
_WIDE = 0.5
"""Least share of the bands that have more than one value."""

_ROWS = (16, 256)
"""Numbers of evenly spread rows whose spectra are computed: a few, and more where those are sinusoids."""


def transform_in(constant: npt.NDArray[np.generic]) -> str | None:
    """Return the kind of transform of a constant, as a sentence's end; None for possible weights.

    Sinusoids (Fourier, constant-Q and wavelet bases, sinusoidal positions): nearly every row along some axis
    has nearly all its energy about its mean in a few neighbouring frequencies. Filter banks (mel, ERB,
    interpolation): no negative value, mostly zeros, and the nonzeros are contiguous in each row and each
    column.

    Learned weights that are as regular count as transforms; transforms of other kinds count as weights.
    """
    if constant.ndim < 2 or constant.size == 0:
        return None
    for axis, extent in enumerate(constant.shape):
        if extent >= _SHORTEST_WAVE and all(_is_sinusoidal(_rows(constant, axis, most)) for most in _ROWS):
            return "its rows are windowed sinusoids: a transform, not a learned weight"
    if _is_filter_bank(constant):
        return "its rows are nonnegative bands: a filter bank, not a learned weight"
    return None


def pattern_in(table: npt.NDArray[np.generic]) -> str | None:
    """Return the pattern of an added table that was not learned, as a sentence's end; else None.

    Masks and grids of coordinates repeat few values; learned numbers hardly repeat any.
    """
    distinct = len(np.unique(table))
    if distinct <= max(_FEW_VALUES, table.size // _REPEATED):
        return "its values repeat: a mask or a grid, not a learned table"
    return None


def _rows(constant: npt.NDArray[np.generic], axis: int, most: int) -> Floats:
    """Return rows along an axis, at most so many of them."""
    moved = np.moveaxis(constant, axis, -1)
    count = math.prod(moved.shape[:-1])
    chosen = np.unravel_index(np.arange(0, count, -(-count // most)), moved.shape[:-1])
    return moved[chosen].astype(np.float64)


def _is_sinusoidal(rows: Floats) -> bool:
    """Return whether nearly every row that is not constant is a windowed sinusoid about its mean."""
    if not np.isfinite(rows).all():
        return False
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1.0)  # squares of huge and of tiny values are numbers too
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows[np.abs(rows).max(axis=1) > _CONSTANT]
    if len(rows) < _FEWEST_ROWS:
        return False
    length = rows.shape[1]
    power = np.square(np.abs(np.fft.rfft(rows, _FINER * length, axis=1)))
    sums = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(power, axis=1)], axis=1)
    peaks, reach = power.argmax(axis=1), _FINER * _NEIGHBOURS
    below = np.maximum(peaks - reach, 0)
    above = np.minimum(peaks + reach + 1, power.shape[1])
    each = np.arange(len(rows))
    shares = (sums[each, above] - sums[each, below]) / sums[:, -1]
    return bool(np.mean(shares >= _CONCENTRATED) >= _OF_THE_ROWS)


def _is_filter_bank(constant: npt.NDArray[np.generic]) -> bool:
    matrix = constant if constant.ndim == 2 else constant.squeeze()
    if (
        matrix.ndim != 2
        or min(matrix.shape) < _FEWEST_ROWS
        or not (matrix >= np.zeros((), matrix.dtype)).all()
    ):
        return False
    there = matrix != 0 if matrix.shape[0] >= matrix.shape[1] else (matrix != 0).T
    widths, overlaps = there.sum(axis=0), there.sum(axis=1)
    widths = widths[widths > 0]
    if there.mean() > _MOST_BAND or len(widths) < _FEWEST_ROWS:
        return False
    if np.mean(widths > 1) < _WIDE or overlaps.max() <= 1:  # one a row is a selection, or chance
        return False
    return all(_is_one_run(side).all() for side in (there, there.T))


def _is_one_run(there: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return for each row whether its true entries are contiguous."""
    starts = there & ~np.pad(there, ((0, 0), (1, 0)))[:, :-1]
    one: npt.NDArray[np.bool_] = starts.sum(axis=1) <= 1
    return one
