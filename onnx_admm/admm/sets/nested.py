"""Intersections of two sets whose successive projections give the exact projection on both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_admm.admm.sets.levels import Levels
from onnx_admm.admm.sets.supports import Array, AtMostK, ChannelK, NofM


@dataclass(frozen=True, slots=True)
class Nested:
    """Tensors that lie in both sets.

    Projection: ``min ||z - v||^2  s.t.  z in first, z in second``, as ``second.project(first.project(v))``.
    That is exact, and allowed, only for these pairs:

    - ``NofM`` then ``AtMostK``: supports with n of every m and k in all form a matroid, on which the
      greedy choice by magnitude is optimal.
    - ``NofM`` then ``ChannelK``, no group across slices: a slice is worth the norm of what it may keep.
    - ``AtMostK`` or ``NofM`` then ``Levels`` with zero: for any scale, what keeping an entry gains grows with
      its magnitude, so the support does not depend on the scale. One scale, or with ``NofM`` a scale
      per slice that no group crosses.

    Any other pair is a ``ValueError``.

    Args:
        first: a bound on the support.
        second: the other set.
    """

    first: AtMostK | NofM
    second: AtMostK | ChannelK | Levels

    def project(self, v: Array) -> Array:
        """Return the nearest point of the intersection."""
        self._require_exact(np.ndim(v))
        return self.second.project(self.first.project(v))

    def contains(self, z: Array) -> bool:
        """Return whether both sets contain z."""
        self._require_exact(np.ndim(z))
        return self.first.contains(z) and self.second.contains(z)

    def _require_exact(self, rank: int) -> None:
        match self.first, self.second:
            case NofM(), AtMostK():
                exact = True
            case NofM(axis=axis), ChannelK(axes=axes):
                exact = axis % rank not in {a % rank for a in axes}
            case NofM(axis=axis), Levels(zero=True, axis=scales):
                exact = scales is None or axis % rank != scales % rank
            case AtMostK(), Levels(zero=True, axis=None):
                exact = True
            case _:
                exact = False
        if not exact:
            raise ValueError(f"no exact projection on both {self.first} and {self.second}")
