"""The scale of a uniform grid of least squared error, and the grid that given values lie on.

For magnitudes ``a`` and codes ``c_i`` in ``{lowest .. highest}``:

    minimise over q > 0 and c   E = sum_i (a_i - q c_i)^2

For a fixed assignment c the best scale is ``q = (a.c) / (c.c)``, with ``E = a.a - (a.c)^2 / (c.c)``; for a
fixed q the best code is the nearest one. As q falls, code j of entry i changes to the next one, j + s, at the
*breakpoint* ``q = a_i / (j + s/2)``. Only the assignments between neighbouring breakpoints can be optimal,
and each differs from the last in one entry, so sorting the breakpoints and two running sums find the global
optimum.

Most breakpoints need never be sorted. If q* with codes c* is optimal, then ``c*.(a - q* c*) = 0``, so at any
other q:  ``E(q) <= E(q*) + (q - q*)^2 c*.c*``.  Hence q*, if it lies in [l, r], keeps a distance of at least
``sqrt((E - best known E) / c(l).c(l))`` from either end (codes only grow as q falls), which shrinks most
intervals to nothing. E itself costs a binary search per level in the sorted magnitudes with their running
sums. Where positive and negative entries have different codes, the breakpoints of both sides are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.sets.supports import Array

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEAST_PEAK = 2.0**-100
"""Slices of smaller magnitudes count as zeros: float32 cannot represent exact scales below it."""

_DIRECT = 16384  # breakpoints that are sorted at once rather than sieved first
_CELLS = 64
_SPLIT = 8
_ROUNDS = 6
_MOST_INTERVALS = 1024
_SLACK = 1e-11  # share of a.a by which rounding may blur E


@dataclass(frozen=True, slots=True)
class CodeRange:
    """Magnitudes of codes: ``lowest, lowest + stride, .. highest``.

    Where zero is a level, ``lowest`` is 0.
    """

    lowest: int
    highest: int
    stride: int = 1

    def nearest(self, magnitudes: Floats, scale: Floats | float) -> Ints:
        """Return the code of the level nearest to each magnitude; midway, the lower one."""
        steps = np.ceil((magnitudes / scale - self.lowest) / self.stride - 0.5)
        codes = np.clip(self.lowest + self.stride * steps, self.lowest, self.highest)
        found: Ints = codes.astype(np.int64)
        return found


Sides = Sequence[tuple[Array, CodeRange]]
"""Magnitudes (nonnegative and finite, any shape) and the codes that they may take."""


def scale_step(dtype: np.dtype[Any]) -> float:
    """Return the step of scales for weights of a type: the distance of its smallest numbers.

    Every multiple of such a scale is a float of that type, denormal or not. So small weights of float16, with
    scales near the end of its range, are recognised on their grid.
    """
    return float(np.finfo(dtype).smallest_subnormal)


def best_scale(sides: Sides, scale_bits: int) -> float:
    """Return the error-minimising scale, rounded to ``scale_bits`` significant bits.

    Exact before the rounding, for every number of levels; of the two neighbouring rounded scales the one with
    less error is taken. It has no more bits than the magnitudes' type. 0 where every magnitude is 0, or below
    ``LEAST_PEAK``.

    Args:
        sides: magnitudes with their codes, one pair where both signs have the same codes.
        scale_bits: significant bits of the scale, 1 to 53.
    """
    peak = max(float(magnitudes.max(initial=0.0)) for magnitudes, _ in sides)
    if peak < LEAST_PEAK:
        return 0.0
    curve = _Curve([_Side.of(magnitudes, codes, peak) for magnitudes, codes in sides])
    step = max(scale_step(magnitudes.dtype) for magnitudes, _ in sides)
    neighbours = rounded_neighbours(_minimise(curve) * peak, scale_bits, step)
    return float(neighbours[np.argmin(curve.at(neighbours / peak).error)])


def coarse_error(sides: Sides) -> float:
    """Return the least squared error over 32 scales, each refitted to its codes.

    Never below the error of ``best_scale`` before rounding, and close above: accurate enough to rank grids.
    """
    peak = max(float(magnitudes.max(initial=0.0)) for magnitudes, _ in sides)
    if peak < LEAST_PEAK:
        return 0.0
    curve = _Curve([_Side.of(magnitudes, codes, peak) for magnitudes, codes in sides])
    return _least_error(curve, curve.at(np.geomspace(0.5 / max(curve.highest, 1), 1.0, 32))) * peak**2


def recover_scale(magnitudes: Array, codes: CodeRange, scale_bits: int) -> float | None:
    """Return the largest scale whose grid holds every magnitude exactly, or None.

    Exactly means ``magnitude == dtype(code * scale)`` with a scale of at most ``scale_bits``
    significant bits. 0 where every magnitude is 0; None where all are below ``LEAST_PEAK``: they become 0.
    """
    flat = magnitudes.reshape(-1)
    most = codes.highest + 1
    if len(np.unique(flat[: 2 * most])) > most:  # the usual case, decided without a full sort
        return None
    distinct = np.unique(flat)
    if not distinct.any():
        return 0.0
    if distinct[-1] < LEAST_PEAK:
        return None
    if len(distinct) > most or (codes.lowest > 0 and distinct[0] == 0):
        return None
    levels = distinct[distinct > 0]
    least = levels[0].astype(np.float64) / np.arange(1, codes.highest + 1)
    candidates = rounded_neighbours(least, scale_bits, scale_step(magnitudes.dtype))  # largest first
    candidates = candidates[candidates > 0]
    found = np.rint(levels.astype(np.float64) / candidates[:, None])
    fits = (found >= 1) & (found <= codes.highest)
    fits &= (found * candidates[:, None]).astype(magnitudes.dtype) == levels
    good = np.flatnonzero(fits.all(axis=1))
    return float(candidates[good[0]]) if len(good) else None


def rounded_neighbours(scales: float | Floats, bits: int, step: float = 0.0) -> Floats:
    """Round each scale up and down to ``bits`` significant bits; return both, one beside the other.

    Args:
        scales: at least 0.
        bits: significant bits.
        step: a power of two or 0; results are its multiples, and not 0 for a scale that is not.
    """
    exact = np.atleast_1d(np.asarray(scales, np.float64))
    _, exponent = np.frexp(exact)
    units = np.maximum(np.ldexp(1.0, exponent - bits), step)[:, None]
    quotients = exact[:, None] / units
    both = np.concatenate([np.ceil(quotients), np.floor(quotients)], axis=1) * units
    least = np.minimum(step, exact)[:, None]
    rounded: Floats = np.where(both < least, step, both)
    return rounded.reshape(-1)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Terms of E at some scales: ``a.c``, ``c.c``, ``E`` and the entries not above each midpoint."""

    ac: Floats
    cc: Floats
    error: Floats
    below: npt.NDArray[np.intp]  # (scales, midpoints)


