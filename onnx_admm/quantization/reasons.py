"""Reasons of the report: why a layer is integer, and why one stays float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx_admm.quantization.placing.exchanges import Asked
from onnx_admm.quantization.placing.search import PlacementSearch
from onnx_admm.quantization.units import Kind, Unit

NOTHING_ALLOWED = "no layer may be computed with 8-bit integers; the line of each has the reason"
NONE_FASTER = "no placement is faster with integers"
NONE_FASTER_WITHIN = "no placement within the tolerance is faster with integers"
NONE_KEEPS = "no placement keeps the outputs on unseen samples"
OTHER_FORMS = "the model is faster with other forms of its linear layers"
TOO_LITTLE = "the model as a whole gains too little"
_FAILED = "with it as integers the outputs are not kept on unseen samples"

_SHOWN = 0.0005
"""Share of the latency that is not shown as 0.0 %."""


@dataclass(frozen=True)
class Reasons:
    """Builds the report's sentences on the units of one search.

    Attributes:
        search: the search, with the latencies that it measured.
        chosen: placement that was chosen; empty for none.
        failed: nodes of placements that did not keep the outputs on unseen samples.
    """

    search: PlacementSearch
    chosen: Asked = frozenset()
    failed: Collection[int] = frozenset()

    def of_integer(self, unit: Unit, keeps_weight: bool) -> str:
        """Return what became of a unit of the chosen placement, and what it saves there.

        Args:
            unit: the unit.
            keeps_weight: whether its weight lies on a grid of its own.
        """
        gain, about = self.search.gain_within(unit.node, self.chosen), ""
        if gain is None:
            gain, about = self.search.estimated.get(unit.node), "about "
        saved = ""
        if gain is not None and gain >= _SHOWN:
            by_estimate = " by the times of its kernels" if about else ""
            saved = f"; it saves {about}{gain:.1%} of the model's latency{by_estimate}"
        if unit.kind is Kind.KERNEL:
            return f"integer {unit.op_type}{saved}"
        grid = "its own grid" if keeps_weight else "int8 by output channel"
        return f"integer {unit.op_type}, weight on {grid}{saved}"

    def of_float(self, unit: Unit) -> str:
        """Return why a unit is not integer."""
        if unit.node in self.failed:
            return _FAILED
        search = self.search
        gain = search.gain_within(unit.node, self.chosen) if self.chosen else None
        gain = search.gains.get(unit.node) if gain is None else gain
        least = search.least_with(unit.node)
        if gain is None:
            return self._of_group(unit, least)
        if gain <= 0:
            return f"float is faster: integers would take {-gain:.1%} of the model's latency more"
        if least is not None and least >= 1:
            return f"float is faster: with it as integers the model takes {least:.2f} of its latency at least"
        return f"the tolerance does not reach for it: integers would save {gain:.1%} of the model's latency"

    def _of_group(self, unit: Unit, least: float | None) -> str:
        """Return why a unit is not integer that was not timed by itself."""
        search = self.search
        if least is None:
            return "its integer form could not be timed"
        if self.chosen and not search.fits(self.chosen | {unit.node}):
            return "the tolerance does not reach for it"
        gain = search.estimated.get(unit.node, 0.0)
        if gain <= 0:
            return (
                "float is faster by the times of the kernels: "
                f"integers would take about {-gain:.1%} of the model's latency more"
            )
        return (
            f"float is faster: the fastest timed model with it as integers takes {least:.3f} of the latency, "
            f"the chosen one {search.latency(self.chosen):.3f}"
        )

    def of_none(self) -> str:
        """Return why no placement was chosen at all."""
        if self.failed:
            return NONE_KEEPS
        least = [self.search.least_with(unit.node) for unit in self.search.units]
        faster = any(each is not None and each < 1 for each in least)
        return NONE_FASTER_WITHIN if faster else NONE_FASTER

    def of_too_little(self, latency: float, most: float) -> str:
        """Return why the fastest placement is not taken.

        Args:
            latency: of that placement, over the float model's.
            most: largest latency that a result may have.
        """
        takes = f"with integers it would take {latency:.3g} of its latency"
        return f"{takes}, over {most:g} (most_latency): left as it is"

    def add_to(self, left: dict[str, str], integer: Mapping[str, str]) -> None:
        """Add the reason of each product that is neither integer nor has one."""
        for unit in self.search.units:
            if unit.kind is Kind.PRODUCT and unit.layer not in integer:
                left.setdefault(unit.layer, self.of_float(unit))
