"""Evenly spaced levels that need not be symmetric about zero: as many as the bits can represent.

``2^bits`` levels ``q * {o, o + 1, .. o + 2^bits - 1}`` at equal distances, the offset o a multiple of 1/2,
zero within their span. An integer o is the affine grid of quantised operators (zero is a level, the zero
point is -o); ``o = -(2^bits - 1) / 2`` is the symmetric grid without zero, the best use of few levels for
symmetric values; offsets in between suit skewed values.

Scale and offset are free parameters of the set: one pair for the tensor, or one for each slice along
``axis``. For a given offset the scale is exact (see ``scale``). Offsets are first compared by their error at
a few scales, each refitted; the best few are then searched exactly. Codes count half scales, so they are
integers for every offset. A tensor that lies on such a grid is recognised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnx_admm.admm.sets.levels import Quantized, slices_of
from onnx_admm.admm.sets.scale import (
    CodeRange,
    Ints,
    Sides,
    best_scale,
    coarse_error,
    rounded_neighbours,
    scale_step,
)
from onnx_admm.admm.sets.supports import Array, require_finite

_SEARCHED = 4
"""Offsets that are searched exactly."""


@dataclass(frozen=True, slots=True)
class ShiftedLevels:
    """Every entry on an evenly spaced grid of ``2^bits`` levels with the best shift.

    Projection: ``min over q > 0, o and z  ||z - v||^2  s.t.  z_i in q * {o, o + 1, .. o + 2^bits - 1}``.
    Midway between two levels the one nearer to zero is taken.

    Args:
        bits: bits of a level, 1 to 5; with more, a shift gains too little for its search.
        axis: None for one grid, else the axis that numbers slices with a grid each.
        centred: only the symmetric grid, ``o = -(2^bits - 1) / 2``.
        scale_bits: significant bits of a half scale, 1 to 24.
    """

    bits: int
    axis: int | None = None
    centred: bool = False
    scale_bits: int = 24

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 5:
            raise ValueError(f"bits must be 1 to 5, got {self.bits}")
        if not 1 <= self.scale_bits <= 24:
            raise ValueError(f"scale_bits must be 1 to 24, got {self.scale_bits}")

    @property
    def span(self) -> int:
        """Distance of the outermost levels, in half scales."""
        return 2 * ((1 << self.bits) - 1)

    def quantize(self, v: Array) -> Quantized:
        """Return the codes (in half scales), half scales and lowest codes of the projection of ``v``."""
        v = require_finite(v)
        rows = slices_of(v, self.axis)
        found = [self._recover(row) or self._search(row) for row in rows]
        codes = np.array([row.codes for row in found], np.int64).reshape(rows.shape)
        scales, lowest = np.array([row.scale for row in found]), np.array([row.lowest for row in found])
        if self.axis is None:
            return Quantized(codes.reshape(v.shape), scales.reshape(()), None, lowest.reshape(()))
        moved = codes.reshape(np.moveaxis(v, self.axis, 0).shape)
        return Quantized(np.moveaxis(moved, 0, self.axis), scales, self.axis, lowest)

    def shifts_near(self, lowest: Ints) -> list[Ints]:
        """Return lowest codes to try: the given ones, half a level up and down, and centred."""
        first, last = self._lowest_codes()[0], self._lowest_codes()[-1]
        tried = [lowest, lowest - 1, lowest + 1, np.full_like(lowest, -self.span // 2)]
        return tried[:1] if self.centred else [np.clip(low, first, last) for low in tried]

    def project(self, v: Array) -> Array:
        """Return the nearest point of the grid of least squared error."""
        return self.quantize(v).values(np.asarray(v).dtype)

    def contains(self, z: Array) -> bool:
        """Return whether some admissible grid holds every entry exactly."""
        return all(self._recover(row) is not None for row in slices_of(np.asarray(z), self.axis))

    def _lowest_codes(self) -> range:
        """Return every offset of the set."""
        return range(1 - 2**self.bits, 2 - 2**self.bits) if self.centred else range(-self.span, 1)

    def _search(self, row: Array) -> _Grid:
        candidates = [_OffsetGrid(lowest, lowest + self.span) for lowest in self._lowest_codes()]
        candidates = sorted(candidates, key=lambda candidate: candidate.coarse_error(row))[:_SEARCHED]
        grids = [candidate.best_grid(row, self.scale_bits) for candidate in candidates]
        return min(grids, key=lambda grid: float(np.square(row - grid.codes * grid.scale).sum()))

    def _recover(self, row: Array) -> _Grid | None:
        """Return the coarsest grid of the set that holds every entry exactly."""
        distinct = np.unique(row)
        middle = 1 - 2**self.bits
        if not distinct.any():
            return _Grid(np.zeros(row.shape, np.int64), 0.0, middle)
        if len(distinct) > 2**self.bits:
            return None
        least = np.abs(distinct[distinct != 0]).min().astype(np.float64) / np.arange(1, self.span + 1)
        scales = rounded_neighbours(least, self.scale_bits, scale_step(row.dtype))
        scales = scales[scales > 0]
        codes = np.rint(distinct.astype(np.float64) / scales[:, None])
        fits = ((codes * scales[:, None]).astype(row.dtype) == distinct).all(axis=1)
        fits &= (codes % 2 == codes[:, :1] % 2).all(axis=1)
        lowest, highest = codes.min(axis=1), codes.max(axis=1)
        allowed = self._lowest_codes()
        starts = np.clip(middle - (lowest + middle) % 2, highest - self.span, lowest)
        starts = np.clip(starts, allowed[0], allowed[-1])
        fits &= (starts % 2 == lowest % 2) & (starts <= lowest) & (highest <= starts + self.span)
        good = np.flatnonzero(fits)
        if not len(good):
            return None
        scale = float(scales[good[0]])
        return _Grid(np.rint(row.astype(np.float64) / scale).astype(np.int64), scale, int(starts[good[0]]))


class _Grid(NamedTuple):
    """One slice: its codes, its half scale, and the least code of its grid."""

    codes: Ints
    scale: float
    lowest: int


@dataclass(frozen=True, slots=True)
class _OffsetGrid:
    """Codes ``lowest, lowest + 2, .. highest``, zero in their span."""

    lowest: int
    highest: int

    def ranges(self) -> tuple[CodeRange, CodeRange]:
        """Return the magnitudes of the codes for entries >= 0, and for negative ones."""
        nearest = self.lowest % 2
        return CodeRange(nearest, self.highest, 2), CodeRange(nearest, -self.lowest, 2)

    def coarse_error(self, row: Array) -> float:
        """Return an estimate of the least squared error of any scale."""
        sides, left = self._sides(row)
        return coarse_error(sides) + left

    def best_grid(self, row: Array, scale_bits: int) -> _Grid:
        """Return the scale of least squared error, with its codes."""
        scale = best_scale(self._sides(row)[0], scale_bits)
        if scale == 0.0:
            return _Grid(np.zeros(row.shape, np.int64), 0.0, self.lowest)
        above, below = self.ranges()
        magnitudes = np.abs(row).astype(np.float64)
        codes = np.where(row < 0, -below.nearest(magnitudes, scale), above.nearest(magnitudes, scale))
        return _Grid(codes, scale, self.lowest)

    def _sides(self, row: Array) -> tuple[Sides, float]:
        """Return the sides that have a level beside zero, and the squares of the entries that have none."""
        parts = zip((row[row >= 0], -row[row < 0]), self.ranges(), strict=True)
        live = [(part, codes) for part, codes in parts if codes.highest > 0]
        left = float(np.square(row).sum() - sum(np.square(part).sum() for part, _ in live))
        return live, max(left, 0.0)