class _Side(NamedTuple):
    """Sorted magnitudes with one range of codes.

    Attributes:
        ordered: rising magnitudes.
        tails: ``tails[i] = sum(ordered[i:])``.
        codes: the range.
        steps: the codes that have a larger one.
    """

    ordered: Floats
    tails: Floats
    codes: CodeRange
    steps: Ints

    @classmethod
    def of(cls, magnitudes: Array, codes: CodeRange, peak: float) -> _Side:
        ordered = np.sort(magnitudes.reshape(-1).astype(np.float64) / peak)
        tails = np.append(np.cumsum(ordered[::-1])[::-1], 0.0)
        return cls(ordered, tails, codes, np.arange(codes.lowest, codes.highest, codes.stride))

    @property
    def midpoints(self) -> Floats:
        """Where codes change, in units of the scale."""
        return np.add(self.steps, 0.5 * self.codes.stride, dtype=np.float64)

    @property
    def growth(self) -> Ints:
        """Increase of c.c where an entry's code moves to the next."""
        return self.codes.stride * (2 * self.steps + self.codes.stride)


class _Curve:
    """E as a function of the scale, for magnitudes of which the largest is 1."""

    def __init__(self, sides: list[_Side]) -> None:
        self.sides = sides
        self.energy = sum(float(side.ordered @ side.ordered) for side in sides)
        self.total = sum(float(side.tails[0]) for side in sides)
        self.highest = max(side.codes.highest for side in sides)
        self.count = sum(len(side.ordered) for side in sides)
        self.breakpoints = sum(len(side.ordered) * len(side.steps) for side in sides)

    def at(self, scales: Floats) -> _Sums:
        below, ac, cc = [], np.zeros(len(scales)), np.zeros(len(scales))
        for side in self.sides:
            reached = np.searchsorted(side.ordered, scales[:, None] * side.midpoints, side="right")
            low, count = side.codes.lowest, len(side.ordered)
            ac += low * side.tails[0] + side.codes.stride * side.tails[reached].sum(axis=1)
            cc += low * low * count + ((count - reached) * side.growth).sum(axis=1)
            below.append(reached)
        return _Sums(ac, cc, self.energy - 2 * scales * ac + scales**2 * cc, np.concatenate(below, axis=1))

    def search(self, sums: _Sums, left: int, right: int) -> tuple[float, float]:
        """Return (gain ``(a.c)^2 / c.c``, scale) of the best assignment between two scales of ``sums``."""
        spans = iter(zip(sums.below[left], sums.below[right], strict=True))
        values, where, growth = [np.empty(0)], [np.empty(0)], [np.empty(0)]
        for side in self.sides:
            for midpoint, grown in zip(side.midpoints, side.growth, strict=True):
                first, last = next(spans)
                inside = side.ordered[first:last]
                values.append(inside * side.codes.stride)
                where.append(inside / midpoint)
                growth.append(np.full(len(inside), float(grown)))
        order = np.argsort(-np.concatenate(where), kind="stable")
        ac = np.append(0.0, np.cumsum(np.concatenate(values)[order])) + sums.ac[right]
        cc = np.append(0.0, np.cumsum(np.concatenate(growth)[order])) + sums.cc[right]
        gain = np.divide(ac**2, cc, out=np.zeros_like(ac), where=cc > 0)
        best = int(np.argmax(gain))
        return float(gain[best]), float(ac[best] / cc[best])


