"""Values of a layer's weights: levels, and the grid they lie on, found from the values alone."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MOST_LEVELS = 256
_LARGEST_CODE, _LARGEST_FINE_CODE = 127, 2047
_LEAST_FINE = 64
"""Least elements of a fine grid: fewer values lie on some fine grid by chance, and it saves nothing."""

_SAMPLE = 1 << 14
_PIECE = 1 << 20
_SHORT = 1 << 14
"""Elements up to which one sort finds the distinct values."""

_FIRST = 8
"""Approximate number of levels that exclude most scales before all levels are checked."""


class Stored(Protocol):
    """An array that is read from its place on each access."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the array."""

    @property
    def memo(self) -> MutableMapping[str, Any]:
        """Notes on its content that are kept with it."""

    def read(self) -> Array:
        """Return the content; it must not be written to."""

    def grid(self) -> Grid | None:
        """Return the grid that it is stored on; None where only the values can tell."""


T = TypeVar("T")

_KEPT_BYTES = 1 << 22
_SCALES, _UNKNOWN = "channel scales", object()


def _bytes(found: object) -> int:
    match found:
        case np.ndarray():
            return found.nbytes
        case Grid():
            return found.codes.nbytes
        case _:
            return 0


def _kept(compute: Callable[[Weight], T]) -> Callable[[Weight], T]:
    """Cache a result for an array in memory; for one that is read on each access, only small results."""

    @wraps(compute)
    def get(weight: Weight) -> T:
        known: dict[str, Any] = weight.__dict__
        if compute.__name__ in known:
            found: T = known[compute.__name__]
            return found
        found = compute(weight)
        if isinstance(weight.source, np.ndarray) or _bytes(found) <= _KEPT_BYTES:
            known[compute.__name__] = found
        return found

    return get


