"""Forms of one model: the same with some of its units integer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from onnx_admm.contracts import Feeds, ModelView
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.model.integers.plan import IntegerWeight, TensorGrid
from onnx_admm.model.integers.write import write_integers
from onnx_admm.quantization.histograms import Histogram
from onnx_admm.quantization.placing.estimate import LatencyEstimate, estimate_of
from onnx_admm.quantization.placing.exchanges import Asked
from onnx_admm.quantization.placing.placement import grid_at, place, plan_of, product_with_bias, roots_read
from onnx_admm.quantization.range_choice import ChosenRange
from onnx_admm.quantization.units import Floats, Unit, roots_of
from onnx_admm.quantization.weights import integer_weight

_logger = logging.getLogger(__name__)

BIAS_TOO_LARGE = "its bias is too large for int32 in steps of its weight's own grid"

Ranges = Mapping[str, ChosenRange]


class IntegerForms:
    """Builds forms of one model.

    Attributes:
        base: the model of which no unit is integer.

    Args:
        base: the model, in the form that integers are written into.
        units: its units.
        histograms: of all root values, and of what products read.
        samples: samples that the histograms are of.
        steps: steps of an activation's grid.
    """

    def __init__(
        self,
        base: ModelView,
        units: tuple[Unit, ...],
        histograms: Mapping[str, Histogram],
        samples: int,
        steps: int,
    ) -> None:
        self.units = units
        self.base, self._samples, self._steps = base, samples, steps
        self._ranks = {name: found.rank for name, found in histograms.items()}
        self._known = {name: found for name, found in histograms.items() if found.is_known}
        self._roots = roots_of(units)
        self._weights, self._kept = dict[int, IntegerWeight](), dict[int, bool]()
        for unit in units:
            if unit.weight is not None:
                found = integer_weight(unit.weight_name, unit.weight, unit.axis)
                self._weights[unit.node], self._kept[unit.node] = found

    def keeps_weight(self, unit: Unit) -> bool:
        """Return whether the weight of a unit lies on a grid of its own, which it keeps."""
        return self._kept.get(unit.node, False)

    def rounded_weights(self, nodes: Collection[int]) -> dict[int, tuple[str, Floats]]:
        """Return name and values of the weights that are rounded when these units are integer, by node."""
        return {
            unit.node: (unit.weight_name, self._weights[unit.node].values)
            for unit in self.units
            if unit.node in nodes and unit.weight is not None and not self._kept[unit.node]
        }

    def extremes(self) -> dict[str, ChosenRange]:
        """Return the range of the extremes of each value that has a finite element."""
        return {name: ChosenRange.unmeasured(found) for name, found in self._known.items()}

    def build(self, asked: Asked, ranges: Ranges) -> ModelView | None:
        """Return the model with these units integer; None where a bias does not fit."""
        plan = plan_of(place(self.units, asked), self._roots, self._grids(ranges), self._weights, self._ranks)
        if plan is None:
            return None
        fork = self.base.fork()
        write_integers(fork, plan)
        return fork

    def biases_too_large(self, ranges: Ranges) -> set[int]:
        """Return the products whose bias int32 does not hold, by node."""
        grids = self._grids(ranges)
        found = set[int]()
        for unit in self.units:
            if unit.bias is not None and self._roots.get(unit.inputs[0], unit.inputs[0]) in grids:
                grid = grid_at(unit.inputs[0], self._roots, grids)
                if product_with_bias(unit, self._weights[unit.node], grid) is None:
                    found.add(unit.node)
        return found

    def possible(self, ranges: Ranges, left: dict[str, str]) -> list[int]:
        """Return the units whose values and biases have a grid; note why others have none."""
        names, too_large = {unit.node: unit.layer for unit in self.units}, self.biases_too_large(ranges)
        possible = []
        for node, reads in roots_read(self.units).items():
            unknown = sorted(reads - ranges.keys())
            if unknown:
                left[names[node]] = f"{unknown[0]} has no finite value on the samples"
            elif node in too_large:
                left[names[node]] = BIAS_TOO_LARGE
            else:
                possible.append(node)
        return possible

    def estimate(self, nodes: Sequence[int], ranges: Ranges, feeds: Feeds) -> LatencyEstimate | None:
        """Return the estimated latency of placements of these units; None where it cannot be profiled."""
        form = self.build(frozenset(nodes), ranges)
        elements = {name: found.elements / self._samples for name, found in self._known.items()}
        try:
            return None if form is None else estimate_of(self.base, form, self.units, elements, feeds)
        except OnnxAdmmError as error:
            _logger.info("no profile: %s", error)
            return None

    def _grids(self, ranges: Ranges) -> dict[str, TensorGrid]:
        return {name: found.range.grid(self._steps) for name, found in ranges.items()}
