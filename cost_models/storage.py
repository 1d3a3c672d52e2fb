"""What a layer's weights take on disk, by format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from onnx_admm.contracts import Cost, LayerProfile, Treatment
from onnx_admm.encoding.accounting import packed_bytes
from onnx_admm.errors import UsageError

Format = Literal["auto", "dense", "qdq", "sparse", "packed"]

_PATTERN_SEPARATOR = ":"


@dataclass(frozen=True)
class StorageCostModel:
    """Bytes of a layer's weights in the written file, by format.

    With n weights of which k are kept, c output channels and b bits:

    - dense: ``4 n``
    - qdq: ``n b / 8`` codes, and a float scale and a zero point for each channel: ``+ 5 c``
    - sparse: ``4 k`` values and 3-byte indices: ``7 k``
    - packed: the lesser of codes with Rice-coded gaps and of digits (``encoding.accounting.packed_bytes``),
      and a codebook of ``4 min(2^b, k)`` bytes. Patterns N:M take ``k (b + ceil(log2 M)) / 8`` for codes and
      positions, structured removal (channels, blocks) and weights without zeros ``k b / 8``.

    Args:
        format: one of these, or ``auto``: the cheapest.
    """

    name: ClassVar[str] = "storage"
    assumes: ClassVar[str] = (
        "kept weights lie at random (gaps are geometric); names, biases and graph are not counted"
    )

    format: Format = "auto"

    def estimate(self, layer: LayerProfile, treatment: Treatment) -> Cost:
        """Bytes of the layer's weights, treated so.

        Raises:
            UsageError: a density outside 0..1, or bits outside 1..32.
        """
        if not 0.0 <= treatment.density <= 1.0:
            raise UsageError("impossible density", where=layer.node, got=treatment.density, expected="0 to 1")
        if not 1 <= treatment.bits <= 32:
            raise UsageError("impossible bits", where=layer.node, got=treatment.bits, expected="1 to 32")
        if layer.parameters == 0:
            return Cost(bytes=0.0)
        if self.format == "auto":
            return Cost(bytes=min(count(layer, treatment) for count in _BYTES.values()))
        return Cost(bytes=_BYTES[self.format](layer, treatment))

    def break_even(self, layer: LayerProfile, bits: int) -> float:
        """Least weights-over-nonzeros at which pruned storage is no larger than dense storage of equal bits.

        About ``1 + index bits / weight bits`` for a packed layer; 1 where pruning never costs; inf where even
        a single kept weight costs more.
        """
        whole = _dense_bits(layer, bits)

        def pays(kept: int) -> bool:
            cost = self.estimate(layer, Treatment(kept / layer.parameters, bits)).bytes
            return cost is not None and cost <= whole

        if layer.parameters == 0 or pays(layer.parameters):
            return 1.0
        if not pays(1):
            return math.inf
        least, most = 1, layer.parameters
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if pays(middle) else (least, middle)
        return layer.parameters / least


def _dense_bits(layer: LayerProfile, bits: int) -> float:
    """All weights, at ``bits`` each, nothing else."""
    return layer.parameters * bits / 8


def _dense(layer: LayerProfile, treatment: Treatment) -> float:
    return _dense_bits(layer, 32)


def _qdq(layer: LayerProfile, treatment: Treatment) -> float:
    if treatment.bits > 8:
        return _dense(layer, treatment)
    # Only whole bytes and nibbles have a DequantizeLinear.
    return _dense_bits(layer, 4 if treatment.bits <= 4 else 8) + 5 * _channels(layer)


def _sparse(layer: LayerProfile, treatment: Treatment) -> float:
    return 7 * _kept(layer, treatment)


def _packed(layer: LayerProfile, treatment: Treatment) -> float:
    kept, bits, structure = _kept(layer, treatment), treatment.bits, treatment.structure
    codebook = 0.0 if bits > 8 else 4 * min(2.0**bits, kept)
    if structure == "unstructured" and kept < layer.parameters:
        return packed_bytes(layer.parameters, kept, 1 << bits) + codebook
    position = 0
    if _PATTERN_SEPARATOR in structure and kept < layer.parameters:
        position = math.ceil(math.log2(int(structure.partition(_PATTERN_SEPARATOR)[2])))
    return kept * (bits + position) / 8 + codebook


def _kept(layer: LayerProfile, treatment: Treatment) -> float:
    return treatment.density * layer.parameters


def _channels(layer: LayerProfile) -> int:
    return layer.weight_shape[0] if layer.weight_shape else 1


_BYTES = {"dense": _dense, "qdq": _qdq, "sparse": _sparse, "packed": _packed}