@dataclass(frozen=True)
class Weight:
    """One dense weight to encode.

    Attributes:
        name: name of the stored constant.
        source: its values, in their stored shape and type, or where to read them.
    """

    name: str
    source: Array | Stored = field(repr=False)

    @property
    def values(self) -> Array:
        """Dense values, in their stored shape and type."""
        return self.source if isinstance(self.source, np.ndarray) else self.source.read()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense array."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the dense array."""
        return self.source.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array."""
        return self.size * self.dtype.itemsize

    @property
    @_kept
    def flat(self) -> npt.NDArray[np.float32]:
        """Values in a row, as fp32 (minus zero counts as zero)."""
        return self.values.astype(np.float32, copy=False).reshape(-1) + np.float32(0)

    @property
    @_kept
    def is_exact(self) -> bool:
        """Whether fp32 represents every value."""
        return self.dtype == np.float32 or bool(
            np.all(self.flat.astype(self.dtype) == self.values.reshape(-1))
        )

    @property
    @_kept
    def positions(self) -> npt.NDArray[np.int64]:
        """Flat indices of the nonzeros."""
        return np.flatnonzero(self.flat)

    @property
    @_kept
    def nonzeros(self) -> int:
        """Number of values that are not zero."""
        return int(np.count_nonzero(self.values if self.stored_grid is None else self.stored_grid.codes))

    @property
    @_kept
    def levels(self) -> npt.NDArray[np.float32] | None:
        """The distinct nonzero values, rising; None where there are more than 256."""
        return _few_levels(self.flat)

    @property
    @_kept
    def grid(self) -> Grid | None:
        """Grid of one scale that the values lie on; None where there is none."""
        if self.stored_grid is not None:
            return self.stored_grid if self.stored_grid.scale.size == 1 else None
        levels = self.levels
        return None if levels is None else tensor_grid(self.flat, levels)

    @property
    @_kept
    def channel_grid(self) -> Grid | None:
        """Grid with a scale for each index of some axis that the values lie on; None where there is none."""
        if self.stored_grid is not None:
            return self.stored_grid
        memo = self.__dict__ if isinstance(self.source, np.ndarray) else self.source.memo
        known = memo.get(_SCALES, _UNKNOWN)  # the search for scales is slow, computing codes is not
        if known is not _UNKNOWN:
            return None if known is None else _on_scales(self.values.astype(np.float32, copy=False), known)
        found = channel_grid(self.values)
        memo[_SCALES] = None if found is None else found.scale
        return found

    @property
    @_kept
    def fine_grid(self) -> Grid | None:
        """Grid of codes up to 2,047, a scale for each index of some axis, where needed; else None."""
        if self.stored_grid is not None or self.size < _LEAST_FINE:
            return None
        return _fine_grid(self.values.astype(np.float32, copy=False))

    @property
    def stored_grid(self) -> Grid | None:
        """The grid that the model holds it on; None where only its values tell."""
        return None if isinstance(self.source, np.ndarray) else self.source.grid()


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


def tensor_grid(values: npt.NDArray[np.float32], levels: npt.NDArray[np.float32]) -> Grid | None:
    """Return the coarsest grid of one scale that holds every value exactly, or None."""
    scale = _grid_scale(levels)
    if scale is None:
        return None
    return Grid(np.rint(values / scale).astype(np.int8), np.array(scale, np.float32))


_remembered: OrderedDict[bytes, Array | None] = OrderedDict()
"""Scales by content, of the latest weights: forms are tried on copies of one model."""

_MOST_REMEMBERED, _LEAST_REMEMBERED = 512, 4096


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
    return None if scale is None else _on_scales(values.astype(np.float32, copy=False), scale)


def _search_channel_grid(values: Array) -> Grid | None:
    dense = values.astype(np.float32)
    axes = [axis for axis, extent in enumerate(dense.shape) if 1 < extent < dense.size]
    grids = [grid for axis in axes if (grid := _axis_grid(dense, axis)) is not None]
    return min(grids, key=lambda grid: (grid.code_bits, grid.scale.size), default=None)


def _axis_grid(dense: npt.NDArray[np.float32], axis: int) -> Grid | None:
    scales = []
    for row in np.moveaxis(dense, axis, 0).reshape(dense.shape[axis], -1):
        scale = _row_scale(row)
        if scale is None:
            return None
        scales.append(scale)
    shape = [1] * dense.ndim
    shape[axis] = -1
    return _on_scales(dense, np.array(scales, np.float32).reshape(shape))


def _on_scales(dense: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> Grid:
    codes = np.empty(dense.shape, np.int8)
    for start in range(0, len(dense), step := max(1, _PIECE * len(dense) // max(1, dense.size))):
        part = slice(start, start + step)
        codes[part] = np.rint(dense[part] / (scale[part] if len(scale) > 1 else scale))
    return Grid(codes, scale)


def _fine_grid(dense: npt.NDArray[np.float32]) -> Grid | None:
    """Return the codes of up to 12 bits, a scale for each index of an axis; None where there are none."""
    axes = sorted(
        (axis for axis, extent in enumerate(dense.shape) if extent < dense.size), key=lambda a: dense.shape[a]
    )
    for axis in axes:
        scales = []
        for row in np.moveaxis(dense, axis, 0).reshape(dense.shape[axis], -1):
            levels = np.unique(row[row != 0])
            scale = np.float32(1) if len(levels) == 0 else _grid_scale(levels, _LARGEST_FINE_CODE)
            if scale is None:
                break
            scales.append(scale)
        else:
            shape = [1] * dense.ndim
            shape[axis] = -1
            scale_array = np.array(scales, np.float32).reshape(shape)
            return Grid(np.rint(dense / scale_array).astype(np.int16), scale_array)
    return None


def _row_scale(row: npt.NDArray[np.float32]) -> np.float32 | None:
    levels = _few_levels(row)
    if levels is None:
        return None
    return np.float32(1) if len(levels) == 0 else _grid_scale(levels)


def _few_levels(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    if values.size <= _SHORT:
        distinct = np.unique(values)
        distinct = distinct[distinct != 0]
        return distinct if len(distinct) <= MOST_LEVELS else None
    for sample in (values[: 4 * MOST_LEVELS], values[:: max(1, values.size // _SAMPLE)]):
        if len(np.unique(sample)) > MOST_LEVELS + 1:
            return None
    distinct = values[:0]
    for start in range(0, values.size, _PIECE):
        piece = values[start : start + _PIECE]
        distinct = np.union1d(distinct, piece[piece != 0])
        if len(distinct) > MOST_LEVELS:
            return None
    return distinct


def _grid_scale(levels: npt.NDArray[np.float32], largest: int = _LARGEST_CODE) -> np.float32 | None:
    """Return the largest scale of which every level is a multiple, by at most ``largest``, exactly in fp32.

    Where a product was rounded, a level divided by its code may miss the scale by a last digit: the
    neighbours of each quotient are tried too.
    """
    if len(levels) == 0 or not np.all(np.isfinite(levels)):
        return None
    least, most = np.min(np.abs(levels)), np.max(np.abs(levels))
    quotients = least / np.arange(1, largest + 1, dtype=np.float32)
    beside = (quotients, np.nextafter(quotients, np.float32(np.inf)), np.nextafter(quotients, np.float32(0)))
    scales = np.stack(beside, axis=1).reshape(-1)
    scales = scales[(scales > 0) & (most <= scales * np.float32(largest + 0.5))][:, None]
    for some in (levels[:: max(1, len(levels) // _FIRST)], levels):
        scales = scales[np.all(np.rint(some / scales) * scales == some, axis=1)]
    return np.float32(scales[0, 0]) if len(scales) else None
