"""A device by its roofline: arithmetic peaks, memory bandwidth, and an overhead for each operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnx_admm.contracts import CompressionOption, Cost, LayerProfile, Operand
from onnx_admm.errors import UnpricedOperator
from onnx_admm.model.operators import Trait, operators_with
from onnx_admm.settings.ranges import NonNegative, Positive, PositiveShare, Width

_GIGA, _MICRO, _PICO = 1e9, 1e-6, 1e-12
_PRODUCTS = operators_with(Trait.CONVOLVES, Trait.MULTIPLIES)
_VIEWS = operators_with(Trait.VIEWS)
"""Operators that move no data."""

_CONTAINERS = operators_with(Trait.CONTAINS)
"""Operators whose inner nodes have rows of their own."""


@dataclass(frozen=True, kw_only=True)
class SparseKernel:
    """A kernel that some layers run on once they are sparse enough.

    Args:
        structure: required structure of the zeros, as in `CompressionOption`.
        operators: operators that have such a kernel; empty: all products.
        pointwise: whether it is for weights of extent 1 in space alone.
        speedup: arithmetic speed over the dense kernel's by density, as ``[[0.33, 1.3], [0.1, 2.4]]``: above
            the largest density the dense kernel runs, between two the speed is interpolated, below the least
            it is constant.
        index_bits: bits that are read with each nonzero weight.
    """

    structure: str = "unstructured"
    operators: tuple[str, ...] = ()
    pointwise: bool = False
    speedup: tuple[tuple[PositiveShare, Positive], ...]
    index_bits: NonNegative = 0.0

    def __post_init__(self) -> None:
        CompressionOption(structure=self.structure)
        if not self.speedup or any(not 0 < d <= 1 or not s > 0 for d, s in self.speedup):
            raise ValueError("a speed-up needs densities above 0 up to 1 and factors above 0")

    def gain(self, layer: LayerProfile, option: CompressionOption) -> float | None:
        """Return the speed over the dense kernel's; None where this kernel does not run."""
        if option.structure != self.structure or option.density >= 1:
            return None
        if self.operators and layer.op_type not in self.operators:
            return None
        if self.pointwise and any(extent != 1 for extent in layer.weight_shape[2:]):
            return None
        densities, factors = zip(*sorted(self.speedup), strict=True)
        if option.density > densities[-1]:
            return None
        return float(np.interp(option.density, densities, factors))


