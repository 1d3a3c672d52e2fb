"""Large weights on a byte grid: encoded one at a time, without a look at the rest of the model.

What makes few or few-valued weights smaller (decoders that layers share, digits, gaps) is not for these: a
weight of many levels, most of them in use, takes a byte an element in every form, and beside that everything
else is small. So there is nothing to compare, and one weight at a time is all that is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Array, ModelView
from onnx_admm.encoding.accounting import packed_bytes
from onnx_admm.encoding.codebook import Grid, Weight
from onnx_admm.encoding.contents import LARGE
from onnx_admm.encoding.outcome import Row, stored_row
from onnx_admm.model.builder import insert_fragment
from onnx_admm.model.fragment import Fragment
from onnx_admm.model.held import settle

_PIECE = 1 << 20


@dataclass(frozen=True)
class EncodedLarge:
    """Rows of the weights, bytes of the constants that decode them, oldest opset that can."""

    rows: tuple[Row, ...] = ()
    content_bytes: int = 0
    oldest_opset: int = 1


@dataclass(frozen=True)
class _OnGrid:
    """The values of a grid (``codebook.Stored``)."""

    codes: Array
    scale: Array
    dtype: np.dtype[np.generic]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def read(self) -> Array:
        return np.multiply(self.codes, self.scale, dtype=np.float32).astype(self.dtype, copy=False)

    def grid(self) -> Grid:
        return Grid(self.codes, self.scale)


Emit = Callable[[Fragment, Weight], tuple[str, str]]
"""Appends the decoder of one weight: the name of what it computes, and of the coding."""


def encode_large(view: ModelView, weights: Iterable[Weight], emit: Emit) -> EncodedLarge:
    """Encode the large ones of the weights for which there is no smaller form than a byte an element.

    Args:
        view: the model.
        weights: of its main graph.
        emit: appends the decoder of a weight.
    """
    rows, content, opset = list[Row](), 0, 1
    for weight in weights:
        on_bytes = _on_bytes(weight) if weight.size >= LARGE else None
        if on_bytes is not None:
            fragment = Fragment(view.opset)
            output, coding = emit(fragment, on_bytes)
            insert_fragment(view, fragment, {weight.name: output})
            settle(view)
            rows.append(stored_row(on_bytes, coding, 8))
            content += fragment.content_bytes
            opset = max(opset, fragment.oldest_opset)
    return EncodedLarge(tuple(rows), content, opset)


def _on_bytes(weight: Weight) -> Weight | None:
    """The weight on its grid, if it lies on one of so many levels that no other form is smaller."""
    grid = (weight.grid or weight.channel_grid) if weight.is_exact else None
    if grid is None:
        return None
    codes = grid.codes.astype(np.int8, copy=False).reshape(weight.shape)
    used = np.zeros(256, np.bool_)
    for part in np.array_split(codes.reshape(-1).view(np.uint8), -(-codes.size // _PIECE)):
        used[part] = True
    if packed_bytes(weight.size, int(np.count_nonzero(codes)), int(used[1:].sum())) < weight.size:
        return None
    return Weight(weight.name, _OnGrid(*_coarsest(codes, grid.scale), weight.dtype))


def _coarsest(codes: Array, scale: Array) -> tuple[Array, Array]:
    """The same values with the coarsest scales: those that would be found from the values."""
    axes = tuple(axis for axis in range(codes.ndim) if scale.ndim == 0 or scale.shape[axis] == 1)
    has_one = (np.abs(codes) == 1).any(axis=axes, keepdims=True)
    if has_one.all():
        return codes, scale
    factors = np.where(has_one, 1, np.gcd.reduce(codes, axis=axes, keepdims=True)).astype(np.int8)
    divisors = np.maximum(factors, np.int8(1))
    coarser = np.where(factors == 0, np.float32(1), scale * divisors).astype(np.float32)
    return codes // divisors, coarser.reshape(scale.shape)
