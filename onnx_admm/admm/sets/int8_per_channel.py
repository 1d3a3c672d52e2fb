"""Eight-bit levels for large weights: a scale for each slice, found approximately by a few sweeps.

The exact search (``scale``) costs milliseconds a slice; a network of a hundred million weights has tens of
thousands of slices. At 8 bits there is little to gain: with n weights in a slice the error

    E(q) = sum_i (a_i - q c_i)^2,    c_i = min(127, round(a_i / q))

is n q^2 / 12 plus the cost of clipping, up to the random share ``1 / sqrt(n)`` of rounding, and the exact
search only picks the luckiest of those shares. So E is computed at some scales between half the one that
reaches the largest magnitude and that one itself, at more of them the shorter the slice, where chance counts
more; the best is taken. Codes take a byte each, and all else is done piece by piece: only the codes grow with
the weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.sets.levels import Levels
from onnx_admm.admm.sets.scale import LEAST_PEAK, CodeRange, recover_scale, scale_step
from onnx_admm.admm.sets.supports import Array, require_finite

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.int8]

_HIGHEST = 127
_SHORT = 32  # slices up to here are searched exactly
_PIECE = 1 << 18  # elements at a time: three such arrays of fp32 stay in the cache
_COARSE = np.linspace(1.0, 0.5, 6)
_WORK = 1 << 14  # elements looked at by a slice's fine search, all its scales together
_FEWEST, _MOST = 6, 64
_SAMPLE = 512


class ByteCodes(NamedTuple):
    """A tensor as ``codes * scales``.

    Attributes:
        codes: int8, -127 to 127, shape of the tensor.
        scales: float32, one for each slice along ``axis``; 1 where a slice is all zero.
        axis: the axis the scales run along, at least 0.
    """

    codes: Bytes
    scales: Floats
    axis: int

    @property
    def along(self) -> Floats:
        """The scales in a shape that broadcasts over the codes."""
        return self.scales.reshape([-1 if axis == self.axis else 1 for axis in range(self.codes.ndim)])

    def values(self, dtype: np.dtype[np.floating]) -> Array:
        """Return ``code * scale`` in float32, then in ``dtype``."""
        return np.multiply(self.codes, self.along, dtype=np.float32).astype(dtype, copy=False)


@dataclass(frozen=True, slots=True)
class ByteLevels:
    """Every entry on ``q * {-127 .. 127}``, a scale q for each slice along an axis.

    Nearly the projection: each slice's squared error is the least of those at the scales tried (a percent or
    two above the global minimum, see the module). A slice that lies on such a grid stays as it is.

    Args:
        axis: numbers the slices.
        scale_bits: significant bits of a scale, 1 to 17: ``code * scale`` is then exact in float32.
    """

    bits: ClassVar[int] = 8

    axis: int
    scale_bits: int = 11

    def quantize(self, v: Array) -> ByteCodes:
        """Return the codes and scales of ``v``."""
        axis = self.axis % v.ndim
        slices = np.moveaxis(v, axis, 0)
        codes = np.empty(v.shape, np.int8)
        coded = np.moveaxis(codes, axis, 0)
        scales = np.empty(len(slices), np.float32)
        for part in _pieces(slices):
            rows = np.ascontiguousarray(slices[part], np.float32).reshape(len(slices[part]), -1)
            require_finite(rows)
            scales[part] = self._scales(rows, v.dtype)
            found = np.rint(rows * _inverse(scales[part])[:, None])
            coded[part] = np.clip(found, -_HIGHEST, _HIGHEST).reshape(coded[part].shape)
        return ByteCodes(codes, scales, axis)

    def _scales(self, rows: Floats, dtype: np.dtype[Any]) -> Floats:
        if rows.shape[1] <= _SHORT:
            levels = Levels(self.bits, axis=0, scale_bits=self.scale_bits)
            return _nonzero(levels.quantize(rows.astype(dtype, copy=False)).scales)
        magnitudes = np.abs(rows)
        scales = _search(magnitudes, self.scale_bits, scale_step(dtype))
        for row in _maybe_on_grids(magnitudes):
            known = recover_scale(magnitudes[row], CodeRange(0, _HIGHEST), self.scale_bits)
            scales[row] = scales[row] if known is None else known
        return _nonzero(scales)


def _pieces(slices: Array) -> Iterator[slice]:
    length = max(1, slices[:1].size)
    step = max(1, _PIECE // length)
    return (slice(start, start + step) for start in range(0, len(slices), step))


def _search(magnitudes: Floats, scale_bits: int, step: float) -> Floats:
    """Return the best of coarse shares of ``largest / 127``, then of finer ones around it."""
    peaks = magnitudes.max(axis=1, initial=0.0)
    top = peaks * (peaks >= LEAST_PEAK) / np.float32(_HIGHEST)
    scratch = _Scratch(magnitudes, scale_bits, step)
    best = scratch.best(top, _COARSE)
    count = int(np.clip(_WORK // magnitudes.shape[1], _FEWEST, _MOST))
    width = float(_COARSE[0] - _COARSE[1])
    around = 1 + np.linspace(-width, width, count + 2)[1:-1]
    return scratch.best(best, around, at_most=top)


class _Scratch:
    """Rows of magnitudes, with buffers for their errors.

    Args:
        magnitudes: (rows, n).
        scale_bits: significant bits of a scale.
        step: scales are multiples of it (see ``scale.scale_step``).
    """

    def __init__(self, magnitudes: Floats, scale_bits: int, step: float) -> None:
        self._magnitudes, self._scale_bits, self._step = magnitudes, scale_bits, step
        self._steps, self._codes = np.empty_like(magnitudes), np.empty_like(magnitudes)

    def best(self, scales: Floats, shares: npt.NDArray[np.float64], at_most: Floats | None = None) -> Floats:
        """Return for each row the best of its scale and its scale times each share, rounded."""
        found, least = scales, np.full(len(scales), np.inf, np.float32)
        for share in (1.0, *(share for share in shares if share != 1.0)):
            unrounded = scales * np.float32(share)
            tried = unrounded if at_most is None else np.minimum(unrounded, at_most)
            tried = _rounded(tried, self._scale_bits, self._step)
            error = self._error(tried)
            better = error < least
            found, least = np.where(better, tried, found), np.where(better, error, least)
        return found

    def _error(self, scales: Floats) -> Floats:
        steps, codes = self._steps, self._codes
        np.multiply(self._magnitudes, _inverse(scales)[:, None], out=steps)
        np.rint(steps, out=codes)
        np.minimum(codes, np.float32(_HIGHEST), out=codes)
        np.subtract(steps, codes, out=steps)
        squares: Floats = np.einsum("ij,ij->i", steps, steps)
        return squares * scales**2


def _maybe_on_grids(magnitudes: Floats) -> npt.NDArray[np.intp]:
    """Return rows that may lie on a grid: those with equal values among their first."""
    first = np.sort(magnitudes[:, :_SAMPLE], axis=1)
    equal = (first[:, 1:] == first[:, :-1]) & (first[:, 1:] > 0)
    return np.flatnonzero(equal.any(axis=1))


def _nonzero(scales: npt.NDArray[np.floating[Any]]) -> Floats:
    return np.where(scales > 0, scales, 1.0).astype(np.float32)


def _inverse(scales: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(scales > 0, np.float32(1) / scales, np.float32(0))


def _rounded(scales: Floats, bits: int, step: float) -> Floats:
    """Return the nearest numbers of so many significant bits, multiples of ``step`` and not 0."""
    _, exponent = np.frexp(scales)
    units = np.maximum(np.ldexp(np.float32(1), exponent - bits), np.float32(step))
    rounded: Floats = np.maximum(np.rint(scales / units), scales > 0) * units
    return rounded
