"""Constraint sets on the support of one tensor, each with its exact Euclidean projection.

Rules for every set here and in ``levels`` and ``blocks``:

- the input is never changed and the result has its shape and dtype;
- ties go to the lowest flat index (C order);
- a budget of 0 keeps nothing, one that covers everything keeps everything;
- a tensor without elements is its own nearest point;
- non-finite or non-floating input is a ``ValueError``: it has no nearest point.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Blocks = dict[str, Array]
"""Tensors by name."""


LEAST_ZEROS = 0.1
"""Share of zeros from which on they count as pruned.

Below it an index of their positions takes more bytes than levels without a zero save.
"""


def pruned_support(weights: Array) -> Mask | None:
    """Return where a pruned weight is not zero; None for a weight with too few zeros.

    A few exact zeros are values like others: to keep them apart takes an index of all weights.

    Example:
        >>> pruned_support(np.array([0.0, 0.0, 1.0]))
        array([False, False,  True])
        >>> pruned_support(np.array([0.0, *[1.0] * 99])) is None
        True
    """
    mask: Mask = weights != 0
    return mask if np.count_nonzero(mask) <= (1 - LEAST_ZEROS) * mask.size and mask.size else None


class ConstraintSet(Protocol):
    """A closed set of tensors with a projection."""

    def project(self, v: Array) -> Array:
        """Return a nearest point: some ``argmin_z ||z - v||^2`` subject to ``z`` in the set."""

    def contains(self, z: Array) -> bool:
        """Return whether ``z`` lies in the set, exactly."""


@dataclass(frozen=True, slots=True)
class AtMostK:
    """At most ``k`` nonzero entries.

    Projection: ``min ||z - v||^2  s.t.  nnz(z) <= k``: the k entries of largest magnitude stay.
    """

    k: int

    def __post_init__(self) -> None:
        require_count(self.k, "k")

    def project(self, v: Array) -> Array:
        """Keep the k largest magnitudes."""
        v = require_finite(v)
        return keep(v, largest(np.abs(v), self.k))

    def contains(self, z: Array) -> bool:
        """Return whether ``nnz(z) <= k``."""
        return int(np.count_nonzero(z)) <= self.k


@dataclass(frozen=True, slots=True)
class NofM:
    """At most ``n`` nonzeros in every ``m`` consecutive entries along ``axis`` (2:4 is ``NofM(2, 4)``).

    Projection: ``min ||z - v||^2  s.t.  nnz(group) <= n``: in each group the n largest magnitudes stay.
    Where ``m`` does not divide the extent the last group is shorter and may still keep ``n``.
    """

    n: int
    m: int
    axis: int = -1

    def __post_init__(self) -> None:
        require_count(self.n, "n")
        if self.m < 1:
            raise ValueError(f"m must be at least 1, got {self.m}")

    def project(self, v: Array) -> Array:
        """Keep the n largest magnitudes of each group."""
        v = require_finite(v)
        lanes = np.moveaxis(np.abs(v), self.axis, -1)
        groups = self._groups(lanes, fill=-1.0)  # (..., groups, m); the fill value is never chosen
        order = np.argsort(-groups, axis=-1, kind="stable")[..., : self.n]
        chosen = np.zeros(groups.shape, np.bool_)
        np.put_along_axis(chosen, order, True, axis=-1)
        mask = chosen.reshape(*lanes.shape[:-1], groups.shape[-2] * self.m)[..., : lanes.shape[-1]]
        return keep(v, np.moveaxis(mask, -1, self.axis))

    def contains(self, z: Array) -> bool:
        """Return whether no group has more than n nonzeros."""
        lanes = np.moveaxis(np.asarray(z) != 0, self.axis, -1)
        return bool((self._groups(lanes, fill=False).sum(axis=-1) <= self.n).all())

    def _groups(self, lanes: npt.NDArray[Any], fill: float | bool) -> npt.NDArray[Any]:
        missing = -lanes.shape[-1] % self.m
        padded = np.pad(lanes, [(0, 0)] * (lanes.ndim - 1) + [(0, missing)], constant_values=fill)
        return padded.reshape(*lanes.shape[:-1], padded.shape[-1] // self.m, self.m)


@dataclass(frozen=True, slots=True)
class BlockK:
    """At most ``k`` nonzero blocks of a regular tiling.

    Projection: ``min ||z - v||^2  s.t.  at most k tiles hold a nonzero``: the k tiles of largest
    Euclidean norm stay. Tiles at the far edges may be cut short.

    Args:
        block: extent of a tile along each leading axis; 0 stands for the whole axis, and so does
            every axis beyond the tuple: ``(4, 4)`` tiles a convolution's channels, kernels whole.
        k: number of tiles that stay.
    """

    block: tuple[int, ...]
    k: int

    def __post_init__(self) -> None:
        require_count(self.k, "k")
        if any(extent < 0 for extent in self.block):
            raise ValueError(f"block extents must be 0 (whole axis) or more, got {self.block}")

    def project(self, v: Array) -> Array:
        """Keep the k tiles of largest norm."""
        v = require_finite(v)
        extents = self._extents(v.shape)
        if v.size == 0:
            return v.copy()
        mask = largest(_tile_sums(_scaled_squares(v), extents), self.k)
        for axis, extent in enumerate(extents):
            mask = np.repeat(mask, extent, axis=axis).take(range(v.shape[axis]), axis=axis)
        return keep(v, mask)

    def contains(self, z: Array) -> bool:
        """Return whether at most k tiles hold a nonzero."""
        tiles = _tile_sums((np.asarray(z) != 0).astype(np.float64), self._extents(np.shape(z)))
        return int(np.count_nonzero(tiles)) <= self.k

    def _extents(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(self.block) > len(shape):
            raise ValueError(f"a block of {len(self.block)} axes {self.block} on a tensor of shape {shape}")
        given = self.block + (0,) * (len(shape) - len(self.block))
        return tuple(min(b, s) if b else s for b, s in zip(given, shape, strict=True))


@dataclass(frozen=True, slots=True)
class ChannelK:
    """At most ``k`` nonzero slices along ``axes``.

    Projection: ``min ||z - v||^2  s.t.  at most k slices hold a nonzero``: the k slices of largest
    Euclidean norm stay.

    Args:
        axes: axes that number the slices: ``(0,)`` output channels, ``(0, 1)`` single kernels.
        k: number of slices that stay.
    """

    axes: tuple[int, ...]
    k: int

    def __post_init__(self) -> None:
        require_count(self.k, "k")

    def project(self, v: Array) -> Array:
        """Keep the k slices of largest norm."""
        return self._as_blocks(np.ndim(v)).project(v)

    def contains(self, z: Array) -> bool:
        """Return whether at most k slices hold a nonzero."""
        return self._as_blocks(np.ndim(z)).contains(z)

    def _as_blocks(self, rank: int) -> BlockK:
        if any(not -rank <= axis < rank for axis in self.axes):
            raise ValueError(f"axes {self.axes} on a tensor of rank {rank}")
        numbered = {axis % rank for axis in self.axes}
        return BlockK(tuple(int(axis in numbered) for axis in range(rank)), self.k)


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """Nonzeros only where ``mask`` is True.

    Projection: ``min ||z - v||^2  s.t.  z = 0 outside the mask``: entries outside become zero.
    """

    mask: Mask

    def project(self, v: Array) -> Array:
        """Clear what lies outside the mask."""
        return keep(require_finite(v), require_mask(self.mask, np.shape(v)))

    def contains(self, z: Array) -> bool:
        """Return whether everything outside the mask is zero."""
        return not np.any(np.asarray(z)[~require_mask(self.mask, np.shape(z))])


# -- pieces the sets share -------------------------------------------------------------------


def require_finite(v: Array) -> Array:
    """Return ``v`` as an array of finite floating-point numbers.

    Raises:
        ValueError: another kind of number, an infinity or a NaN.
    """
    array = np.asarray(v)
    if array.dtype.kind != "f":
        raise ValueError(f"projections need floating-point values, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError("values that are not finite have no nearest point")
    return array


def require_count(count: int, name: str) -> None:
    """Refuse a negative budget."""
    if count < 0:
        raise ValueError(f"{name} must be 0 or more, got {count}")


def require_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Return ``mask`` as booleans of ``shape``."""
    if mask.shape != shape:
        raise ValueError(f"a mask of shape {mask.shape} on a tensor of shape {shape}")
    return mask.astype(np.bool_, copy=False)


