"""Common part of decoders of kept weights: Rice-coded gaps between them, and codes of their values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GapCoder:
    """Coding of kept weights, independent of their decoder.

    Attributes:
        levels: its nonzero values, rising.
        low_bits: bits of a gap's remainder, the Rice parameter; 0 is a plain bitmap.
    """

    levels: tuple[float, ...]
    low_bits: int

    @property
    def code_bits(self) -> int:
        """Bits of a kept weight's code."""
        return max(1, (len(self.levels) - 1).bit_length())

    @property
    def label(self) -> str:
        """Name in reports."""
        return f"gaps (Rice {self.low_bits}), {self.code_bits}-bit codes"
