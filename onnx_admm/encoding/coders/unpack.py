"""From one decoded row to the weights: split, scale, reshape, cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.model.rewrite.fragment import Fragment

Array = npt.NDArray[Any]

FLOAT = 1
"""TensorProto.FLOAT, as Cast's ``to``."""
INT32 = 6
INT64 = 7
CAST_TO = {"float32": FLOAT, "float16": 10, "float64": 11, "int8": 3}


@dataclass(frozen=True)
class EncodedTensor:
    """A weight as one decoder sees it: ``weight = units * scale``.

    Attributes:
        weight: the weight to store.
        units: the decoded values, in a row; fp32.
        scale: a scalar, or of a shape that broadcasts over one axis; None where it is 1.
    """

    weight: Weight
    units: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32] | None = None


def full_member(member: EncodedTensor) -> EncodedTensor | None:
    """Return the member without zeros among its units; None where zeros share slices with other values.

    A slice of zeros may have any units, since its scale is 0, so that zero needs no level of its own.
    """
    kept = np.count_nonzero(member.units)
    if kept == len(member.units):
        return member
    if kept == 0 or member.scale is None or member.scale.size == 1:
        return None
    units = member.units.reshape(member.weight.shape)
    axes = tuple(axis for axis in range(units.ndim) if member.scale.shape[axis] == 1)
    empty = ~units.any(axis=axes, keepdims=True)
    if kept + np.count_nonzero(empty) * (units.size // empty.size) < units.size:
        return None
    scale = np.where(empty, np.float32(0), member.scale)
    return EncodedTensor(member.weight, np.where(empty, units.max(), units).reshape(-1), scale)


def unpack(
    fragment: Fragment,
    row: str,
    members: Sequence[EncodedTensor],
    lengths: Sequence[int],
    *,
    dtype: npt.DTypeLike = np.float32,
) -> dict[str, str]:
    """Split ``row`` into the members and parts before and behind them; return value names by weight name.

    Args:
        fragment: receives the nodes.
        row: name of the decoded values; its first axis is split.
        dtype: their type: fp32, fp16 or int8. They keep it as long as possible.
        members: members in their order in the row.
        lengths: lengths of all pieces along that axis: the members last except padding, which has no member.

    Returns:
        Value names by weight name.
    """
    pieces = split_outputs(fragment, row, lengths)
    return {
        member.weight.name: _finish(fragment, piece, member, np.dtype(dtype))
        for member, piece in zip(members, pieces, strict=False)
    }


def split_outputs(fragment: Fragment, row: str, lengths: Sequence[int]) -> tuple[str, ...]:
    """Split along the first axis (lengths: an attribute below opset 13, an input from there on)."""
    if len(lengths) == 1:
        return (row,)
    if fragment.opset < 13:
        return fragment.add_many("Split", [row], len(lengths), split=tuple(lengths))
    return fragment.add_many("Split", [row, fragment.constant(lengths, np.int64)], len(lengths))


def flatten(fragment: Fragment, value: str, length: int) -> str:
    """Reshape to ``length`` elements in a row (the number takes fewer bytes than -1)."""
    return fragment.add("Reshape", value, fragment.constant([length], np.int64))


def to_type(fragment: Fragment, value: str, dtype: npt.DTypeLike, given: npt.DTypeLike = np.float32) -> str:
    """Cast from a given type to the weight's own type, if it is another."""
    name = np.dtype(dtype).name
    return value if name == np.dtype(given).name else fragment.add("Cast", value, to=CAST_TO[name])


def scattered(fragment: Fragment, length: int, where: str, values: str, dtype: npt.DTypeLike) -> str:
    """Append a row of zeros of that type with values inserted; return its name."""
    extent = fragment.constant([length], np.int64)
    if np.dtype(dtype) == np.float32:
        zeros = fragment.add("ConstantOfShape", extent)
    else:
        zeros = fragment.add("Expand", fragment.constant([0], dtype), extent)
    return fragment.add("ScatterElements", zeros, where, values)


def narrowest(values: Array) -> Array:
    """Return the values as int8 or fp16 where that type represents each of them; else unchanged."""
    integers: Array = np.rint(np.clip(values, -127, 127)).astype(np.int8)
    if np.array_equal(integers, values):
        return integers
    narrow: Array = values.astype(np.float16 if holds_half(values) else values.dtype)
    return narrow


def _finish(fragment: Fragment, piece: str, member: EncodedTensor, dtype: np.dtype[Any]) -> str:
    shape, scale = member.weight.shape, member.scale
    if len(shape) != 1:
        piece = fragment.add("Reshape", piece, fragment.constant(shape, np.int64))
    if scale is None:
        return to_type(fragment, piece, member.weight.dtype, dtype)
    piece = to_type(fragment, piece, np.float32, dtype)
    factor = fragment.constant(scale) if scale.ndim == 0 else stored_floats(fragment, scale)
    return to_type(fragment, fragment.add("Mul", piece, factor), member.weight.dtype)


def holds_half(values: Array) -> bool:
    """Return whether fp16 represents every value."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(values.dtype), values))


def stored_floats(fragment: Fragment, values: npt.NDArray[np.float32]) -> str:
    """Store fp32 values as such, or as fp16 and a Cast where that is exact and smaller; return the name."""
    if holds_half(values):
        as_half, plain = Fragment(fragment.opset), Fragment(fragment.opset)
        as_half.add("Cast", as_half.constant(values, np.float16), to=FLOAT)
        plain.constant(values)
        if as_half.file_bytes < plain.file_bytes:
            return fragment.add("Cast", fragment.constant(values, np.float16), to=FLOAT)
    return fragment.constant(values)
