"""What a layer's weights take on disk, by format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from onnx_admm.contracts import Cost, LayerProfile, Treatment
from onnx_admm.errors import UsageError

Format = Literal["auto", "dense", "qdq", "sparse", "packed"]

_WIDEST_GAP = 16  # bits; wider gaps are never the cheapest at fewer than 2^16 weights between two kept ones
_PATTERN_SEPARATOR = ":"


@dataclass(frozen=True)
class StorageCostModel:
    """Bytes of a layer's weights in the written file, by format.

    With n weights of which k are kept, c output channels and b bits:

    - dense: ``4 n``
    - qdq: ``n b / 8`` codes, and a float scale and a zero point for each channel: ``+ 5 c``
    - sparse: ``4 k`` values and 3-byte indices: ``7 k``
    - packed: ``k (b + g) / 8`` codes and g-bit gaps, fillers for gaps that do not fit, and a codebook of
      ``4 min(2^b, k)`` bytes; g is the width that costs least. Patterns N:M need ``ceil(log2 M)`` bits of
      position for a weight, structured removal (channels, blocks) none.

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
    kept = _kept(layer, treatment)
    codebook = 0.0 if treatment.bits > 8 else 4 * min(2.0**treatment.bits, kept)
    if kept == 0:
        return 0.0
    structure = treatment.structure
    if kept >= layer.parameters:
        index = 0.0
    elif _PATTERN_SEPARATOR in structure:
        index = kept * math.ceil(math.log2(int(structure.partition(_PATTERN_SEPARATOR)[2])))
    elif structure == "unstructured":
        index = _gap_bits(kept, layer.parameters, treatment.bits)
    else:
        index = 0.0
    return (kept * treatment.bits + index) / 8 + codebook


def _gap_bits(kept: float, parameters: int, code_bits: int) -> float:
    """Bits of all gaps, and of the fillers (code and gap) that stand where a gap is too wide.

    A gap of g bits spans ``s = 2^g`` weights; with geometric gaps one overflows with probability
    ``q = (1 - d)^s``, so a kept weight needs ``q / (1 - q)`` fillers.
    """
    sparsity = 1 - kept / parameters
    costs = []
    for width in range(1, _WIDEST_GAP + 1):
        overflow: float = sparsity ** (2**width)
        if overflow < 1.0:
            fillers = kept * overflow / (1 - overflow)
            costs.append(kept * width + fillers * (width + code_bits))
    bitmap = float(parameters)
    return min([*costs, bitmap])


def _kept(layer: LayerProfile, treatment: Treatment) -> float:
    return treatment.density * layer.parameters


def _channels(layer: LayerProfile) -> int:
    return layer.weight_shape[0] if layer.weight_shape else 1


_BYTES = {"dense": _dense, "qdq": _qdq, "sparse": _sparse, "packed": _packed}
