"""Search of a placement: few units are timed one by one, many by estimates first and in groups.

What a unit saves depends on its neighbours: a float convolution between two integer ones needs two
conversions. So a unit is timed by making it float in the model in which all others are integer. The knapsack
takes the set of least time whose errors add up to the tolerance; then single units, and whole connected
parts, are exchanged while the measured latency falls.

That takes a timed model for each unit. Where there are many units, a gain of one is less than timing can
tell. There the search runs on an estimate of the latency (see ``estimate``), which costs no run, and times
its results; then the connected parts and the groups of units that the estimate is least sure of.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from onnx_admm.allocation.allocation import Option, least_cost
from onnx_admm.quantization.placing.exchanges import Asked, descend, effective, parts_of, runs_of
from onnx_admm.quantization.placing.placement import place, roots_read
from onnx_admm.quantization.units import Kind, Unit

_logger = logging.getLogger(__name__)

_GAIN = 0.005
"""Share of the latency that an exchange must save, since timing is no more exact."""

MOST_SINGLE = 16
"""Units up to which each is timed by itself."""

MOST_OF_MANY = 18
"""Placements that are timed where there are more units."""

_AT_A_TIME = 6
"""Groups of units that are timed before the best is taken."""

_UNSURE = 0.01
"""Share of the latency up to which an estimated gain of one unit may be wrong."""

_OUT_OF_REACH = 0.1
"""Share of the latency that exchanges of groups do not make up."""


@dataclass
class PlacementSearch:
    """Search of the fastest placement within a tolerance.

    Attributes:
        units: all units, in order.
        errors: relative error of the outputs by root value, when it alone is rounded.
        weight_errors: the same by node, of units whose weight is rounded when they are integer.
        latencies: returns the latency of placements over the float model's; inf for one that cannot be built.
        most_timed: placements that are timed, at most.
        estimate: returns the estimated latency of a placement; None where there is no estimate, and each unit
            is timed.
        most_of_many: the same where each unit is not timed by itself, of one search.
        enough: latency that a placement must not exceed to be of use.
        gains: latency that each unit saves in its surroundings, over the float model's; by node. A unit
            whose model could not be built has none, and one that was not timed by itself.
        estimated: the same, estimated, of units that were not timed by themselves.
    """

    units: Sequence[Unit]
    errors: Mapping[str, float]
    latencies: Callable[[Sequence[Asked]], Sequence[float]]
    most_timed: int
    estimate: Callable[[Asked], float] | None = None
    most_of_many: int = MOST_OF_MANY
    enough: float = 1.0
    gains: dict[int, float] = field(default_factory=dict)
    estimated: dict[int, float] = field(default_factory=dict)
    tolerance: float = math.inf
    weight_errors: Mapping[int, float] = field(default_factory=dict)
    _known: dict[Asked, float] = field(default_factory=dict)
    _improved_before: set[Asked] = field(default_factory=set)

    def latency(self, asked: Asked) -> float:
        """Return the latency of one placement over the float model's; 1 for none."""
        self._time([asked])
        return self._known[asked]

    def best(self, allowed: Collection[int], tolerance: float) -> Asked:
        """Return the fastest placement found whose expected error is within the tolerance.

        Where the result of a former search is all that is allowed, it is the result again if it fits: there
        are no other exchanges.

        Args:
            allowed: nodes that may be integer.
            tolerance: largest sum of relative errors.
        """
        self.tolerance = tolerance
        nodes = [unit.node for unit in self.units if unit.kind is not Kind.PASSING and unit.node in allowed]
        everything = effective(self.units, frozenset(nodes))
        estimate = None if len(everything) <= MOST_SINGLE else self.estimate
        if everything in self._improved_before and self.fits(everything):
            return everything
        if estimate is None:
            found = self._improved(self._fastest(self._timed_starts(everything)), everything)
        else:
            start = self._fastest(self._estimated_starts(everything, estimate) - {frozenset()})
            found = self._improved_by_groups(start, everything, estimate)
            found = found if self._known[found] < 1.0 else frozenset()
        self._improved_before.add(found)
        return found

    def fits(self, asked: Asked) -> bool:
        """Return whether the expected error of a placement is within the tolerance of the last search."""
        return self.expected_error(asked) <= self.tolerance

    @property
    def timed(self) -> int:
        """Number of placements that were timed."""
        return len(self._known.keys() - {frozenset()})

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
        """Return the sum of the errors of the values and weights that the placement rounds."""
        reads, placed = self._reads, place(self.units, asked).units
        rounded = {root for unit in placed for root in reads.get(unit.node, ())}
        of_weights = sum(self.weight_errors.get(unit.node, 0.0) for unit in placed)
        return of_weights + sum(self.errors.get(root, 0.0) for root in rounded)

    def _timed_starts(self, everything: Asked) -> set[Asked]:
        """Return placements to begin with, after timing each unit by taking it out of the whole."""
        without = {node: self._effective(everything - {node}) for node in sorted(everything)}
        self._time([everything, *without.values()])
        whole = self._known[everything] if everything else 1.0
        if math.isfinite(whole):
            timed = {node: self._known[other] for node, other in without.items()}
            self.gains |= {node: other - whole for node, other in timed.items() if math.isfinite(other)}
        _logger.info("all %d units: %.3f of the latency; each saves %s", len(everything), whole, self.gains)
        paying = frozenset(node for node in everything if self.gains.get(node, 0.0) > -_GAIN * whole)
        starts = {self._effective(self._knapsack(everything & self.gains.keys(), self.gains))}
        return starts | {each for each in (everything, self._effective(paying)) if self.fits(each)}

    def _estimated_starts(self, everything: Asked, estimate: Callable[[Asked], float]) -> set[Asked]:
        """Return placements to begin with, the fastest ones by the estimate."""
        whole = estimate(everything)
        gains = {node: estimate(self._effective(everything - {node})) - whole for node in everything}
        self.estimated |= gains
        _logger.info("all %d units: %.3f of the latency by estimate", len(everything), whole)
        starts = {frozenset[int](), self._effective(self._knapsack(everything, gains))}
        starts |= {everything} if self.fits(everything) else set()
        starts |= {
            descend(self.units, each, everything, estimate, self.fits) for each in sorted(starts, key=sorted)
        }
        return starts

    def _fastest(self, starts: set[Asked]) -> Asked:
        """Return the fastest of these placements by timing; the one of no unit where none can be built."""
        self._time(sorted(starts, key=sorted))
        built = [each for each in sorted(starts, key=sorted) if math.isfinite(self._known[each])]
        return min(built, key=lambda each: self._known[each], default=frozenset[int]())

    def _knapsack(self, among: Asked, gains: Mapping[int, float]) -> Asked:
        """Return the set of least time whose errors fit, each value's error shared by its units."""
        nodes, reads = sorted(among), self._reads
        sharers = {root: sum(root in reads[node] for node in nodes) for node in nodes for root in reads[node]}
        offset = max(0.0, -min((gains[node] for node in nodes), default=0.0))
        options: dict[str, list[Option[bool]]] = {}
        for node in nodes:
            error = sum(self.errors.get(root, 0.0) / sharers[root] for root in reads[node])
            error += self.weight_errors.get(node, 0.0)
            options[str(node)] = [Option(offset + gains[node], 0.0, False), Option(offset, error, True)]
        selected = least_cost(options, self.tolerance) if options else {}
        return frozenset(int(name) for name, option in selected.items() if option.what)

    def _improved(self, chosen: Asked, everything: Asked) -> Asked:
        """Return the placement after exchanges of parts and single units that are each timed."""
        best, latency = chosen, self.latency(chosen)
        while len(self._known) < self.most_timed:
            neighbours = {self._effective(best - part) for part in parts_of(self.units, best)}
            if latency < 1.0 or not neighbours:  # single units do not make up for a part that costs time
                neighbours |= {self._effective(best ^ {node}) for node in everything}
            neighbours = {other for other in neighbours if other != best and self.fits(other)}
            self._time(sorted(neighbours, key=sorted))
            found = min(neighbours & self._known.keys(), key=lambda each: self._known[each], default=best)
            if self._known[found] > latency - _GAIN * latency:
                break
            best, latency = found, self._known[found]
            _logger.info("placement of %d units: %.3f of the latency", len(best), latency)
        return best

    def _improved_by_groups(
        self, chosen: Asked, everything: Asked, estimate: Callable[[Asked], float]
    ) -> Asked:
        """Return the placement after exchanges of parts and groups that the estimate is least sure of.

        A few are timed at a time, those of least estimated latency first. One that changes next to nothing
        is tried again in halves, since what gains and what loses may make up for one another in it.
        """
        best, latency = chosen, self.latency(chosen)
        changes = self._unsure(best, everything, estimate)
        most = min(self.most_timed, self.timed + self.most_of_many)
        while changes and self.timed < most and latency <= self.enough + _OUT_OF_REACH:
            after = {change: self._effective(best ^ change) for change in changes}
            after = {change: other for change, other in after.items() if other != best and self.fits(other)}
            tried = sorted(after, key=lambda change: (estimate(after[change]), sorted(change)))[:_AT_A_TIME]
            self._time([after[change] for change in tried])
            changes = [change for change in after if change not in tried]
            for change in tried:
                other = self._effective(best ^ change)  # beside those that were taken already
                if self._known[after[change]] > latency * (1 - _GAIN) and other == after[change]:
                    changes += _halves(change) if self._known[other] < latency + _UNSURE else []
                elif self.fits(other) and other != best:
                    self._time([other])
                    if self._known[other] <= latency * (1 - _GAIN):
                        best, latency = other, self._known[other]
                        _logger.info("placement of %d units: %.3f of the latency", len(best), latency)
        return best

    def _unsure(self, best: Asked, everything: Asked, estimate: Callable[[Asked], float]) -> list[Asked]:
        """Return the changes that may pay where the estimate is wrong: parts, and groups of units."""
        here = estimate(best)
        close = {
            node
            for node in everything
            if (other := self._effective(best ^ {node})) == best or estimate(other) - here <= _UNSURE
        }
        order = sorted(everything)
        groups = [*runs_of(close & best, order), *runs_of(close - best, order)]
        return list(dict.fromkeys([*parts_of(self.units, best), *groups]))

    @cached_property
    def _reads(self) -> dict[int, frozenset[str]]:
        return roots_read(self.units)

    def _effective(self, asked: Asked) -> Asked:
        return effective(self.units, asked)

    def _time(self, placements: Sequence[Asked]) -> None:
        """Time placements that are unknown; that of no unit is the float model."""
        self._known.setdefault(frozenset(), 1.0)
        unknown = [each for each in dict.fromkeys(placements) if each not in self._known]
        if unknown:
            self._known |= dict(zip(unknown, self.latencies(unknown), strict=True))


def _halves(change: Asked) -> list[Asked]:
    """Return the two halves of a group; none of a single unit."""
    nodes = sorted(change)
    middle = len(nodes) // 2
    return [frozenset(nodes[:middle]), frozenset(nodes[middle:])] if middle else []
