"""Multiply-accumulates, and multiply-accumulates times the bits of their weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_admm.contracts import CompressionOption, Cost, LayerProfile


@dataclass(frozen=True, kw_only=True)
class MacsCostModel:
    """Multiply-accumulates with nonzero weights, and these times the bits of their weight.

    ``macs = density * dense MACs`` and ``mac_bits = macs * bits``; products of activations count in full, at
    the bits of an activation. Source: table 8 of Ren et al., arXiv 1812.11677 (there an operation is half a
    multiply-accumulate).
    """

    name: ClassVar[str] = "macs"
    assumes: ClassVar[str] = "multiply-accumulates with zero weights are skipped, and nothing else takes work"
    quantities: ClassVar[tuple[str, ...]] = ("macs", "mac_bits")

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the row's multiply-accumulates under the option; raises as `LayerProfile.known_macs`."""
        macs = layer.known_macs() * (option.density if layer.weight else 1.0)
        return Cost(macs=macs, mac_bits=macs * option.bits)
