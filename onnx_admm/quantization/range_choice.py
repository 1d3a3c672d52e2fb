"""Choice of each activation's range by the measured error of the outputs.

One value at a time is rounded in the model, with each candidate range, and the outputs are compared. So the
range depends on the effect of the value's outliers on the outputs, which the value's own distribution does
not show.

A value whose error with the range of its extremes is negligible keeps that range. For any other, candidates
are compared on a few of the samples, and the best of them on all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_admm.contracts import Feeds, Task
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.measurement.staged_session import EditedSession
from onnx_admm.model.integers.trial import SCALE, ZERO_POINT, with_trial_grid
from onnx_admm.quantization.histograms import Histogram
from onnx_admm.quantization.ranges import ActivationRange, RangeMethod, candidate_ranges, range_of_extremes

_NARROWER = (0.7, 0.5, 0.35, 0.25, 0.15, 0.05, 0.0)
"""Shares of one side of a range that are tried in turn."""

_HOPELESS = 3.0
"""Factor of the least error above which a side is not narrowed further."""

_WORTH = 0.9
"""Share of the error of the min-max range that another one must stay under."""


@dataclass(frozen=True, slots=True)
class ChosenRange:
    """The range of one value, and the relative error of the outputs when it alone is rounded.

    Attributes:
        range: the range.
        error: relative error of the outputs.
        min_max_error: the same with the range of the extremes.
        min_max: that range.
    """

    range: ActivationRange
    error: float
    min_max_error: float
    min_max: ActivationRange

    @classmethod
    def unmeasured(cls, histogram: Histogram) -> ChosenRange:
        """Return the range of the extremes, as if it cost nothing: enough to time a model with it."""
        whole = range_of_extremes(histogram)
        return cls(whole, 0.0, 0.0, whole)

    @property
    def of_extremes(self) -> ChosenRange:
        """The same value with the range of its extremes."""
        return ChosenRange(self.min_max, self.min_max_error, self.min_max_error, self.min_max)


@dataclass(frozen=True, kw_only=True)
class RangeChoice:
    """Chooses ranges of the values of one model.

    Attributes:
        probe: the model, of opset 13 or newer, with the samples to measure on; opened for edits.
        steps: steps of the grids.
        methods: methods to choose among; the extremes are always tried.
        few: the same with a few of the samples; None: all of them.
        negligible: error of a value up to which the range of its extremes is taken.
    """

    probe: OutputProbe
    steps: int
    methods: frozenset[RangeMethod]
    few: OutputProbe | None = None
    negligible: float = 0.0

    def of(self, histograms: Mapping[str, Histogram], task: Task) -> dict[str, ChosenRange]:
        """Return the range of each value with a histogram that has seen finite elements.

        Args:
            histograms: by value.
            task: advances by one for each value.
        """
        found: dict[str, ChosenRange] = {}
        for name, histogram in histograms.items():
            if histogram.is_known:
                trial = self.probe.edited(name, partial(with_trial_grid, name=name))
                found[name] = self._choose(trial, histogram)
            task.advance(note=name)
        return found

    def _choose(self, trial: EditedSession, histogram: Histogram) -> ChosenRange:
        whole = range_of_extremes(histogram)
        error = self._error(trial, whole, self.probe)
        found = ChosenRange(whole, error, error, whole)
        is_whole_fine = RangeMethod.MIN_MAX in self.methods
        if is_whole_fine and error <= self.negligible:
            return found
        if self.few is None:
            return self._best(trial, histogram, self.probe, found)
        start = self._error(trial, whole, self.few)
        best = self._best(trial, histogram, self.few, ChosenRange(whole, start, start, whole))
        if best.range == whole:
            return found
        confirmed = self._error(trial, best.range, self.probe)
        if confirmed > (_WORTH * error if is_whole_fine else error):
            return found
        return replace(found, range=best.range, error=confirmed)

    def _best(
        self, trial: EditedSession, histogram: Histogram, probe: OutputProbe, extremes: ChosenRange
    ) -> ChosenRange:
        """Return the range of least error on the samples of a probe, the extremes' error being known."""
        others = [each for each in candidate_ranges(histogram, self.steps)[1:] if each.method in self.methods]
        candidates = [extremes.range, *others]
        errors = [extremes.error, *(self._error(trial, each, probe) for each in others)]
        best = int(np.argmin(errors))
        if RangeMethod.MIN_MAX in self.methods and errors[best] > _WORTH * extremes.error:
            best = 0
        found = replace(extremes, range=candidates[best], error=errors[best])
        return self._narrowed(trial, found, probe) if RangeMethod.OUTPUT in self.methods else found

    def _narrowed(self, trial: EditedSession, found: ChosenRange, probe: OutputProbe) -> ChosenRange:
        """Return the range with each side narrowed as long as the error of the outputs falls.

        Each side is narrowed by itself: elements that the next activation drops need no codes.
        """
        for side in ("low", "high"):
            start = found.range
            for share in _NARROWER:
                ends = {"low": start.low, "high": start.high, side: getattr(start, side) * share}
                if ends == {"low": start.low, "high": start.high}:
                    break
                candidate = ActivationRange(ends["low"], ends["high"], RangeMethod.OUTPUT)
                error = self._error(trial, candidate, probe)
                if error <= _WORTH * found.error:
                    found = replace(found, range=candidate, error=error)
                elif error > _HOPELESS * found.error:
                    break
        return found

    def _error(self, trial: EditedSession, candidate: ActivationRange, probe: OutputProbe) -> float:
        grid = candidate.grid(self.steps)
        further: Feeds = {
            SCALE: np.array(grid.scale, np.float32),
            ZERO_POINT: np.array(grid.zero_point, np.uint8),
        }
        return probe.effect_of_edit(trial, further).score_error
