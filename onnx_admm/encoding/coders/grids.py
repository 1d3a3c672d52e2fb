"""Grids that a weight's values lie on, found from the values alone."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_LARGEST_CODE, _LARGEST_FINE_CODE = 127, 2047
_PIECE = 1 << 20
_FIRST = 8
"""Values of a row that exclude most scales before all values are checked."""

_LIKELY = 4
"""Multiples of the scale, 1 up to this, that the least magnitude of a row most often is."""

_AT_ONCE = 1 << 18
"""Products of scales and values that are checked at once: they stay in the processor's cache."""

_MOST_REMEMBERED, _LEAST_REMEMBERED = 512, 4096


@dataclass(frozen=True)
class Grid:
    """Integer codes c, \\|c\\| <= 127 or 2,047, and positive scales s with ``values == c * s`` in fp32.

    Attributes:
        codes: int8 or wider, in the weight's shape (flat for one scale).
        scale: a scalar, or of a shape that broadcasts over one axis.
    """

    codes: npt.NDArray[np.signedinteger[Any]]
    scale: npt.NDArray[np.float32]

    @cached_property
    def levels(self) -> npt.NDArray[np.float32]:
        """The distinct nonzero codes, rising."""
        return np.unique(self.codes[self.codes != 0]).astype(np.float32)

    @property
    def code_bits(self) -> int:
        """Bits of the largest magnitude."""
        return int(np.max(np.abs(self.codes), initial=0)).bit_length()


def tensor_grid(values: Floats, levels: Floats) -> Grid | None:
    """Return the coarsest grid of one scale that holds every value exactly, or None."""
    scale = _row_scales(levels.reshape(1, -1), _LARGEST_CODE) if len(levels) else None
    if scale is None:
        return None
    return Grid(np.rint(values / scale).astype(np.int8), scale.reshape(()))


_remembered: OrderedDict[bytes, Array | None] = OrderedDict()
"""Scales by content, of the latest weights: forms are tried on copies of one model."""


def channel_grid(values: Array) -> Grid | None:
    """Return a grid as ``tensor_grid`` does, with a scale for each index of an axis; narrow codes first."""
    if values.size < _LEAST_REMEMBERED:
        return _search_channel_grid(values)
    key = hashlib.blake2b(f"{values.shape} {values.dtype}".encode(), digest_size=20)
    key.update(np.ascontiguousarray(values).view(np.uint8).data)
    content = key.digest()
    if content not in _remembered:
        found = _search_channel_grid(values)
        _remembered[content] = None if found is None else found.scale
        if len(_remembered) > _MOST_REMEMBERED:
            _remembered.popitem(last=False)
        return found
    _remembered.move_to_end(content)
    scale = _remembered[content]
    return None if scale is None else on_scales(values.astype(np.float32, copy=False), scale)


def fine_grid(dense: Floats) -> Grid | None:
    """Return the codes of up to 12 bits, a scale for each index of an axis; None where there are none."""
    axes = (axis for axis, extent in enumerate(dense.shape) if extent < dense.size)
    for axis in sorted(axes, key=lambda axis: dense.shape[axis]):
        scale = _axis_scales(dense, axis, _LARGEST_FINE_CODE)
        if scale is not None:
            return Grid(np.rint(dense / scale).astype(np.int16), scale)
    return None


def on_scales(dense: Floats, scale: Floats) -> Grid:
    """Return the grid of known scales that the values lie on, with codes of 8 bits."""
    codes = np.empty(dense.shape, np.int8)
    for start in range(0, len(dense), step := max(1, _PIECE * len(dense) // max(1, dense.size))):
        part = slice(start, start + step)
        codes[part] = np.rint(dense[part] / (scale[part] if len(scale) > 1 else scale))
    return Grid(codes, scale)


def _search_channel_grid(values: Array) -> Grid | None:
    dense = values.astype(np.float32, copy=False)
    axes = [axis for axis, extent in enumerate(dense.shape) if 1 < extent < dense.size]
    scales = [_axis_scales(dense, axis, _LARGEST_CODE) for axis in axes]
    grids = [on_scales(dense, scale) for scale in scales if scale is not None]
    return min(grids, key=lambda grid: (grid.code_bits, grid.scale.size), default=None)


def _axis_scales(dense: Floats, axis: int, largest: int) -> Floats | None:
    """Return scales of a shape that broadcasts over the axis; None where an index of it has none."""
    scales = _row_scales(np.moveaxis(dense, axis, 0), largest)
    shape = [1] * dense.ndim
    shape[axis] = -1
    return None if scales is None else scales.reshape(shape)


def _row_scales(rows: Floats, largest: int) -> Floats | None:
    """Return the largest scale at each index of the first axis of which the values are multiples, in fp32.

    The multiples are at most ``largest``. Zeros alone have scale 1. None where some values have no scale. The
    least magnitude is a small multiple as a rule, so these are tried first.
    """
    scales = np.ones(len(rows), np.float32)
    multiples = np.arange(1, largest + 1, dtype=np.float32)
    step = max(1, _AT_ONCE // max(3 * largest * _FIRST, rows[:1].size))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        part = part.reshape(len(part), -1)
        magnitudes = np.abs(part)
        most = magnitudes.max(axis=1, initial=0)
        if not np.all(np.isfinite(most)):
            return None
        magnitudes[magnitudes == 0] = np.inf
        least = magnitudes.min(axis=1, initial=np.inf)
        left = np.flatnonzero(most > 0)
        for some in (multiples[:_LIKELY], multiples[_LIKELY:]):
            found = _some_scales(part[left], least[left], most[left], some, largest)
            scales[start + left] = found
            left = left[found == 0]
        if len(left):
            return None
    return scales


def _some_scales(rows: Floats, least: Floats, most: Floats, multiples: Floats, largest: int) -> Floats:
    """Return a scale for each row, the first that holds of ``least / multiples``; 0 where none does.

    Where a product was rounded, a value divided by its code may miss the scale by a last digit: the
    neighbours of each quotient are tried too.
    """
    quotients = least[:, None] / multiples
    beside = (quotients, np.nextafter(quotients, np.float32(np.inf)), np.nextafter(quotients, np.float32(0)))
    tried = np.stack(beside, axis=2).reshape(len(rows), 3 * len(multiples))
    may = (tried > 0) & (most[:, None] <= tried * np.float32(largest + 0.5))
    few = rows[:, :: max(1, rows.shape[1] // _FIRST)][:, None]
    may &= _are_multiples(few, np.where(may, tried, np.float32(1))[..., None])
    found = [
        next((scale for scale in row_tried[row_may] if _are_multiples(row, scale)), np.float32(0))
        for row, row_tried, row_may in zip(rows, tried, may, strict=True)
    ]
    return np.array(found, np.float32)


def _are_multiples(values: Floats, scales: Any) -> Any:
    return np.all(np.rint(values / scales) * scales == values, axis=-1)
