"""Bytes of a layer's weights on disk, by format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from onnx_admm.contracts import CompressionOption, Cost, LayerProfile
from onnx_admm.encoding.coders.accounting import packed_bytes

Format = Literal["auto", "dense", "qdq", "sparse", "packed"]


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
        format: one of these, or ``auto``: the smallest.
    """

    name: ClassVar[str] = "storage"
    assumes: ClassVar[str] = (
        "bytes of weights in the file; kept weights lie at random (gaps are geometric); names, biases and "
        "graph are not counted"
    )
    quantities: ClassVar[tuple[str, ...]] = ("bytes",)

    format: Format = "auto"

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the bytes of the row's weights under the option; 0 where an earlier row counted them."""
        if layer.parameters == 0:
            return Cost(bytes=0.0)
        if self.format == "auto":
            return Cost(bytes=min(count(layer, option) for count in _BYTES.values()))
        return Cost(bytes=_BYTES[self.format](layer, option))


def _dense_bits(layer: LayerProfile, bits: int) -> float:
    """Return the bytes of all weights, at ``bits`` each."""
    return layer.parameters * bits / 8


def _dense(layer: LayerProfile, option: CompressionOption) -> float:
    return _dense_bits(layer, max(32, option.bits))


def _qdq(layer: LayerProfile, option: CompressionOption) -> float:
    if option.bits > 8:
        return _dense(layer, option)
    # Only whole bytes and nibbles have a DequantizeLinear.
    return _dense_bits(layer, 4 if option.bits <= 4 else 8) + 5 * layer.channels


def _sparse(layer: LayerProfile, option: CompressionOption) -> float:
    return (max(32, option.bits) / 8 + 3) * _kept(layer, option)


def _packed(layer: LayerProfile, option: CompressionOption) -> float:
    kept, bits = _kept(layer, option), option.bits
    codebook = 0.0 if bits > 8 else 4 * min(2.0**bits, kept)
    if option.structure == "unstructured" and kept < layer.parameters:
        return packed_bytes(layer.parameters, kept, 1 << bits) + codebook
    position = 0
    if option.pattern is not None and kept < layer.parameters:
        position = math.ceil(math.log2(option.pattern[1]))
    return kept * (bits + position) / 8 + codebook


def _kept(layer: LayerProfile, option: CompressionOption) -> float:
    return option.density * layer.parameters


_BYTES = {"dense": _dense, "qdq": _qdq, "sparse": _sparse, "packed": _packed}