def _minimise(curve: _Curve) -> float:
    """Return the scale of least error; never above the largest magnitude, which is 1."""
    if curve.breakpoints <= _DIRECT:
        intervals = np.array([[0.0], [1.0]])
    else:
        intervals = _sieved_intervals(curve, enough=max(_DIRECT, curve.count))
    sums = curve.at(intervals.reshape(-1))
    width = intervals.shape[1]
    return max(curve.search(sums, left, width + left) for left in range(width))[1]


def _sieved_intervals(curve: _Curve, enough: int) -> Floats:
    """Return the intervals (lefts, rights) that together hold the best scale and few breakpoints."""
    highest = curve.highest
    best = _least_error(curve, curve.at(np.geomspace(0.5 / highest, 1.0, 32)))
    # E(q) >= a.a - 2 q highest sum(a), so anything smaller is worse than what is known already
    floor = (curve.energy - best) / (2 * highest * curve.total) * (1 - 1e-9)
    edges = np.geomspace(min(floor, 0.5), 1.0, _CELLS + 1)
    intervals = np.stack([edges[:-1], edges[1:]])
    for _ in range(_ROUNDS):
        ends, place = np.unique(intervals.reshape(-1), return_inverse=True)  # neighbours share an end
        sums = curve.at(ends)
        best = min(best, _least_error(curve, sums))
        left, right = place.reshape(intervals.shape)
        above = np.maximum(sums.error - best - _SLACK * curve.energy, 0.0)
        intervals = np.stack(
            [
                intervals[0] + np.sqrt(above[left] / sums.cc[left]),
                intervals[1] - np.sqrt(above[right] / sums.cc[left]),
            ]
        )
        alive = intervals[0] <= intervals[1]
        inside = (sums.below[right] - sums.below[left])[alive].sum()
        intervals = intervals[:, alive]
        if inside <= enough or intervals.shape[1] > _MOST_INTERVALS:
            break
        edges = np.geomspace(intervals[0], intervals[1], _SPLIT + 1)  # (split + 1, intervals)
        intervals = np.stack([edges[:-1].reshape(-1), edges[1:].reshape(-1)])
    hull = np.array([[intervals.min()], [intervals.max()]])
    smallest, largest = curve.at(hull[:, 0]).below.sum(axis=1)
    return hull if largest - smallest <= _DIRECT else intervals


def _least_error(curve: _Curve, sums: _Sums) -> float:
    """Return the least error of any assignment in ``sums``, each at its own best scale."""
    gain = np.divide(sums.ac**2, sums.cc, out=np.zeros_like(sums.ac), where=sums.cc > 0)
    return float((curve.energy - gain).min())
