"""Levels of a weight: quantised weights are recognised from their values alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MOST = 256  # levels of a weight that counts as quantised
_SAMPLE = 4096  # elements that show whether there are more


def level_bits(array: Array, out_axis: int | None) -> int | None:
    """Return bits for the distinct nonzero values of a weight, in total or by channel, whichever is less.

    None where they are no levels: more than 256, or hardly one of them twice.
    """
    if array.size == 0:
        return None
    counts = [_most_levels(array.reshape(1, -1))]
    if out_axis is not None:
        counts.append(_most_levels(np.moveaxis(array, out_axis, 0).reshape(array.shape[out_axis], -1)))
    levels = min((count for count in counts if count is not None), default=None)
    return None if levels is None else max(1, math.ceil(math.log2(levels)))


def _most_levels(channels: Array) -> int | None:
    """Return the most distinct nonzero values of a row; None where they are no levels."""
    most = 0
    for channel in channels:
        kept = channel[channel != 0]
        levels = len(np.unique(kept[:_SAMPLE]))
        if levels <= _MOST:
            levels = len(np.unique(kept))
        if levels > _MOST or 2 * levels > len(kept) > 0:
            return None
        most = max(most, levels)
    return most or None
