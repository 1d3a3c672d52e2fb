"""Level sets: uniform symmetric grids with the scale that minimises the squared error.

The sets of ADMM-NN (arXiv 1812.11677, quantisation): with M = 2^bits levels without zero, ``{-(M/2) q .. -q,
+q .. +(M/2) q}``; with zero, ``{-(M/2 - 1) q .. +(M/2 - 1) q}`` (2 bits: ternary).

The scale q is a free parameter of the set: one for the tensor, or one for each slice along ``axis``. It is
exact (see ``scale``), then rounded to ``scale_bits`` significant bits. A tensor that lies on a grid is
recognised, so projections are idempotent to the bit. A tensor or slice of zeros has scale 0 and stays zero,
even where zero is no level. With 8 bits the outermost of the 256 levels are left out: codes are stored as
int8, which has no 128. Midway between two levels the one nearer to zero is taken, and 0 goes to +q where zero
is no level.

With ``scale_bits`` <= 24 - bits, ``code * scale`` is exact in float32; otherwise an entry is the float32
nearest to the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnx_admm.admm.sets.scale import CodeRange, Floats, Ints, best_scale, recover_scale
from onnx_admm.admm.sets.supports import Array, Mask, largest, require_count, require_finite, require_mask


class Quantized(NamedTuple):
    """A tensor as ``codes * scales``.

    Attributes:
        codes: int64, shape of the tensor.
        scales: float64; shape () for one scale, (extent,) for one per slice along ``axis``.
        axis: the axis the scales run along, None for one scale.
        lowest: int64, shape of ``scales``: the lowest code of a slice's grid, where grids may shift.
    """

    codes: Ints
    scales: Floats
    axis: int | None
    lowest: Ints | None = None

    def values(self, dtype: np.dtype[np.floating]) -> Array:
        """Return ``dtype(code * scale)``, the product in float64."""
        return (self.codes * _along(self.scales, self.codes.ndim, self.axis)).astype(dtype)


@dataclass(frozen=True, slots=True)
class Levels:
    """Every entry on one symmetric uniform grid.

    Projection: ``min over q > 0 and z  ||z - v||^2  s.t.  z_i in q * {codes}``.

    Args:
        bits: bits of a code.
        zero: codes ``-(2^(bits-1) - 1) .. 2^(bits-1) - 1`` (bits >= 2) where True; else
            ``+-1 .. +-2^(bits-1)``, and a zero needs a level too: see ``SupportLevels``.
        axis: None for one scale, else the axis that numbers slices with a scale each.
        scale_bits: significant bits of a scale, 1 to 24.
    """

    bits: int
    zero: bool = True
    axis: int | None = None
    scale_bits: int = 24

    def __post_init__(self) -> None:
        _require_bits(self.bits, self.scale_bits, fewest=2 if self.zero else 1)

    @property
    def codes(self) -> CodeRange:
        """Magnitudes of the codes."""
        return CodeRange(0, (1 << (self.bits - 1)) - 1) if self.zero else CodeRange(1, _half(self.bits))

    def quantize(self, v: Array) -> Quantized:
        """Return the codes and scales of the projection of ``v``."""
        v = require_finite(v)
        return _quantize(v, np.ones(v.shape, np.bool_), self.codes, self.axis, self.scale_bits)

    def project(self, v: Array) -> Array:
        """Return the nearest point of the grid of least squared error."""
        return self.quantize(v).values(np.asarray(v).dtype)

    def contains(self, z: Array) -> bool:
        """Return whether some admissible grid holds every entry exactly."""
        everywhere = np.ones(np.shape(z), np.bool_)
        return _on_grids(np.asarray(z), everywhere, self.codes, self.axis, self.scale_bits)


@dataclass(frozen=True, slots=True, eq=False)
class SupportLevels:
    """On the mask the levels ``+-1q .. +-2^(bits-1) q``, zero elsewhere.

    Projection: ``min over q > 0 and z  ||z - v||^2  s.t.  z_i in q * {+-1 .. +-2^(bits-1)}`` on the mask
    and ``z_i = 0`` off it: the second stage of ADMM-NN, where pruned weights stay zero.

    Args:
        mask: bool, shape of the tensor; True where a weight survives.
        bits: bits of a code, at least 1.
        axis: None for one scale, else the axis that numbers slices with a scale each.
        scale_bits: significant bits of a scale, 1 to 24.
    """

    mask: Mask
    bits: int
    axis: int | None = None
    scale_bits: int = 24

    def __post_init__(self) -> None:
        _require_bits(self.bits, self.scale_bits, fewest=1)

    @property
    def codes(self) -> CodeRange:
        """Magnitudes of the codes on the mask."""
        return CodeRange(1, _half(self.bits))

    def quantize(self, v: Array) -> Quantized:
        """Return the codes and scales of the projection of ``v``."""
        v = require_finite(v)
        return _quantize(v, require_mask(self.mask, v.shape), self.codes, self.axis, self.scale_bits)

    def project(self, v: Array) -> Array:
        """Return the nearest such point."""
        return self.quantize(v).values(np.asarray(v).dtype)

    def contains(self, z: Array) -> bool:
        """Return whether z is zero off the mask and on an admissible grid on it."""
        z, mask = np.asarray(z), require_mask(self.mask, np.shape(z))
        return not z[~mask].any() and _on_grids(z, mask, self.codes, self.axis, self.scale_bits)


@dataclass(frozen=True, slots=True)
class SparseLevels:
    """At most ``k`` nonzeros, each on a level ``+-1q .. +-2^(bits-1) q``: support and levels at once.

    Projection: ``min over q > 0 and z  ||z - v||^2  s.t.  nnz(z) <= k,  z_i in q * {0, +-1 .. }``.

    For a fixed q, keeping entry i on its nearest level gains ``max_c 2 |v_i| q c - (q c)^2``, which grows
    with ``|v_i|``: whatever q is, the k largest magnitudes are the ones to keep, so with one scale
    the projection is exact. With a scale per slice (``axis``) one budget couples the slices: supports and
    scales are then improved in turn until neither changes, a *local* minimum that is never worse than
    pruning first and quantising after.

    Args:
        k: nonzeros that stay, over the whole tensor.
        bits: bits of a nonzero's code, at least 1.
        axis: None for one scale, else the axis that numbers slices with a scale each.
        scale_bits: significant bits of a scale, 1 to 24.
    """

    k: int
    bits: int
    axis: int | None = None
    scale_bits: int = 24

    def __post_init__(self) -> None:
        require_count(self.k, "k")
        _require_bits(self.bits, self.scale_bits, fewest=1)

    @property
    def codes(self) -> CodeRange:
        """Magnitudes of the codes; 0 is a pruned weight."""
        return CodeRange(0, _half(self.bits))

    def quantize(self, v: Array) -> Quantized:
        """Return the codes and scales of the projection of ``v``."""
        v = require_finite(v)
        found = self._on_support(v, largest(np.abs(v), self.k))
        if self.axis is None:
            return found
        error = _squared_error(v, found)
        while error > 0:
            gains = _keeping_gains(v, found, self.codes)
            other = self._on_support(v, largest(gains, self.k))
            better = _squared_error(v, other)
            if better >= error:
                break
            found, error = other, better
        return found

    def project(self, v: Array) -> Array:
        """Return the nearest such point (with ``axis``: a local minimum)."""
        return self.quantize(v).values(np.asarray(v).dtype)

    def contains(self, z: Array) -> bool:
        """Return whether z has at most k nonzeros, all on an admissible grid."""
        z = np.asarray(z)
        few = int(np.count_nonzero(z)) <= self.k
        return few and _on_grids(z, np.ones(z.shape, np.bool_), self.codes, self.axis, self.scale_bits)

    def _on_support(self, v: Array, mask: Mask) -> Quantized:
        return _quantize(v, mask, self.codes, self.axis, self.scale_bits)


# -- pieces the level sets share -------------------------------------------------------------


def _half(bits: int) -> int:
    """Return the number of magnitudes, ``2^(bits-1)``; one less for 8 bits, since int8 ends at 127."""
    return 127 if bits == 8 else 1 << (bits - 1)


def _require_bits(bits: int, scale_bits: int, fewest: int) -> None:
    if not fewest <= bits <= 16:
        raise ValueError(f"bits must be {fewest} to 16, got {bits}")
    if not 1 <= scale_bits <= 24:
        raise ValueError(f"scale_bits must be 1 to 24, got {scale_bits}")


def _along(scales: Floats, rank: int, axis: int | None) -> Floats:
    """Return the scales shaped to multiply a tensor of ``rank``."""
    if axis is None:
        return scales
    return scales.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def slices_of(v: Array | Mask, axis: int | None) -> Array | Mask:
    """Return the slices that share a scale, as rows."""
    if axis is None:
        return v.reshape(1, -1)
    if not -v.ndim <= axis < v.ndim:
        raise ValueError(f"axis {axis} on a tensor of rank {v.ndim}")
    return np.moveaxis(v, axis, 0).reshape(v.shape[axis], v.size // max(v.shape[axis], 1))


def _quantize(v: Array, mask: Mask, codes: CodeRange, axis: int | None, scale_bits: int) -> Quantized:
    """Return the codes (0 off the mask) and scales of least squared error over the mask."""
    magnitudes = np.abs(v)
    rows = zip(slices_of(magnitudes, axis), slices_of(mask, axis), strict=True)
    per_row = np.array([_scale(row[kept], codes, scale_bits) for row, kept in rows], np.float64)
    scales = per_row[0] * np.ones(()) if axis is None else per_row
    divisors = _along(np.where(scales > 0, scales, np.inf), v.ndim, axis)
    found = np.zeros(v.shape, np.int64)
    live = mask & np.isfinite(divisors)
    found[live] = codes.nearest(magnitudes[live], np.broadcast_to(divisors, v.shape)[live])
    return Quantized(np.where(v < 0, -found, found), scales, axis)


def _scale(magnitudes: Array, codes: CodeRange, scale_bits: int) -> float:
    known = recover_scale(magnitudes, codes, scale_bits)
    return best_scale([(magnitudes, codes)], scale_bits) if known is None else known


def _on_grids(z: Array, mask: Mask, codes: CodeRange, axis: int | None, scale_bits: int) -> bool:
    rows = zip(slices_of(np.abs(z), axis), slices_of(mask, axis), strict=True)
    return all(recover_scale(row[kept], codes, scale_bits) is not None for row, kept in rows)


def _squared_error(v: Array, found: Quantized) -> float:
    return float(np.square(v - found.values(np.dtype(np.float64))).sum())


def _keeping_gains(v: Array, found: Quantized, codes: CodeRange) -> Floats:
    """Return by how much the squared error falls when each entry is kept on its slice's grid.

    A slice without a kept entry has no scale yet; its largest magnitude is used in its place.
    """
    magnitudes = np.abs(v).astype(np.float64)
    peaks = slices_of(magnitudes, found.axis).max(axis=1, initial=0.0)
    stand_in = np.where(found.scales > 0, found.scales, np.where(peaks > 0, peaks, 1.0))
    scales = _along(stand_in, v.ndim, found.axis)
    levels = codes.nearest(magnitudes, scales) * scales
    gains: Floats = 2 * magnitudes * levels - levels**2
    return gains
