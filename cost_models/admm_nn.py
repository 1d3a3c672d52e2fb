"""The accelerator of the ADMM-NN paper: a design for sparse layers and a dense one of the same area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnx_admm.contracts import CompressionOption, Cost, LayerProfile
from onnx_admm.encoding.coders.accounting import gap_bits
from onnx_admm.settings.ranges import NonNegative, Positive

_PLOTTED = (
    (0.1, 0.07),
    (0.2, 0.17),
    (0.3, 0.3),
    (0.4, 0.5),
    (0.5, 0.8),
    (0.6, 1.2),
    (0.7, 1.9),
    (0.8, 3.0),
    (0.9, 6.6),
)
"""Share of pruned weights and speed-up over the dense design, read from the paper's plot."""

_BEYOND = ((0.938, 7.2), (0.975, 8.75))
"""CONV2-5 of the models of 13.1x and 25.5x in its table 9: mean speed-up, and the share computed."""

PUBLISHED = (*_PLOTTED, *_BEYOND)
_WORDS = ((8, 0.2, 0.1), (16, 1.1, 0.4), (32, 3.7, 0.9))
"""Bits; picojoules of a multiplication and of the addition behind it (of 32 bits for integers)."""

_SRAM_PJ_BIT = 20.0 / 64
"""Picojoules of a bit from a 32 KB memory read 64 bits at a time."""

_ENERGY_DOUBT = 0.5
_PICO = 1e-12


@dataclass(frozen=True, kw_only=True)
class AdmmNnCostModel:
    """The ADMM-NN paper's accelerator: a dense design, and a sparse one of its area for pruned layers.

    ``latency = dense MACs / dense_gmac_s / speed-up``, the speed-up by the pruned share:

    - ``published``: the paper's plot (SMIC 40 nm, synthesised) and two points of its table 9, interpolated in
      between; break-even at 55 % zeros, a pruning ratio of 2.22. Constant below 10 % and above 97.5 % zeros.
    - ``analytic``: ``k (1 - q d) / d`` at density d. Memory for weights and indices takes the share ``q d``
      of the area (``q = s (1 + index bits / weight bits)``, s the memory's share of the dense design), the
      rest contains processing elements that are busy for a part of the time. k and q are fitted: within 6 %
      of the nine plotted points, and far too fast beyond them.

    Energy is an estimate of this project, not the paper's: each computed MAC multiplies, adds, and reads its
    weight (with the index, where there are zeros) and its activation from a 32 KB memory; Horowitz, ISSCC
    2014, 45 nm. The energy of multipliers below 8 bits is assumed proportional to the bits; no measurement is
    known. Source: Ren et al., arXiv 1812.11677, section 5 and tables 8 and 9.

    Args:
        curve: the curve of the speed-up.
        dense_fallback: run a layer that the sparse design would slow down on the dense one, zeros included.
            The paper's comparison has no such choice: pruned layers run on the sparse design.
        dense_gmac_s: 1e9 multiply-accumulates a second of the dense design. The paper gives ratios alone, so
            1 is a unit and not a measured speed.
        k, q: parameters of the analytic curve.
    """

    name: ClassVar[str] = "admm-nn"
    quantities: ClassVar[tuple[str, ...]] = ("latency_s", "energy_j", "bytes", "macs", "mac_bits")

    curve: Literal["published", "analytic"] = "published"
    dense_fallback: bool = True
    dense_gmac_s: Positive = 1.0
    k: Positive = 0.776
    q: NonNegative = 1.0225

    def __post_init__(self) -> None:
        if not self.dense_gmac_s > 0:
            raise ValueError("dense_gmac_s has to be above 0")

    @property
    def assumes(self) -> str:
        """See `CostModel.assumes`."""
        curves = {
            "published": "speed-ups interpolated in the paper's published curve (2.22x to break even)",
            "analytic": "speed-ups from an area and utilisation formula fitted to the paper's curve",
        }
        return (
            f"{curves[self.curve]}; the dense design does {self.dense_gmac_s:g} GMAC/s, a unit; energy of "
            "MACs and 32 KB SRAM reads at 45 nm (Horowitz), uncertain by half; bytes are weights and indices "
            "on chip; operators without products are free"
        )

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the cost of the row; raises as `LayerProfile.known_macs`."""
        dense = float(layer.known_macs())
        density = option.density if layer.weight else 1.0
        speedup, index = 1.0, 0.0
        least = 1 / max(1, layer.size)
        if option.structure == "channel":
            speedup = 1 / max(density, least)
        elif density < 1:
            speedup, index = self.speedup(density), gap_bits(max(density, least))
            if self.dense_fallback and speedup < 1:
                density, speedup, index = 1.0, 1.0, 0.0
        macs = dense * density
        return Cost(
            bytes=layer.parameters * density * (option.bits + index) / 8,
            macs=macs,
            latency_s=dense / (self.dense_gmac_s * 1e9) / speedup,
            energy_j=macs * mac_picojoules(option.bits, index) * _PICO,
            mac_bits=macs * option.bits,
            uncertainty=_ENERGY_DOUBT,
        )

    def speedup(self, density: float) -> float:
        """Return the speed-up of a pruned layer over the dense one, by the share of kept weights."""
        pruned = 1 - density
        if self.curve == "published":
            shares, factors = zip(*PUBLISHED, strict=True)
            return float(np.interp(pruned, shares, factors))
        kept = min(max(density, 1 - PUBLISHED[-1][0]), 1 - PUBLISHED[0][0])
        return self.k * (1 - self.q * kept) / kept


def mac_picojoules(bits: int, index_bits: float = 0.0) -> float:
    """Return the picojoules of a multiply-accumulate, with reads of its weight, index and activation."""
    width, multiply, add = next((word for word in _WORDS if bits <= word[0]), _WORDS[-1])
    if bits < width == _WORDS[0][0]:
        multiply *= bits / width
    return multiply + add + (bits + index_bits + width) * _SRAM_PJ_BIT
