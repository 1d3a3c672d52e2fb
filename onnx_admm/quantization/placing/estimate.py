"""Estimated latency of placements, from profiles of two forms of the model: all float, and all integer.

    estimate(P) = 1 - sum of what each unit in P saves + sum of the conversions at the border of P

A unit saves the difference of its kernels' times in the two profiles. A conversion takes the mean time for
one element, from the profile of the integer form, times the elements of the value. So an estimate takes no
run. What a runtime changes at a border besides (memory layouts, merged kernels) is in none of the two
profiles: an estimate says which placements to time, and no figure of it is called measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx_admm.contracts import Feeds, ModelView
from onnx_admm.quantization.placing.placement import Placement, place
from onnx_admm.quantization.units import Kind, Unit, main_nodes, roots_of
from onnx_admm.runtime.layer_kernels import CONVERSIONS, TOTAL, profile_nodes
from onnx_admm.runtime.timing_cache import digest, profiled_seconds

_THREADS = 1


@dataclass(frozen=True)
class LatencyEstimate:
    """Latency of a placement over the float model's, estimated.

    Attributes:
        units: all units, in order.
        saves: share of the latency that each unit saves, by node; without what conversions take.
        quantising, dequantising: share of the latency that a conversion of each value takes.
        read_as_floats: values that a node which is no unit reads, or that are outputs of the model.
        seconds: that all kernels of the float model take in one run.
    """

    units: Sequence[Unit]
    saves: Mapping[int, float]
    quantising: Mapping[str, float] = field(default_factory=dict)
    dequantising: Mapping[str, float] = field(default_factory=dict)
    read_as_floats: frozenset[str] = frozenset()
    seconds: float = 0.0

    def __call__(self, asked: Collection[int]) -> float:
        """Return the estimate for the units asked to be integer; see ``place``."""
        placed = place(self.units, asked)
        saved = sum(self.saves.get(unit.node, 0.0) for unit in placed.units)
        taken = sum(self.quantising.get(name, 0.0) for name in placed.quantised - placed.given)
        taken += sum(self.dequantising.get(name, 0.0) for name in self._dequantised(placed))
        return 1.0 - saved + taken

    def _dequantised(self, placed: Placement) -> Iterator[str]:
        """Yield the values that integer units give and a float node reads."""
        integer = {unit.node for unit in placed.units}
        floats = {name for unit in self.units if unit.node not in integer for name in unit.inputs}
        yield from (name for name in placed.given if name in floats or name in self.read_as_floats)


def estimate_of(
    view: ModelView,
    integer_form: ModelView,
    units: Sequence[Unit],
    elements: Mapping[str, float],
    feeds: Feeds,
) -> LatencyEstimate:
    """Return the estimate for the placements of one model; the profiles are kept in the timing cache.

    Args:
        view: the float model, whose nodes the units count.
        integer_form: the model with all units integer.
        units: its units.
        elements: elements of each root value in one run.
        feeds: samples as in a ``Batch``; those of one run are used.

    Raises:
        OnnxAdmmError: the runtime does not run one of the models.
    """
    before, after = (_profiled(each, units, feeds) for each in (view, integer_form))
    total = max(before[TOTAL], 1e-9)
    saves = {unit.node: (before[unit.name] - after[unit.name]) / total for unit in units}
    outside = frozenset(_read_outside(view, units))
    whole, roots = place(units, {unit.node for unit in units}), roots_of(units)
    exact = LatencyEstimate(units, saves, read_as_floats=outside)
    sizes = {name: elements.get(roots.get(name, name), 0.0) for unit in units for name in _values(unit)}
    converted = (whole.quantised - whole.given, set(exact._dequantised(whole)))
    rates = [
        after[kernel] / total / max(1.0, sum(sizes.get(name, 0.0) for name in names))
        for kernel, names in zip(CONVERSIONS, converted, strict=True)
    ]
    known = [rate for rate in rates if rate > 0]  # where one conversion is not there, the other tells
    rates = [rate if rate > 0 else max(known, default=0.0) for rate in rates]
    quantising, dequantising = ({name: rate * size for name, size in sizes.items()} for rate in rates)
    return LatencyEstimate(units, saves, quantising, dequantising, outside, total)


def _profiled(view: ModelView, units: Sequence[Unit], feeds: Feeds) -> dict[str, float]:
    products = [unit.name for unit in units if unit.kind is Kind.PRODUCT]
    others = [unit.name for unit in units if unit.kind is not Kind.PRODUCT]
    names = [*products, *others, *CONVERSIONS, TOTAL]
    content = digest(view.to_bytes(maps=False))
    return profiled_seconds(content, names, _THREADS, lambda: profile_nodes(view, feeds, products, others))


def _values(unit: Unit) -> tuple[str, ...]:
    return (*unit.inputs, unit.output)


def _read_outside(view: ModelView, units: Sequence[Unit]) -> Iterator[str]:
    """Yield the values of units that a node which is no unit reads, or that are outputs of the model."""
    readers = {unit.node: set(unit.inputs) for unit in units}
    for index, node in enumerate(main_nodes(view)):
        names = {value.name for value in node.inputs if value is not None}
        yield from names - readers.get(index, set())
        yield from (value.name for value in node.outputs if value.is_output)
