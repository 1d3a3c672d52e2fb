"""Small vectors (biases) of several layers, stored as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.encoding.codebook import Weight
from onnx_admm.encoding.delivery import FLOAT
from onnx_admm.encoding.plain_coder import holds_half
from onnx_admm.model.fragment import Fragment

_MOST_BYTE_CODE = 127
_SCALE_BITS = 11


@dataclass(frozen=True)
class VectorCoder:
    """One row of bytes with a scale, or of half floats.

    Attributes:
        scale: of whole bytes; None for half floats.
    """

    scale: np.float32 | None

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return 16 if self.scale is None else 8

    @property
    def label(self) -> str:
        """How reports call it."""
        return "pooled half floats" if self.scale is None else "pooled bytes"

    def emit(self, fragment: Fragment, vectors: Sequence[Weight]) -> str:
        """Name of the row of fp32 values, one vector behind the other."""
        row = np.concatenate([vector.flat for vector in vectors])
        if self.scale is None:
            return fragment.add("Cast", fragment.constant(row, np.float16), to=FLOAT)
        units = fragment.add("Cast", fragment.constant(np.rint(row / self.scale), np.int8), to=FLOAT)
        return fragment.add("Mul", units, fragment.constant(self.scale, np.float32))


def exact_vector_coder(vectors: Sequence[Weight]) -> VectorCoder | None:
    """The narrowest row that holds the fp32 vectors exactly, or None."""
    row = Weight("", np.concatenate([vector.flat for vector in vectors]))
    if row.grid is not None:
        return VectorCoder(np.float32(row.grid.scale))
    return VectorCoder(None) if holds_half(row.flat) else None


def round_vectors(vectors: Sequence[Weight], bits: int) -> tuple[Weight, ...]:
    """The vectors rounded to what a row of ``bits`` bits holds.

    8 bits: ``c s``, \\|c\\| <= 127, one scale of 11 significant bits for all. 16 bits: fp16; a vector with
    numbers too large for it stays.
    """
    if bits == 16:
        return tuple(map(_round_to_half, vectors))
    largest = max((float(np.max(np.abs(v.flat), initial=0.0)) for v in vectors), default=0.0)
    if largest == 0.0:
        return tuple(vectors)
    scale = _round_up(largest / _MOST_BYTE_CODE)
    return tuple(Weight(v.name, np.rint(v.values / scale).astype(np.float32) * scale) for v in vectors)


def _round_to_half(vector: Weight) -> Weight:
    with np.errstate(over="ignore"):
        half = vector.values.astype(np.float16).astype(np.float32)
    return Weight(vector.name, half) if np.isfinite(half).all() else vector


def _round_up(value: float) -> np.float32:
    """The next number of 11 significant bits, so that products with bytes are exact in fp32."""
    mantissa, exponent = np.frexp(value)
    steps = np.ceil(mantissa * (1 << _SCALE_BITS))
    return np.float32(np.ldexp(steps, int(exponent) - _SCALE_BITS))