@dataclass(frozen=True, kw_only=True)
class RooflineCostModel:
    """Latency, energy and traffic on a device that is described by its peaks (a profile).

    ``latency = max(MACs / peak, bytes / bandwidth) + overhead``, where bytes are activations read and written
    and weights read once, each; ``energy = MACs * energy of one + bytes * energy of one``. Zero weights save
    work where ``sparse`` has a kernel for them, and otherwise nothing; removed channels always save work.

    Source: Williams, Waterman and Patterson, Roofline, CACM 52 (2009).

    Args:
        device: name of the device.
        peak_gmac_s: 1e9 multiply-accumulates a second by type of the activations (``float32``, ``int8``).
        bandwidth_gb_s: 1e9 bytes a second to and from memory.
        overhead_us: microseconds that any operator takes.
        weight_bits: widths that weights have in memory; others are read as the next wider one.
        fused: operators that cost nothing after a product, where they read only its result and constants.
        sparse: kernels for sparse weights.
        energy_pj_mac: picojoules of a multiply-accumulate by type; with ``energy_pj_byte`` energy is given.
        energy_pj_byte: picojoules of a byte to or from memory.
        uncertainty: relative uncertainty of times and energies. Peaks are hardly ever reached.
    """

    name: ClassVar[str] = "roofline"

    device: str
    peak_gmac_s: Mapping[str, Positive]
    bandwidth_gb_s: Positive
    overhead_us: NonNegative = 0.0
    weight_bits: tuple[Width, ...] = (8, 16, 32)
    fused: tuple[str, ...] = ("Add", "BatchNormalization", "Clip", "LeakyRelu", "Relu")
    sparse: tuple[SparseKernel, ...] = ()
    energy_pj_mac: Mapping[str, NonNegative] = field(default_factory=dict)
    energy_pj_byte: NonNegative | None = None
    uncertainty: NonNegative = 0.5

    def __post_init__(self) -> None:
        if not self.peak_gmac_s or not all(peak > 0 for peak in self.peak_gmac_s.values()):
            raise ValueError("peak_gmac_s needs a figure above 0 for at least one type")
        if not self.bandwidth_gb_s > 0:
            raise ValueError("bandwidth_gb_s has to be above 0")
        if not (self.overhead_us >= 0 and self.uncertainty >= 0 and (self.energy_pj_byte or 0) >= 0):
            raise ValueError("overhead_us, uncertainty and energies cannot be negative")

    @property
    def assumes(self) -> str:
        """See `CostModel.assumes`."""
        return (
            f"{self.device}: arithmetic and memory at their peaks and overlapped, weights and activations "
            "moved once, branches and loop bodies run once"
        )

    @property
    def quantities(self) -> tuple[str, ...]:
        """See `CostModel.quantities`."""
        energy = () if self.energy_pj_byte is None else ("energy_j",)
        return ("latency_s", *energy, "bytes", "macs", "mac_bits")

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the cost of the row on the device.

        Raises:
            UnknownExtent: it depends on an open axis.
            UnpricedOperator: MACs that cannot be counted, or in a type that the profile has no peak for.
        """
        if layer.op_type in _CONTAINERS:
            return self._cost(layer, option, macs=0.0, speedup=1.0, moved=0.0)
        macs, moved = float(layer.known_macs()), 0.0 if layer.op_type in _VIEWS else layer.moved_bytes()
        if not macs and self._is_fused(layer):
            return Cost(0.0, 0.0, 0.0, None if self.energy_pj_byte is None else 0.0, 0.0, self.uncertainty)
        if layer.op_type == "Gather":
            output = layer.outputs[0]
            return self._cost(layer, option, 0.0, 1.0, 2 * (output.elements or 0) * output.bits / 8)
        speedup, kept, index_bits = self._sparse(layer, option)
        if layer.weight:
            moved += layer.size * kept * (self._stored_bits(option.bits) + index_bits) / 8
        return self._cost(layer, option, macs * kept, speedup * kept, moved)

    def _cost(
        self, layer: LayerProfile, option: CompressionOption, macs: float, speedup: float, moved: float
    ) -> Cost:
        """Return the cost of ``macs`` computed ``speedup`` times as fast as by the dense kernel."""
        arithmetic = macs / (self._of(self.peak_gmac_s, layer, "peak") * _GIGA * speedup) if macs else 0.0
        memory = moved / (self.bandwidth_gb_s * _GIGA)
        energy = None
        if self.energy_pj_byte is not None:
            each = self._of(self.energy_pj_mac, layer, "energy of a MAC") if macs else 0.0
            energy = (macs * each + moved * self.energy_pj_byte) * _PICO
        return Cost(
            bytes=moved,
            macs=macs,
            latency_s=max(arithmetic, memory) + layer.share * self.overhead_us * _MICRO,
            energy_j=energy,
            mac_bits=macs * option.bits,
            uncertainty=self.uncertainty,
        )

    def _sparse(self, layer: LayerProfile, option: CompressionOption) -> tuple[float, float, float]:
        """Return speed-up over the dense layer, share of the weights computed, bits of an index."""
        if not layer.weight:
            return 1.0, 1.0, 0.0
        if option.structure == "channel":
            return 1 / max(option.density, 1e-9), option.density, 0.0
        runs = [(gain, kernel) for kernel in self.sparse if (gain := kernel.gain(layer, option))]
        if not runs:
            return 1.0, 1.0, 0.0
        gain, kernel = max(runs, key=lambda run: run[0])
        return gain, option.density, kernel.index_bits

    def _stored_bits(self, bits: int) -> int:
        return min((width for width in self.weight_bits if width >= bits), default=bits)

    def _is_fused(self, layer: LayerProfile) -> bool:
        read = [operand for operand in layer.inputs if operand.name and not operand.is_constant]
        if layer.op_type not in self.fused or len(read) != 1:
            return False
        return read[0].producer in _PRODUCTS or read[0].producer in self.fused

    def _of(self, figures: Mapping[str, float], layer: LayerProfile, what: str) -> float:
        data = next((entry for entry in layer.inputs if entry.name and not entry.is_constant), Operand())
        dtype = "int8" if data.dtype == "uint8" else data.dtype
        if dtype not in figures:
            raise UnpricedOperator(
                f"the device has no {what} in {dtype}", where=f"{layer.node} ({layer.op_type})"
            )
        return figures[dtype]
