"""Report of an encoding: how each weight is stored, in four separate sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnx_admm.contracts import Skip
from onnx_admm.encoding.coders.codebook import Weight

_DENSE = ("float16", "float32", "float64")


@dataclass(frozen=True)
class TensorEncoding:
    """How one constant is stored.

    Attributes:
        layer: name of the stored constant.
        coding: description of the coding.
        elements, nonzeros: numbers of elements and nonzeros of the dense weight.
        data_bits: bits of the codes of the nonzeros.
        index_bits: bits of their positions: gaps, or the zeros' codes where every element has one.
    """

    layer: str
    coding: str
    elements: int
    nonzeros: int
    data_bits: int
    index_bits: int

    @property
    def is_encoded(self) -> bool:
        """Whether it is stored in another form than its own type."""
        return self.coding not in _DENSE


def stored_row(weight: Weight, coding: str, bits: float) -> TensorEncoding:
    """Return the row of a form with equal bits for every element; those of zeros count as index."""
    nonzeros = weight.nonzeros
    data = round(bits * nonzeros)
    return TensorEncoding(weight.name, coding, weight.size, nonzeros, data, round(bits * weight.size) - data)


def dense_row(weight: Weight) -> TensorEncoding:
    """Return a weight that stays as it is."""
    return stored_row(weight, weight.dtype.name, 8 * weight.dtype.itemsize)


@dataclass(frozen=True)
class EncodingReport:
    """How a model's weights are stored now.

    Attributes:
        format: name of the form.
        rows: weights, in graph order; biases have a coding but are no part of data and index.
        decode_bytes: content of every constant needed to get all weights and biases back: codes, gaps,
            codebooks, scales, biases, shapes, padding; names and nodes left out.
        oldest_opset: oldest version of the operator set that can decode them.
        skipped: unchanged weights, and the reasons.
        looked_up: tables whose rows are decoded as they are looked up, at each call.
    """

    format: str
    rows: tuple[TensorEncoding, ...]
    biases: tuple[TensorEncoding, ...]
    decode_bytes: int
    oldest_opset: int
    skipped: tuple[Skip, ...] = ()
    looked_up: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        """Return the four sizes except that of the whole file, which needs the saved file; JSON-ready."""
        data = sum(row.data_bits for row in self.rows) / 8
        index = sum(row.index_bits for row in self.rows) / 8
        return {
            "format": self.format,
            "data_bytes": data,
            "data_and_index_bytes": data + index,
            "decode_bytes": self.decode_bytes,
            "oldest_opset": self.oldest_opset,
            "decoded_at_lookup": list(self.looked_up),
            "layers": _table(self.rows),
            "biases": _table(self.biases),
        }


def _table(rows: Sequence[TensorEncoding]) -> list[dict[str, Any]]:
    table = []
    for row in rows:
        entry = asdict(row)
        entry["data_bytes"] = entry.pop("data_bits") / 8
        entry["index_bytes"] = entry.pop("index_bits") / 8
        table.append(entry)
    return table
