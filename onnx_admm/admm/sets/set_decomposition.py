"""Decomposition of a constraint set: a set on the support and a set of levels.

Every set of this package constrains the support, the values, or both, and each part is solved in its own way.
A set on the support alone is invariant under rescaling of entries: its projection is exact in any diagonal
metric. Sets of levels are not, but once their scales are fixed each entry has a grid of its own, and the
nearest level is the nearest in every diagonal metric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.sets.levels import Levels, SparseLevels, SupportLevels
from onnx_admm.admm.sets.nested import Nested
from onnx_admm.admm.sets.reshaped import Reshaped
from onnx_admm.admm.sets.shifted import ShiftedLevels
from onnx_admm.admm.sets.supports import AtMostK, BlockK, ChannelK, ConstraintSet, NofM, Support

LevelSet = Levels | ShiftedLevels | SparseLevels | SupportLevels
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SetDecomposition:
    """The two parts of a set.

    Attributes:
        support: a set on the support alone; None where the support is free.
        levels: a set of levels; None where values are free.
        shape: shape in which both see the matrix; None for its own.
    """

    support: ConstraintSet | None = None
    levels: LevelSet | None = None
    shape: tuple[int, ...] | None = None


def decompose(constraint: ConstraintSet) -> SetDecomposition | None:
    """Decompose a set; None for an unknown set, of which only the projection is known."""
    match constraint:
        case Reshaped(inner, shape):
            inside = decompose(inner)
            return inside and replace(inside, shape=inside.shape or shape)
        case AtMostK() | NofM() | BlockK() | ChannelK() | Support():
            return SetDecomposition(support=constraint)
        case Nested(first, Levels() as levels):
            return SetDecomposition(support=first, levels=levels)
        case Nested():
            return SetDecomposition(support=constraint)
        case SparseLevels(k=k):
            return SetDecomposition(support=AtMostK(k), levels=constraint)
        case SupportLevels(mask=mask):
            return SetDecomposition(support=Support(mask), levels=constraint)
        case Levels() | ShiftedLevels():
            return SetDecomposition(levels=constraint)
        case _:
            return None


def exchange_groups_of(support: ConstraintSet | None, shape: tuple[int, ...]) -> Ints | None:
    """Return labels, equal for entries that may replace one another; None where no two may.

    Args:
        support: a set on the support alone.
        shape: shape of the tensors.
    """
    match support:
        case AtMostK():
            return np.zeros(shape, np.int64)
        case NofM(m=m, axis=axis):
            lanes = np.moveaxis(np.arange(int(np.prod(shape))).reshape(shape), axis, -1)
            firsts = lanes[..., np.arange(lanes.shape[-1]) // m * m]
            return np.moveaxis(firsts, -1, axis)
        case Nested(first=first):
            return exchange_groups_of(first, shape)
        case _:
            return None
