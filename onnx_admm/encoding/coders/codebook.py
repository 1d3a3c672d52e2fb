"""Values of a layer's weights: their levels and grids, found from the values alone and kept."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from onnx_admm.encoding.coders.grids import Grid, channel_grid, fine_grid, on_scales, tensor_grid

Array = npt.NDArray[Any]

MOST_LEVELS = 256
_LEAST_FINE = 64
"""Least elements of a fine grid: fewer values lie on some fine grid by chance, and it saves nothing."""

_SAMPLE = 1 << 14
_PIECE = 1 << 20
_SHORT = 1 << 14
"""Elements up to which one sort finds the distinct values."""


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
            return None if known is None else on_scales(self.values.astype(np.float32, copy=False), known)
        found = channel_grid(self.values)
        memo[_SCALES] = None if found is None else found.scale
        return found

    @property
    @_kept
    def fine_grid(self) -> Grid | None:
        """Grid of codes up to 2,047, a scale for each index of some axis, where needed; else None."""
        if self.stored_grid is not None or self.size < _LEAST_FINE:
            return None
        return fine_grid(self.values.astype(np.float32, copy=False))

    @property
    def stored_grid(self) -> Grid | None:
        """The grid that the model holds it on; None where only its values tell."""
        return None if isinstance(self.source, np.ndarray) else self.source.grid()


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
