"""Reshapes as blocks of axes: consecutive axes of the input that become consecutive axes of the output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """Axes ``first_in`` to ``end_in`` of the input hold the elements of ``first_out`` to ``end_out``."""

    first_in: int
    end_in: int
    first_out: int
    end_out: int

    @property
    def is_same_axis(self) -> bool:
        """Whether one axis stays one axis."""
        return self.end_in - self.first_in == 1 and self.end_out - self.first_out == 1


def blocks_of(before: Sequence[int], after: Sequence[int]) -> list[Block]:
    """Return the smallest blocks of a reshape between two shapes with equally many elements.

    Axes of extent 1 behind a block belong to it.

    Raises:
        ValueError: the shapes have different numbers of elements, or none.
    """
    if math.prod(before) != math.prod(after) or math.prod(before) == 0:
        raise ValueError(f"{tuple(before)} does not become {tuple(after)}")
    return list(_walk(before, after))


def _walk(before: Sequence[int], after: Sequence[int]) -> Iterator[Block]:
    i = j = 0
    while i < len(before) or j < len(after):
        first_in, first_out = i, j
        left = right = 1
        if i < len(before) and j < len(after) and before[i] == after[j]:
            i, j = i + 1, j + 1
        else:
            while left != right or (i == first_in and j == first_out):
                if (left <= right and i < len(before)) or j >= len(after):
                    left, i = left * before[i], i + 1
                else:
                    right, j = right * after[j], j + 1
        yield Block(first_in, i, first_out, j)
