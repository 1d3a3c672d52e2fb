"""Kept weights of any values: Rice-coded gaps between them, and the values themselves.

The remaining values of a pruned, unquantised weight have no codes. Their positions are decoded as in
``large_sparse_coder``; the values are stored unchanged, as half floats where that is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.encoding_report import TensorEncoding
from onnx_admm.encoding.coders.large_sparse_coder import MOST_ELEMENTS, best_low_bits, emit_positions
from onnx_admm.encoding.coders.unpack import EncodedTensor, holds_half, scattered, unpack
from onnx_admm.model.rewrite.fragment import Fragment

_MOST_KEPT = 0.95
"""Share of kept weights from which on a bit for each element costs what zeros save."""


@dataclass(frozen=True)
class KeptValuesCoder:
    """A decoder of one weight's kept entries.

    Attributes:
        low_bits: bits of a gap's remainder, the Rice parameter.
        index_bits: bits of all gaps.
    """

    low_bits: int
    index_bits: int

    @property
    def label(self) -> str:
        """Name in reports."""
        return f"gaps (Rice {self.low_bits}), plain values"

    def row(self, weight: Weight) -> TensorEncoding:
        """Return the report of the weight's encoding."""
        value_bytes = 2 if holds_half(weight.values) else 4
        data = 8 * value_bytes * weight.nonzeros
        return TensorEncoding(weight.name, self.label, weight.size, weight.nonzeros, data, self.index_bits)

    def emit(self, fragment: Fragment, weight: Weight) -> str:
        """Append the decoder (opset 11); return the name of the weight."""
        units = weight.flat
        positions = np.flatnonzero(units)
        where = emit_positions(fragment, positions, self.low_bits)
        values = units[positions]
        values = values.astype(np.float16) if holds_half(values) else values
        row = scattered(fragment, len(units), where, fragment.constant(values), values.dtype)
        return unpack(fragment, row, [EncodedTensor(weight, units)], [len(units)], dtype=values.dtype)[
            weight.name
        ]


def kept_values_coder(weight: Weight) -> KeptValuesCoder | None:
    """Return the coder of a finite weight; None where nearly everything is kept, or nothing."""
    if not weight.is_exact or weight.size > MOST_ELEMENTS:
        return None
    if not 0 < weight.nonzeros <= _MOST_KEPT * weight.size:
        return None
    if not np.isfinite(weight.flat).all():
        return None
    return KeptValuesCoder(*best_low_bits(weight.positions))
