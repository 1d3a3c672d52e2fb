"""Encodes large weights one at a time, independent of the rest of the model.

A decoder costs some hundred bytes, and a weight that takes a hundred times more gains nothing from a shared
one. So no plans are compared, and only one weight is in memory at a time; it has its own Rice parameter, and
where one scale is enough its codebook contains the values themselves, which saves the runtime a
multiplication of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_admm.contracts import Array, ModelView
from onnx_admm.encoding.coders.accounting import GAPS_MUST_SAVE, packed_bytes
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.dense_coder import WORD_BITS, DenseCoder
from onnx_admm.encoding.coders.encoding_report import TensorEncoding, stored_row
from onnx_admm.encoding.coders.fine_coder import fine_coder
from onnx_admm.encoding.coders.grids import Grid
from onnx_admm.encoding.coders.kept_values_coder import kept_values_coder
from onnx_admm.encoding.coders.large_sparse_coder import MOST_ELEMENTS, LargeSparseCoder, best_low_bits
from onnx_admm.encoding.coders.per_tensor_coder import ByteCoder
from onnx_admm.encoding.coders.unpack import EncodedTensor, full_member
from onnx_admm.encoding.contents import LARGE
from onnx_admm.model.opsets.convert_opset import raise_opset
from onnx_admm.model.rewrite.fragment import Fragment
from onnx_admm.model.rewrite.insert_fragment import insert_fragment
from onnx_admm.model.rewrite.weight_storage import spill_to_disk

_LEAST_BYTES = 1 << 15
"""Bytes of codes and gaps from which on a decoder of its own is at most two hundredths."""

_FOLDED_BYTES = 1 << 30
"""Largest result of one operator that recent runtimes fold (ONNX Runtime 1.28)."""

_PIECE = 1 << 20

_FEW_LEVELS = 3
"""Number of values up to which steps of scales are not searched: they would hardly be fewer."""


@dataclass(frozen=True)
class EncodedLarge:
    """Result of encoding large weights.

    Attributes:
        rows: report of each.
        content_bytes: bytes of the constants that decode them.
        oldest_opset: oldest opset that can decode them.
        opset_kept: why the model's opset could not be raised where a decoder needs it; None where it could.
    """

    rows: tuple[TensorEncoding, ...] = ()
    content_bytes: int = 0
    oldest_opset: int = 1
    opset_kept: str | None = None


@dataclass(frozen=True)
class _OnGrid:
    """The values of a grid (``codebook.Stored``)."""

    codes: Array
    scale: Array
    dtype: np.dtype[np.generic]
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def read(self) -> Array:
        return np.multiply(self.codes, self.scale, dtype=np.float32).astype(self.dtype, copy=False)

    def grid(self) -> Grid:
        return Grid(self.codes, self.scale)


@dataclass(frozen=True)
class Alone:
    """A form of one weight.

    Attributes:
        row: its report.
        emit: appends its decoder; returns the name of the weight.
        has_gaps: whether kept weights are scattered to their positions: it takes a runtime several times as
            long as decoding digits, and more memory.
        lookups: number of look-ups that decode it; of two forms of as many bits, the one of fewer loads
            faster.
    """

    row: TensorEncoding
    emit: Callable[[Fragment], str]
    has_gaps: bool = False
    lookups: int = 0

    @property
    def bits(self) -> int:
        """Bits of codes and index."""
        return self.row.data_bits + self.row.index_bits

    @property
    def price(self) -> float:
        """Bits, with a penalty for slow loading."""
        return self.bits * (GAPS_MUST_SAVE if self.has_gaps else 1)


def encode_large(
    view: ModelView, weights: Iterable[Weight], choose: Callable[[Weight], Alone | None]
) -> EncodedLarge:
    """Encode the large weights that have a form by themselves.

    Args:
        view: the model; its opset is raised as far as a decoder needs. A weight is left where it cannot be.
        weights: weights of its main graph.
        choose: returns the form of a large weight; None leaves it.
    """
    rows, content, opset, why = list[TensorEncoding](), 0, 1, None
    for weight in weights:
        form = choose(weight) if weight.size >= LARGE else None
        if form is not None:
            fragment = Fragment(view.opset)
            output = form.emit(fragment)
            kept = raise_opset(view, fragment.oldest_opset)
            if kept is not None:
                why = kept
                continue
            fragment.opset = view.opset
            insert_fragment(view, fragment, {weight.name: output})
            spill_to_disk(view)
            rows.append(form.row)
            content += fragment.content_bytes
            opset = max(opset, fragment.oldest_opset)
    return EncodedLarge(tuple(rows), content, opset, why)


# -- forms -----------------------------------------------------------------------------------


def packed_alone(weight: Weight) -> Alone | None:
    """Return the smallest packed form of a large weight; None where it has none or is small in the file."""
    on_bytes = on_byte_grid(weight)
    if on_bytes is not None:
        row = stored_row(on_bytes, ByteCoder.label, ByteCoder.bits)
        return Alone(row, lambda fragment: ByteCoder().emit(fragment, on_bytes))
    members = list(_by_levels(weight)) if weight.is_exact and weight.size <= MOST_ELEMENTS else []
    forms = [form for member in members for form in _forms(member)] if members else _kept_values(weight)
    best = min(forms, key=lambda form: (form.price, form.lookups), default=None)
    return best if best is not None and 8 * _LEAST_BYTES <= best.bits < 8 * weight.nbytes else None


def _by_levels(weight: Weight) -> Iterator[EncodedTensor]:
    """Yield the weight as values, or steps of scales, where these are few.

    A weight of few channels may have few values in total and fewer steps in each channel.
    """
    if weight.stored_grid is None and (levels := weight.levels) is not None:
        if not np.isfinite(levels).all():
            return
        yield EncodedTensor(weight, weight.flat)
        if weight.grid is not None or len(levels) <= _FEW_LEVELS:
            return
    grid = weight.channel_grid
    if grid is not None:
        codes, scale = _coarsest(grid.codes.astype(np.int8, copy=False), grid.scale)
        yield EncodedTensor(weight, codes.reshape(-1).astype(np.float32), scale)


def _forms(member: EncodedTensor) -> Iterator[Alone]:
    """Yield digits of words of each width, and gaps and codes where these may be smaller."""
    kept = member.units[member.units != 0]
    count = len(kept)
    if count == 0:
        return
    levels = np.unique(kept)
    del kept
    full = full_member(member)
    every = levels if full is not None else np.union1d(levels, np.zeros(1, np.float32))
    price = math.inf
    for word_bits in WORD_BITS:
        if len(every) <= 1 << word_bits:
            form = _digits(full or member, count, DenseCoder(tuple(map(float, every)), word_bits))
            price = min(price, form.price)
            yield form
    least_bits = count * LargeSparseCoder(tuple(map(float, levels)), 0).code_bits + count - 1  # a bit a gap
    if least_bits * GAPS_MUST_SAVE < price:
        yield from _gaps(member, levels)


def _gaps(member: EncodedTensor, levels: Array) -> Iterator[Alone]:
    """Yield gaps and codes, unless decoding them takes more memory than runtimes allow."""
    weight, positions = member.weight, np.flatnonzero(member.units)
    low_bits, index_bits = best_low_bits(positions)
    coder, count = LargeSparseCoder(tuple(map(float, levels)), low_bits), len(positions)
    row = TensorEncoding(weight.name, coder.label, weight.size, count, count * coder.code_bits, index_bits)
    if coder.largest_step(count) <= _FOLDED_BYTES:
        yield Alone(row, lambda fragment: coder.emit(fragment, member), has_gaps=True)


def _kept_values(weight: Weight) -> Iterator[Alone]:
    """Yield codes of 10 or 12 bits, and gaps with unchanged values, for more values than a codebook has."""
    fine = fine_coder(weight)
    if fine is not None:
        row = stored_row(weight, fine.label, fine.bits)
        yield Alone(row, lambda fragment: fine.emit(fragment, weight))
    coder = kept_values_coder(weight)
    if coder is not None:
        yield Alone(coder.row(weight), lambda fragment: coder.emit(fragment, weight))


def _digits(member: EncodedTensor, count: int, coder: DenseCoder) -> Alone:
    name, size = member.weight.name, member.weight.size
    data = round(coder.bits * count)
    row = TensorEncoding(name, coder.label, size, count, data, round(coder.bits * size) - data)
    return Alone(row, lambda fragment: coder.emit(fragment, [member])[name], lookups=coder.lookups(size))


def on_byte_grid(weight: Weight) -> Weight | None:
    """Return the weight on its grid, if that has so many levels that no other form is smaller."""
    if weight.dtype == np.int8 or not weight.is_exact or _has_fewer_bits(weight):
        return None
    grid = weight.grid or weight.channel_grid
    if grid is None:
        return None
    codes = grid.codes.astype(np.int8, copy=False).reshape(weight.shape)
    used = np.zeros(256, np.bool_)
    for part in np.array_split(codes.reshape(-1).view(np.uint8), -(-codes.size // _PIECE)):
        used[part] = True
    others = packed_bytes(weight.size, int(np.count_nonzero(codes)), int(used[1:].sum()))
    if others * GAPS_MUST_SAVE < weight.size:
        return None
    return Weight(weight.name, _OnGrid(*_coarsest(codes, grid.scale), weight.dtype))


def _has_fewer_bits(weight: Weight) -> bool:
    """Return whether a weight without a known grid has so few values that bytes would be too large."""
    levels = weight.levels if weight.stored_grid is None else None
    if levels is None:
        return False
    return packed_bytes(weight.size, weight.nonzeros, len(levels)) * GAPS_MUST_SAVE < weight.size


def _coarsest(codes: Array, scale: Array) -> tuple[Array, Array]:
    """Return the same values with the coarsest scales: those that a search on the values would find."""
    axes = tuple(axis for axis in range(codes.ndim) if scale.ndim == 0 or scale.shape[axis] == 1)
    has_one = (np.abs(codes) == 1).any(axis=axes, keepdims=True)
    if has_one.all():
        return codes, scale
    factors = np.where(has_one, 1, np.gcd.reduce(codes, axis=axes, keepdims=True)).astype(np.int8)
    divisors = np.maximum(factors, np.int8(1))
    coarser = np.where(factors == 0, np.float32(1), scale * divisors).astype(np.float32)
    return codes // divisors, coarser.reshape(scale.shape)
