"""Cost model of a weight-stationary systolic array: layers are priced by the number of tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from onnx_admm.contracts import CompressionOption, Cost, LayerProfile
from onnx_admm.errors import UnpricedOperator


@dataclass(frozen=True, kw_only=True)
class SystolicArray:
    """Latency of layers on an array of processing elements that store one weight each.

    A product of (m, k) by (k, n) takes ``ceil(k / rows) * ceil(n / columns)`` tiles of
    ``m + rows + columns`` cycles each. All other operators run in parallel and cost nothing.

    Args:
        rows: rows of the array.
        columns: columns of the array.
        clock_mhz: clock frequency in MHz.

    Source: Jouppi et al., In-Datacenter Performance Analysis of a Tensor Processing Unit, ISCA 2017.
    """

    name: ClassVar[str] = "systolic-array"
    quantities: ClassVar[tuple[str, ...]] = ("latency_s", "macs", "mac_bits")

    rows: int
    columns: int
    clock_mhz: float

    @property
    def assumes(self) -> str:
        """Assumptions of the cost model, in one sentence."""
        return (
            f"{self.rows} x {self.columns} elements at {self.clock_mhz:g} MHz, weights of any width, loaded "
            "while the tile before runs; operators without products run in parallel"
        )

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the cost of one layer under a compression option.

        Raises:
            UnknownExtent: the multiply-accumulates depend on an open axis.
            UnpricedOperator: an operator with products other than Conv, Gemm and MatMul.
        """
        macs = layer.known_macs()  # raises UnknownExtent for an open axis
        if macs == 0:
            return Cost(latency_s=0.0, macs=0.0, mac_bits=0.0, uncertainty=0.3)
        if layer.op_type not in ("Conv", "Gemm", "MatMul"):
            raise UnpricedOperator("no mapping onto the array", where=layer.node)
        outputs = math.prod(layer.output_shape or ())
        inner = macs // outputs
        columns = layer.channels if layer.weight else (layer.output_shape or (1,))[-1]
        kept = math.ceil(columns * option.density) if option.structure == "channel" else columns
        groups = dict(layer.attributes).get("group", 1)
        tiles = groups * math.ceil(inner / self.rows) * math.ceil(kept / groups / self.columns)
        cycles = tiles * (outputs / columns + self.rows + self.columns)
        done = macs * kept / columns
        return Cost(
            latency_s=cycles / (self.clock_mhz * 1e6),
            macs=done,
            mac_bits=done * option.bits,
            uncertainty=0.3,
        )
