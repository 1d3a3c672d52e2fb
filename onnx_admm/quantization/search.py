"""Search of a placement: each unit timed in its surroundings, one knapsack, then single exchanges.

What a unit saves depends on its neighbours: a float convolution between two integer ones needs two
conversions. So a unit is timed by making it float in the model in which all others are integer. The knapsack
takes the set of least time whose errors add up to the tolerance; then single units, and whole connected
parts, are exchanged while the measured latency falls.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx

from onnx_admm.allocation.allocation import Option, least_cost
from onnx_admm.quantization.placement import place, roots_read
from onnx_admm.quantization.units import Kind, Unit

_logger = logging.getLogger(__name__)

Asked = frozenset[int]
"""Nodes of the products and kernels that are requested to be integer."""

_GAIN = 0.005
"""Share of the latency that an exchange must save, since timing is no more exact."""


@dataclass
class PlacementSearch:
    """Search of the fastest placement within a tolerance.

    Attributes:
        units: all units, in order.
        errors: relative error of the outputs by root value, when it alone is rounded.
        latencies: returns the latency of placements over the float model's; inf for one that cannot be built.
        most_timed: placements that are timed, at most.
        gains: latency that each unit saves in its surroundings, over the float model's; by node. A unit
            whose model could not be built has none.
    """

    units: Sequence[Unit]
    errors: Mapping[str, float]
    latencies: Callable[[Sequence[Asked]], Sequence[float]]
    most_timed: int
    gains: dict[int, float] = field(default_factory=dict)
    _known: dict[Asked, float] = field(default_factory=dict)

    def latency(self, asked: Asked) -> float:
        """Return the latency of one placement over the float model's; 1 for none."""
        self._time([asked])
        return self._known[asked]

    def best(self, allowed: Collection[int], tolerance: float) -> Asked:
        """Return the fastest placement found whose expected error is within the tolerance.

        Args:
            allowed: nodes that may be integer.
            tolerance: largest sum of relative errors.
        """
        nodes = [unit.node for unit in self.units if unit.kind is not Kind.PASSING and unit.node in allowed]
        everything = self._effective(frozenset(nodes))
        without = {node: self._effective(everything - {node}) for node in sorted(everything)}
        self._time([frozenset(), everything, *without.values()])
        whole = self._known[everything]
        if math.isfinite(whole):
            timed = {node: self._known[other] for node, other in without.items()}
            self.gains |= {node: other - whole for node, other in timed.items() if math.isfinite(other)}
        _logger.info("all %d units: %.3f of the latency; each saves %s", len(everything), whole, self.gains)
        paying = frozenset(node for node in everything if self.gains.get(node, 0.0) > -_GAIN * whole)
        starts = {self._effective(self._knapsack(sorted(everything & self.gains.keys()), tolerance))}
        starts |= {
            each for each in (everything, self._effective(paying)) if self.expected_error(each) <= tolerance
        }
        self._time(sorted(starts, key=sorted))
        built = [each for each in sorted(starts, key=sorted) if math.isfinite(self._known[each])]
        chosen = min(built, key=lambda each: self._known[each], default=frozenset[int]())
        return self._improved(chosen, everything, tolerance)

    def gain_within(self, node: int, chosen: Asked) -> float | None:
        """Return the latency that a unit saves beside the others of a placement; None where it was not timed.

        Args:
            node: of the unit, of the placement or not.
            chosen: the placement.
        """
        without, within = self._effective(chosen - {node}), self._effective(chosen | {node})
        times = [self._known.get(each, math.inf) for each in (without, within)]
        return times[0] - times[1] if without != within and all(map(math.isfinite, times)) else None

    def least_with(self, node: int) -> float | None:
        """Return the least latency of the timed placements with a unit; None where there is none."""
        times = [time for asked, time in self._known.items() if node in asked and math.isfinite(time)]
        return min(times, default=None)

    def expected_error(self, asked: Asked) -> float:
        """Return the sum of the errors of the values that the placement rounds."""
        reads = roots_read(self.units)
        rounded = {root for unit in place(self.units, asked).units for root in reads.get(unit.node, ())}
        return sum(self.errors.get(root, 0.0) for root in rounded)

    def _knapsack(self, nodes: Sequence[int], tolerance: float) -> Asked:
        """Return the set of least time whose errors fit, each value's error shared by its units."""
        reads = roots_read(self.units)
        sharers = {root: sum(root in reads[node] for node in nodes) for node in nodes for root in reads[node]}
        least = min((self.gains[node] for node in nodes), default=0.0)
        offset = max(0.0, -least)
        options: dict[str, list[Option[bool]]] = {}
        for node in nodes:
            error = sum(self.errors.get(root, 0.0) / sharers[root] for root in reads[node])
            gain = self.gains[node]
            options[str(node)] = [Option(offset + gain, 0.0, False), Option(offset, error, True)]
        selected = least_cost(options, tolerance) if options else {}
        return frozenset(int(name) for name, option in selected.items() if option.what)

    def _improved(self, chosen: Asked, everything: Asked, tolerance: float) -> Asked:
        best, latency = chosen, self.latency(chosen)
        while len(self._known) < self.most_timed:
            neighbours = {self._effective(best - part) for part in self._parts(best)}
            if latency < 1.0 or not neighbours:  # single units do not make up for a part that costs time
                neighbours |= {self._effective(best ^ {node}) for node in everything}
            neighbours = {
                other for other in neighbours if other != best and self.expected_error(other) <= tolerance
            }
            self._time(sorted(neighbours, key=sorted))
            found = min(neighbours & self._known.keys(), key=lambda each: self._known[each], default=best)
            if self._known[found] > latency - _GAIN * latency:
                break
            best, latency = found, self._known[found]
            _logger.info("placement of %d units: %.3f of the latency", len(best), latency)
        return best

    def _parts(self, asked: Asked) -> list[Asked]:
        """Return the connected parts of a placement."""
        graph: nx.Graph[int | str] = nx.Graph()
        placed = place(self.units, asked)
        for unit in placed.units:
            graph.add_node(unit.node)
            graph.add_edges_from((unit.node, value) for value in (*unit.inputs, unit.output))
        parts = [
            frozenset(n for n in part if isinstance(n, int)) & asked
            for part in nx.connected_components(graph)
        ]
        return [part for part in parts if len(part) > 1]

    def _effective(self, asked: Asked) -> Asked:
        """Return the nodes that are integer in fact: kernels of float values are not."""
        return frozenset(unit.node for unit in place(self.units, asked).units) & asked

    def _time(self, placements: Sequence[Asked]) -> None:
        unknown = [each for each in dict.fromkeys(placements) if each not in self._known]
        self._known.setdefault(frozenset(), 1.0)
        unknown = [each for each in unknown if each]
        if unknown:
            self._known |= dict(zip(unknown, self.latencies(unknown), strict=True))
