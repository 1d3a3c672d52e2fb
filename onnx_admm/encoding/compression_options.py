"""Compression options of a weight: half floats, few levels, zeros; their bytes and expected errors.

The numbers of levels are those that the packed form stores without waste: its digits fill words of 8 or 16
bits. The error of an option is measured elsewhere, by running the model; ``expected_error`` is the estimate
that decides which options are worth running.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from onnx_admm.admm.sets.approximate_scale import Scales, on_levels, scales_of
from onnx_admm.admm.sets.levels import slices_of
from onnx_admm.admm.sets.scale import CodeRange
from onnx_admm.admm.sets.supports import Mask, largest
from onnx_admm.contracts import Array
from onnx_admm.encoding.coders.accounting import digit_bits, gap_bits, packed_bytes
from onnx_admm.encoding.coders.column_shifts import Columns, balanced_columns, column_axis

_SCALE_BITS = 11
"""Significant bits of float16, in which scales are stored."""

_SCALE_BYTES = 2
_FRAME_BYTES = 80
"""Bytes that connect a decoded piece to its layer: split, shape, product with the scales."""

_FINE_FRAME_BYTES = 240
"""Bytes of a decoder of its own that combines high and low bits."""

_COLUMNS_FRAME_BYTES = 120
"""Bytes of a product with the scales of columns."""

_MUST_HELP = 0.8
"""Largest share of the error that scales of columns may leave to be worth trying."""

_CAST_BYTES = 24

_GAPS_FRAME_BYTES = 600
"""Bytes of a decoder of its own that puts kept values in their places."""

_HALF_ERROR = 2.0**-24

_GUESSED_FROM = 1 << 18
"""Elements, at most, from which the energy of small ones is estimated."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """A rounding of a weight.

    Attributes:
        levels: number of values, evenly spaced, a scale for each output channel; None: half floats.
        density: share of the weights that stay, the largest, none of them 0; the others become 0.
        both_axes: whether columns have scales too (see ``column_shifts``).
    """

    levels: int | None
    density: float = 1.0
    both_axes: bool = False

    def code_ranges(self) -> tuple[CodeRange, ...]:
        """Return the placements of levels: centred on 0 for odd numbers; half a step aside for even ones."""
        levels = self.levels or 0
        if self.density < 1:
            return (CodeRange(1, levels // 2),)
        with_zero = CodeRange(0, (levels - 1) // 2)
        return (with_zero,) if levels % 2 else (with_zero, CodeRange(1, levels - 1, stride=2))

    def __str__(self) -> str:
        more = f", {1 - self.density:.0%} zeros" if self.density < 1 else ""
        more += ", scales on both axes" if self.both_axes else ""
        return "half floats" if self.levels is None else f"{self.levels} levels{more}"


HALF = Rounding(None)
BYTES = Rounding(255)
NIBBLES = Rounding(16)
DENSE = (BYTES, Rounding(39), NIBBLES, Rounding(9), Rounding(6), Rounding(4), Rounding(3))
"""Numbers of levels of 8, 5.3, 4, 3.2, 2.7, 2 and 1.6 bits a weight."""

BOTH_AXES = Rounding(255, both_axes=True)
FINE = {Rounding(4095): 12, Rounding(1023): 10}
"""Roundings between bytes and half floats, with the bits of a weight."""

SPARSE = tuple(
    Rounding(levels, density)
    for levels in (2, 4, 8)
    for density in (0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03)
)


KEPT = tuple(Rounding(2**bits + 1) for bits in (7, 6, 5, 4))
"""Further roundings for weights with zeros: as many nonzero levels as codes of so many bits."""


@dataclass(frozen=True)
class Treated:
    """One weight and its compression options.

    Attributes:
        values: dense, finite.
        axis: axis of the output channels, which have a scale each; None for one scale.
    """

    values: Array = field(repr=False)
    axis: int | None
    _fitted: dict[Rounding, tuple[Scales, CodeRange]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def apply(self, rounding: Rounding) -> Array:
        """Return the rounded weight; same shape and type.

        The scales are found once and kept: they are a few bytes a channel, and their search takes all the
        time.
        """
        if rounding.levels is None:
            return self.values.astype(np.float16).astype(self.values.dtype)
        columns = self._columns.factors if rounding.both_axes and self._columns is not None else None
        values = self.values if columns is None else self.values / columns.astype(self.values.dtype)
        mask = None if rounding.density >= 1 else largest(np.abs(values), self._kept(rounding))
        if rounding not in self._fitted:
            ranges = rounding.code_ranges()
            if mask is None and self._has_lone_zeros:  # with levels without 0 they would need one more
                ranges = tuple(codes for codes in ranges if codes.lowest == 0) or ranges
            fits = [(_scales(values, mask, codes, self.axis), codes) for codes in ranges]
            self._fitted[rounding] = min(fits, key=lambda fit: fit[0].error)
        found, codes = self._fitted[rounding]
        rounded = on_levels(values, mask, codes, self.axis, found.scales)
        return rounded if columns is None else rounded * columns.astype(rounded.dtype)

    def stored_bytes(self, rounding: Rounding | None) -> float:
        """Return the bytes in the file: codes, gaps, scales and frame; None: unchanged.

        Of a weight with zeros only the nonzeros and their positions are stored, if that is smaller.
        """
        if rounding is None:
            return min(float(self.values.nbytes), self._gaps_and_values(self.values.dtype.itemsize))
        if rounding.levels is None:
            return min(2.0 * self.values.size + _CAST_BYTES, self._gaps_and_values(2))
        size, channels = self.values.size, 1 if self.axis is None else self.values.shape[self.axis]
        kept = min(self._kept(rounding), self._nonzeros)
        if rounding in FINE:
            codes = size * FINE[rounding] / 8 + _FINE_FRAME_BYTES
        elif rounding.both_axes:
            codes = float(size)
        elif rounding.density < 1:
            codes = packed_bytes(size, kept, rounding.levels)
        elif self._has_lone_zeros:  # an odd number of levels: one of them is 0, the others have codes
            codes = packed_bytes(size, kept, 2 * ((rounding.levels - 1) // 2))
        else:
            codes = size * digit_bits(rounding.levels) / 8
        if rounding.both_axes and self._columns is not None:
            channels += self._columns.factors.size
            codes += _COLUMNS_FRAME_BYTES
        return codes + _SCALE_BYTES * channels + _FRAME_BYTES

    @property
    def further(self) -> tuple[Rounding, ...]:
        """Roundings to try for this weight in addition to the common ones."""
        both_axes = (BOTH_AXES,) if self._columns is not None and self._columns.error <= _MUST_HELP else ()
        return (*(KEPT if self._has_lone_zeros else ()), *both_axes)

    def _gaps_and_values(self, value_bytes: int) -> float:
        """Return the bytes of nonzero values, unchanged, and their positions; inf where all are kept."""
        kept, size = self._nonzeros, self.values.size
        if kept in (0, size):
            return float("inf")
        return kept * (value_bytes + gap_bits(kept / size) / 8) + _GAPS_FRAME_BYTES

    @cached_property
    def _nonzeros(self) -> int:
        return int(np.count_nonzero(self.values))

    def expected_error(self, rounding: Rounding | None) -> float:
        """Return an estimate of ``||change||^2 / ||weight||^2``: zeroed energy and quantisation error.

        For L levels on normal values ``1.3 ln(L) / L^2``, within a third from 3 levels to 255.
        """
        if rounding is None:
            return 0.0
        if rounding.levels is None:
            return _HALF_ERROR
        if rounding.both_axes:
            share = 1.0 if self._columns is None else self._columns.error
            return share * self.expected_error(replace(rounding, both_axes=False))
        zeroed = 1 - self._kept(rounding) / max(1, self.values.size)
        lost = float(self._energy_below[round(zeroed * (len(self._energy_below) - 1))])
        return lost + (1 - lost) * 1.3 * float(np.log(rounding.levels)) / rounding.levels**2

    def _kept(self, rounding: Rounding) -> int:
        return round(self.values.size * rounding.density)

    def hoped_error(self, rounding: Rounding | None) -> float:
        """Return ``expected_error``, for scales on both axes as if large inputs met small columns.

        That decides whether it is worth a run.
        """
        expected = self.expected_error(rounding)
        if rounding is None or not rounding.both_axes or self._columns is None:
            return expected
        return expected * min(1.0, self._columns.least_error / self._columns.error)

    @cached_property
    def _columns(self) -> Columns | None:
        """Scales of columns, where the weight has columns and its type holds the products."""
        axis = column_axis(self.values.shape, self.axis)
        if self.axis is None or axis is None or self.values.dtype.itemsize <= 2 or not self.values.size:
            return None
        return balanced_columns(self.values, self.axis, axis)

    @cached_property
    def _has_lone_zeros(self) -> bool:
        """Whether zeros lie in channels that have other values too."""
        if self._nonzeros == self.values.size:
            return False
        rows = slices_of(self.values, self.axis)
        kept = np.count_nonzero(rows, axis=1)
        return bool(((kept > 0) & (kept < rows.shape[1])).any())

    @cached_property
    def _energy_below(self) -> Array:
        """Share of the energy in the smallest magnitudes, at evenly spaced shares of them from 0 to 1.

        For a large weight an even sample is used.
        """
        sample = self.values.reshape(-1)[:: max(1, self.values.size // _GUESSED_FROM)]
        squares = np.sort(np.square(sample, dtype=np.float64))
        sums = np.append(0.0, np.cumsum(squares))
        shares: Array = sums / max(float(sums[-1]), np.finfo(np.float64).tiny)
        return shares


def _scales(values: Array, mask: Mask | None, codes: CodeRange, axis: int | None) -> Scales:
    # As many bits as leave the product of code and scale exact in the weight's own type.
    scale_bits = min(_SCALE_BITS, np.finfo(values.dtype).nmant + 1 - codes.highest.bit_length())
    return scales_of(values, mask, codes, axis, scale_bits)