def largest(score: npt.NDArray[Any], k: int) -> Mask:
    """Return a mask, True at the ``k`` largest scores; equal scores in order of flat index. O(n)."""
    flat = score.reshape(-1)
    if k >= flat.size:
        return np.ones(score.shape, np.bool_)
    if k == 0:
        return np.zeros(score.shape, np.bool_)
    threshold = np.partition(flat, flat.size - k)[flat.size - k]
    mask: Mask = flat > threshold
    mask[np.flatnonzero(flat == threshold)[: k - np.count_nonzero(mask)]] = True
    return mask.reshape(score.shape)


def keep(v: Array, mask: Mask) -> Array:
    """Return ``v`` where ``mask``, else zero, as a fresh array."""
    return np.where(mask, v, np.zeros((), v.dtype))


def _scaled_squares(v: Array) -> npt.NDArray[np.float64]:
    """Return the squares relative to the largest, in float64, without overflow or underflow."""
    magnitudes = np.abs(v).astype(np.float64)
    peak = magnitudes.max(initial=0.0)
    return np.square(magnitudes / peak) if peak > 0 else magnitudes


def _tile_sums(values: npt.NDArray[np.float64], extents: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if prod(values.shape) == 0:
        return np.zeros([0] * values.ndim)
    for axis, extent in enumerate(extents):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], extent), axis=axis)
    return values
