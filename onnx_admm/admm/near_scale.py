"""Levels with scales of nearly least squared error, for all slices of a tensor at once.

``scale`` finds the exact optimum of one slice by sorting its breakpoints. Here every slice tries the same few
shares of its largest magnitude, then shares between the two beside the best one, and Lloyd's iteration
(nearest codes for the scale, best scale for the codes) takes it to the bottom. That is a local optimum, for
weights within some hundredths of the least error, in a fraction of the time: what a search over many
treatments of many layers wants.

Source: Lloyd, Least squares quantization in PCM, IEEE Trans. IT 28 (1982).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnx_admm.admm.levels import slices_of
from onnx_admm.admm.scale import LEAST_PEAK, CodeRange, Floats, rounded_neighbours
from onnx_admm.admm.sets import Array, Mask

_COARSE = np.geomspace(1.0, 0.08, 20)
"""Shares of the scale that just reaches the largest magnitude: 1 clips nothing, 0.08 more than could pay."""

_FINE = np.geomspace(_COARSE[1], _COARSE[0] / _COARSE[1], 9)
_ITERATIONS = 4


def near_levels(v: Array, mask: Mask, codes: CodeRange, axis: int | None, scale_bits: int) -> Array:
    """``v`` on nearly the nearest grid: codes times a scale on the mask, 0 elsewhere; same type.

    Args:
        v: finite, any shape.
        mask: bool, shape of ``v``; True where an entry has a level.
        codes: magnitudes a code may have.
        axis: None for one scale, else the axis that numbers slices with a scale each.
        scale_bits: significant bits of a scale, 1 to 24.
    """
    rows = np.asarray(slices_of(np.abs(v), axis), np.float64)
    scales = near_scales(rows, np.asarray(slices_of(mask, axis), np.bool_), codes, scale_bits)
    along = scales if axis is None else scales.reshape([-1 if i == axis else 1 for i in range(v.ndim)])
    found = np.where(mask, _codes(np.abs(v), along, codes), 0.0) * along
    return np.copysign(found, v).astype(v.dtype)


def near_scales(rows: Array, mask: Mask, codes: CodeRange, scale_bits: int = 24) -> Floats:
    """For each row a scale q of nearly least ``sum over the mask of (a - q c)^2``.

    Args:
        rows: (rows, n), nonnegative and finite.
        mask: (rows, n), entries that count.
        codes: which codes an entry may take.
        scale_bits: significant bits of a scale.

    Returns:
        (rows,); 0 where every magnitude on the mask is 0, or below ``LEAST_PEAK``.
    """
    kept = np.where(mask, rows, 0).astype(np.float64)
    peaks = kept.max(axis=1, initial=0.0)
    reaching = np.where(peaks >= LEAST_PEAK, peaks, 0.0) / codes.highest
    scales = reaching
    for shares in (_COARSE, _FINE):
        tried = [scales * share for share in shares]
        gains = np.stack([_fit(kept, mask, candidate, codes).gain for candidate in tried])
        scales = np.stack(tried)[np.argmax(gains, axis=0), np.arange(len(kept))]
    for _ in range(_ITERATIONS):
        fit = _fit(kept, mask, scales, codes)
        scales = np.where(fit.squares > 0, fit.products / np.maximum(fit.squares, 1.0), 0.0)
    both = rounded_neighbours(scales, scale_bits).reshape(-1, 2)
    errors = [_fit(kept, mask, scale, codes).error(scale) for scale in both.T]
    found: Floats = np.where(reaching > 0, np.where(errors[0] <= errors[1], both[:, 0], both[:, 1]), 0.0)
    return found


class _Fit(NamedTuple):
    """Rows at some scales: ``a.c`` and ``c.c`` for the nearest codes."""

    products: Floats
    squares: Floats

    @property
    def gain(self) -> Floats:
        """By what the best scale for these codes lowers the error below ``a.a``."""
        gain: Floats = self.products**2 / np.maximum(self.squares, 1.0)
        return gain

    def error(self, scales: Floats) -> Floats:
        """The error at the scales themselves, less ``a.a``."""
        error: Floats = scales**2 * self.squares - 2 * scales * self.products
        return error


def _fit(kept: Floats, mask: Mask, scales: Floats, codes: CodeRange) -> _Fit:
    found = np.where(mask, _codes(kept, scales[:, None], codes), 0.0)
    return _Fit(np.einsum("ij,ij->i", kept, found), np.einsum("ij,ij->i", found, found))


def _codes(magnitudes: Array, scales: Floats, codes: CodeRange) -> Floats:
    """As ``CodeRange.nearest``, in floats; a scale of 0 has the lowest code for everything."""
    steps = np.ceil((magnitudes / np.where(scales > 0, scales, np.inf) - codes.lowest) / codes.stride - 0.5)
    found: Floats = np.clip(codes.lowest + codes.stride * steps, codes.lowest, codes.highest)
    return found
