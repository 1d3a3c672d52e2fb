"""Labels of channels: positions along axes that can only be removed together have one label."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Axis: TypeAlias = npt.NDArray[np.int64]
"""Labels of the positions along one axis of a value, (extent,)."""

Axes: TypeAlias = tuple[Axis | None, ...]
"""Labels of each axis of a value; None where no position can be removed."""


_FIRST_ROOM = 1 << 10


class Labels:
    """Disjoint sets of labels; a set with a reason cannot be removed."""

    def __init__(self) -> None:
        self._room: Axis = np.zeros(_FIRST_ROOM, np.int64)
        self._count = 0
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        """Return the number of labels."""
        return self._count

    @property
    def _parents(self) -> Axis:
        return self._room[: self._count]

    def fresh(self, count: int) -> Axis | None:
        """Return ``count`` new labels; None for an axis of one position or none, which always stays."""
        if count < 2:
            return None
        made = np.arange(self._count, self._count + count)
        self._count += count
        if self._count > len(self._room):
            self._room = np.resize(self._room, 2 * self._count)
        self._room[made] = made
        return made

    def roots(self, axis: npt.NDArray[Any]) -> Axis:
        """Return the representative of each label's set, of the shape of ``axis``."""
        found = axis
        while True:
            above: Axis = self._parents[found]
            if np.array_equal(above, found):
                return above
            found = above

    def unite(self, one: Axis, other: Axis) -> None:
        """Unite the sets of labels at equal positions of two arrays of one shape."""
        first, second = self.roots(one), self.roots(other)
        pairs = np.unique(np.stack([first.ravel(), second.ravel()], axis=1), axis=0)
        for a, b in pairs[pairs[:, 0] != pairs[:, 1]]:
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def unite_rows(self, labels: Axis) -> Axis:
        """Unite all rows of (rows, n) position by position; return one row, (n,)."""
        first: Axis = labels[0]
        for row in labels[1:]:
            self.unite(first, row)
        return first

    def block(self, axis: Axis | None, reason: str) -> None:
        """Record the reason why these labels must stay; the first reason of a label is kept."""
        for label in () if axis is None else np.unique(axis).tolist():
            self._reasons.setdefault(label, reason)

    def reasons(self) -> dict[int, str]:
        """Return the first reason of each set that must stay, by its representative."""
        found: dict[int, str] = {}
        for label, reason in self._reasons.items():
            found.setdefault(self._root(label), reason)
        return found

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = int(self._parents[label])
        return label
