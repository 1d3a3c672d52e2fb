"""Small vectors (biases) of several layers, stored as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.unpack import FLOAT
from onnx_admm.model.rewrite.fragment import Fragment

BiasType = Literal["int8", "float8", "float16"]

FLOAT8_SINCE = 19
"""Opset from which Cast reads float8."""

_DTYPES: dict[BiasType, np.dtype[np.generic]] = {
    "int8": np.dtype(np.int8),
    "float8": np.dtype(ml_dtypes.float8_e4m3fn),
    "float16": np.dtype(np.float16),
}
_MOST_BYTE_CODE = 127
_SCALE_BITS = 11


@dataclass(frozen=True)
class VectorCoder:
    """One row of bytes with a common scale, or of small floats.

    Attributes:
        stored: type of the row; float8 is e4m3fn (3 bits of mantissa, up to 448).
        scale: scale of bytes; floats have none, which saves a node.
    """

    stored: BiasType
    scale: np.float32 | None = None

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return 8 * _DTYPES[self.stored].itemsize

    @property
    def label(self) -> str:
        """Name in reports."""
        return f"pooled {self.stored}"

    def emit(self, fragment: Fragment, vectors: Sequence[Weight]) -> str:
        """Append the decoder; return the name of the row of fp32 values, vector after vector."""
        row = np.concatenate([vector.flat for vector in vectors])
        units = row if self.scale is None else np.rint(row / self.scale)
        floats = fragment.add("Cast", fragment.constant(units.astype(_DTYPES[self.stored])), to=FLOAT)
        return floats if self.scale is None else fragment.add("Mul", floats, fragment.constant(self.scale))


def exact_vector_coders(vectors: Sequence[Weight], opset: int) -> tuple[VectorCoder, ...]:
    """Return every coder that represents the fp32 vectors exactly."""
    row = Weight("", np.concatenate([vector.flat for vector in vectors]))
    coders = [] if row.grid is None else [VectorCoder("int8", np.float32(row.grid.scale))]
    floats: tuple[BiasType, ...] = ("float8", "float16") if opset >= FLOAT8_SINCE else ("float16",)
    coders += [VectorCoder(kind) for kind in floats if np.array_equal(_cast(row, kind), row.flat)]
    return tuple(coders)


def round_vectors(vectors: Sequence[Weight], stored: BiasType) -> tuple[Weight, ...]:
    """Return the vectors rounded to what a row of that type holds.

    int8: ``c s``, \\|c\\| <= 127, one scale of 11 significant bits for all: errors up to ``max|b| / 254``.
    float8, float16: errors up to 1/16 and 1/2048 of each number; a vector with numbers too large stays.
    """
    if stored != "int8":
        return tuple(_rounded(vector, stored) for vector in vectors)
    largest = max((float(np.max(np.abs(v.flat), initial=0.0)) for v in vectors), default=0.0)
    if largest == 0.0:
        return tuple(vectors)
    scale = _round_up(largest / _MOST_BYTE_CODE)
    return tuple(Weight(v.name, np.rint(v.values / scale).astype(np.float32) * scale) for v in vectors)


def _rounded(vector: Weight, stored: BiasType) -> Weight:
    values = _cast(vector, stored).reshape(vector.shape)
    return Weight(vector.name, values) if np.isfinite(values).all() else vector


def _cast(vector: Weight, stored: BiasType) -> npt.NDArray[np.float32]:
    """Return the values converted to the row's type and back; infinite or NaN where they are too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        return vector.flat.astype(_DTYPES[stored]).astype(np.float32)


def _round_up(value: float) -> np.float32:
    """Return the next number of 11 significant bits, so that products with bytes are exact in fp32."""
    mantissa, exponent = np.frexp(value)
    steps = np.ceil(mantissa * (1 << _SCALE_BITS))
    return np.float32(np.ldexp(steps, int(exponent) - _SCALE_BITS))
