"""Constraint sets over several named tensors at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import frexp, ldexp
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.sets.supports import Blocks, ConstraintSet, keep, largest, require_count, require_finite


class JointSet(Protocol):
    """A closed set of named tensors that is easy to project on."""

    def project(self, blocks: Blocks) -> Blocks:
        """Return a nearest point: some ``argmin_z sum_l ||z_l - v_l||^2`` subject to ``z`` in the set."""

    def contains(self, blocks: Blocks) -> bool:
        """Return whether ``blocks`` lies in the set, exactly."""


@dataclass(frozen=True, slots=True, eq=False)
class Separable:
    """One set for each tensor.

    Projection: ``min sum_l ||z_l - v_l||^2  s.t.  z_l in S_l``: each tensor by itself.
    A tensor without a set, or a set without its tensor, is a ``ValueError``.
    """

    sets: Mapping[str, ConstraintSet]

    def project(self, blocks: Blocks) -> Blocks:
        """Project each tensor on its own set."""
        _require_names(self.sets, blocks)
        return {name: self.sets[name].project(v) for name, v in blocks.items()}

    def contains(self, blocks: Blocks) -> bool:
        """Return whether each tensor lies in its own set."""
        _require_names(self.sets, blocks)
        return all(self.sets[name].contains(z) for name, z in blocks.items())


@dataclass(frozen=True, slots=True, eq=False)
class GlobalAtMostK:
    """At most ``k`` nonzeros over all tensors together.

    Projection: ``min sum_l s_l^2 ||z_l - v_l||^2  s.t.  sum_l nnz(z_l) <= k``: the k largest
    ``s_l |v_l|`` stay. Ties go to the earlier tensor, then to the lower flat index.

    Args:
        k: nonzeros that stay.
        weights: ``s_l > 0`` by name, 1 where not given: how much a unit of error in that tensor counts.
    """

    k: int
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_count(self.k, "k")
        for name, weight in self.weights.items():
            if not (np.isfinite(weight) and weight > 0):
                raise ValueError(f"the weight of {name} must be positive and finite, got {weight}")

    def project(self, blocks: Blocks) -> Blocks:
        """Keep the k largest weighted magnitudes."""
        if unknown := set(self.weights) - set(blocks):
            raise ValueError(f"weights for tensors that are not there: {', '.join(sorted(unknown))}")
        finite = {name: require_finite(v) for name, v in blocks.items()}
        weights = [self.weights.get(name, 1.0) for name in finite]
        exponent = frexp(max(weights, default=1.0))[1]  # a common power of two is left out: nothing overflows
        scores = [
            np.abs(v).astype(np.float64).reshape(-1) * ldexp(weight, -exponent)
            for v, weight in zip(finite.values(), weights, strict=True)
        ]
        chosen = largest(np.concatenate([np.empty(0), *scores]), self.k)
        ends = np.cumsum([v.size for v in finite.values()])
        return {
            name: keep(v, mask.reshape(v.shape))
            for (name, v), mask in zip(finite.items(), np.split(chosen, ends)[:-1], strict=True)
        }

    def contains(self, blocks: Blocks) -> bool:
        """Return whether the nonzeros of all tensors add up to at most k."""
        return sum(int(np.count_nonzero(z)) for z in blocks.values()) <= self.k


@dataclass(frozen=True, slots=True)
class TiedChannels:
    """Tensors that share channels.

    Attributes:
        channels: number of channels.
        axes: the axis that numbers them, by tensor.
    """

    channels: int
    axes: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class JointChannels:
    """At most so many channels with a nonzero in any tensor, for each group of tensors that share channels.

    Projection: ``min sum_l s_l^2 ||z_l - v_l||^2  s.t.  z_l = 0 outside the channels that its group keeps``:
    the k channels of largest weighted norm over the tensors of the group stay. Ties go to the lower number.

    Args:
        groups: tensors with the channels they share; each tensor in one group.
        kept: channels that stay, by group.
        weights: ``s_l > 0`` by name, 1 where not given.
    """

    groups: Sequence[TiedChannels]
    kept: Sequence[int]
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.groups) != len(self.kept):
            raise ValueError(f"{len(self.groups)} groups of channels and {len(self.kept)} counts")
        for count in self.kept:
            require_count(count, "kept")

    def project(self, blocks: Blocks) -> Blocks:
        """Keep the channels of largest joint norm."""
        _require_names([name for group in self.groups for name in group.axes], blocks)
        found: Blocks = {}
        for group, count in zip(self.groups, self.kept, strict=True):
            rows = {name: _rows(require_finite(blocks[name]), axis) for name, axis in group.axes.items()}
            norms = [np.square(row * self.weights.get(name, 1.0)).sum(axis=1) for name, row in rows.items()]
            chosen = largest(np.sum(norms, axis=0), count)
            for name, axis in group.axes.items():
                v = blocks[name]
                along = chosen.reshape([-1 if i == axis % v.ndim else 1 for i in range(v.ndim)])
                found[name] = keep(v, along)
        return {name: found[name] for name in blocks}

    def contains(self, blocks: Blocks) -> bool:
        """Return whether no group has more channels with a nonzero."""
        for group, count in zip(self.groups, self.kept, strict=True):
            alive = [_rows(blocks[name], axis).any(axis=1) for name, axis in group.axes.items()]
            if np.count_nonzero(np.any(alive, axis=0)) > count:
                return False
        return True


def _rows(v: npt.NDArray[Any], axis: int) -> npt.NDArray[np.float64]:
    """Return a row of each channel."""
    moved = np.moveaxis(v, axis, 0)
    return moved.reshape(len(moved), v.size // max(len(moved), 1)).astype(np.float64)


def _require_names(expected: Iterable[str], blocks: Blocks) -> None:
    if odd := set(expected) ^ set(blocks):
        raise ValueError(f"tensors and sets do not match at: {', '.join(sorted(odd))}")
