"""Ways to make a weight take fewer bytes: half floats, few levels, zeros; what each costs and may spoil.

The numbers of levels are those that the packed form holds without waste: its digits fill words of 8 or 16
bits. How much a treatment spoils is measured elsewhere, by running the model; ``expected_error`` is the guess
that says which are worth running.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.near_scale import near_levels
from onnx_admm.admm.scale import CodeRange
from onnx_admm.admm.sets import largest
from onnx_admm.contracts import Array
from onnx_admm.encoding.accounting import digit_bits, packed_bytes

_SCALE_BITS = 11
"""Those of float16, in which scales are then stored."""

_SCALE_BYTES = 2
_FRAME_BYTES = 80
"""What hands a decoded piece to its layer: cut, shape, product with the scales."""

_CAST_BYTES = 24

_HALF_ERROR = 2.0**-24


@dataclass(frozen=True, slots=True)
class Rounding:
    """What becomes of a weight.

    Attributes:
        codes: magnitudes of the codes, on a scale for each output channel; None: half floats.
        density: share of the weights that stay, the largest; the others become zero.
    """

    codes: CodeRange | None
    density: float = 1.0

    @property
    def levels(self) -> int:
        """Distinct codes of a weight that stays."""
        if self.codes is None:
            return 1 << 16
        magnitudes = (self.codes.highest - self.codes.lowest) // self.codes.stride + 1
        return 2 * magnitudes - (self.codes.lowest == 0)

    def __str__(self) -> str:
        if self.codes is None:
            return "half floats"
        zeros = f", {1 - self.density:.0%} zeros" if self.density < 1 else ""
        return f"{self.levels} levels{zeros}"


HALF = Rounding(None)
DENSE = tuple(
    Rounding(codes)
    for codes in (
        CodeRange(0, 127),
        CodeRange(0, 19),
        CodeRange(1, 15, stride=2),
        CodeRange(0, 4),
        CodeRange(1, 5, stride=2),
        CodeRange(1, 3, stride=2),
        CodeRange(0, 1),
    )
)
"""255, 39, 16, 9, 6, 4 and 3 levels: 8, 5.3, 4, 3.2, 2.7, 2 and 1.6 bits."""

SPARSE = tuple(
    Rounding(CodeRange(1, highest), density)
    for highest in (1, 2, 4)
    for density in (0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03)
)


@dataclass(frozen=True)
class Treated:
    """One weight and what can be done to it.

    Attributes:
        values: dense, finite.
        axis: of the output channels, which have a scale each; None for one scale.
    """

    values: Array = field(repr=False)
    axis: int | None

    def apply(self, rounding: Rounding) -> Array:
        """The weight as it would be; same shape and type."""
        values, codes = self.values, rounding.codes
        if codes is None:
            return values.astype(np.float16).astype(values.dtype)
        mask = largest(np.abs(values), self._kept(rounding)) & (codes.lowest == 0 or values != 0)
        # As many bits as leave the product of code and scale exact in the weight's own type.
        scale_bits = min(_SCALE_BITS, np.finfo(values.dtype).nmant + 1 - codes.highest.bit_length())
        return near_levels(values, mask, codes, self.axis, scale_bits)

    def stored_bytes(self, rounding: Rounding | None) -> float:
        """What it takes in the file, codes, gaps, scales and frame; None: as it is."""
        if rounding is None:
            return float(self.values.nbytes)
        if rounding.codes is None:
            return 2.0 * self.values.size + _CAST_BYTES
        size, channels = self.values.size, 1 if self.axis is None else self.values.shape[self.axis]
        if rounding.density < 1:
            codes = packed_bytes(size, self._kept(rounding), rounding.levels)
        else:
            codes = size * digit_bits(rounding.levels) / 8
        return codes + _SCALE_BYTES * channels + _FRAME_BYTES

    def expected_error(self, rounding: Rounding | None) -> float:
        """A guess of ``||change||^2 / ||weight||^2``: the energy that is zeroed, and a uniform quantiser's.

        For L levels on normal values ``1.3 ln(L) / L^2``, within a third from 3 levels to 255.
        """
        if rounding is None:
            return 0.0
        if rounding.codes is None:
            return _HALF_ERROR
        lost = float(self._energy_below[self.values.size - self._kept(rounding)])
        return lost + (1 - lost) * 1.3 * float(np.log(rounding.levels)) / rounding.levels**2

    def _kept(self, rounding: Rounding) -> int:
        return round(self.values.size * rounding.density)

    @cached_property
    def _energy_below(self) -> npt.NDArray[np.float64]:
        """Share of the energy in the i smallest magnitudes, i from 0."""
        squares = np.sort(np.square(self.values, dtype=np.float64), axis=None)
        sums = np.append(0.0, np.cumsum(squares))
        shares: npt.NDArray[np.float64] = sums / max(float(sums[-1]), np.finfo(np.float64).tiny)
        return shares
