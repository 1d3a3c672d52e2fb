"""One quantisation of activations: placements that are built, timed, confirmed, and given their reasons."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_admm.contracts import Feeds, ModelView
from onnx_admm.measurement.sensitivity import Effect, OutputProbe
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.quantization.forms import BIAS_TOO_LARGE, IntegerForms
from onnx_admm.quantization.linear.forms import find_linear_layers
from onnx_admm.quantization.linear.search import Confirmation
from onnx_admm.quantization.linear.stage import LinearStage
from onnx_admm.quantization.placing.exchanges import Asked
from onnx_admm.quantization.placing.placement import place, roots_read
from onnx_admm.quantization.placing.search import MOST_OF_MANY, MOST_SINGLE, PlacementSearch
from onnx_admm.quantization.reasons import NOTHING_ALLOWED, OTHER_FORMS, TOO_LITTLE, Reasons
from onnx_admm.quantization.result import Result, decibels, nothing_to_compare
from onnx_admm.quantization.saturation import largest_code
from onnx_admm.quantization.settings import QuantizerSettings, Samples
from onnx_admm.quantization.units import Floats, Kind, roots_of
from onnx_admm.runtime.sessions import open_session, optimised_model
from onnx_admm.runtime.turns import ratios_of

_logger = logging.getLogger(__name__)

_THREADS = 1
"""Threads of timed runs: processor time is exact on one."""

_SAME_SCORES = 1e-3
"""Relative error of scores, 30 dB, up to which predictions may change, as for rounded weights."""

_SEARCH_SECONDS, _RUNS_OF_PLACEMENT, _LEAST_TIMED = 8.0, 12, 6
"""Seconds that exchanges of a model with many units are timed for, the runs that each takes at least, and the
number of them however slow the model is."""

_BUILT_BYTES = 1 << 28
"""Bytes of float models whose placements are built at once, about."""

_ATTEMPTS = 5
_FIRST_LIMIT = 2.0
"""Factor of the tolerance for the sum of single errors at first: they partly cancel, and all is measured."""

_STRICTER = 0.5
"""Factor of the tolerance after a placement that failed on unseen samples."""


class QuantizationRun:
    """One model, its units and ranges, and the placements that were built of them.

    Attributes:
        ranges: range of each root value; at first that of the extremes, with which latencies are measured.
        weight_errors: relative error of the outputs by unit whose weight is rounded when it is integer.
        roots: values whose ranges matter: those of the fastest placement without a tolerance.
    """

    def __init__(
        self, quantizer: QuantizerSettings, model: ModelView, forms: IntegerForms, samples: Samples
    ) -> None:
        self._quantizer, self._model, self._samples = quantizer, model, samples
        self._forms, self._units = forms, forms.units
        self._roots, self._reads = roots_of(self._units), roots_read(self._units)
        self.ranges = forms.extremes()
        self.weight_errors: dict[int, float] = {}
        self._fastest, self._chosen = frozenset[int](), frozenset[int]()
        self._bytes = model.to_bytes(maps=False)
        self._feeds: Feeds = next(samples.measured.select(np.arange(1)).batches(1)).feeds
        self._search = PlacementSearch(
            self._units, {}, self._latencies, quantizer.trials, enough=quantizer.most_latency
        )

    @property
    def roots(self) -> list[str]:
        """Values that the fastest placement rounds, in order of their names."""
        return sorted({root for node in self._fastest for root in self._reads[node]})

    @property
    def rounded_weights(self) -> dict[int, tuple[str, Floats]]:
        """Name and values of the weights that the fastest placement rounds, by node."""
        return self._forms.rounded_weights(self._fastest)

    def without_gain(self, left: dict[str, str]) -> Result | None:
        """Return the result where even the fastest placement without a tolerance gains too little; else None.

        Latencies do not depend on ranges, and to choose these takes many runs: so latency comes first.
        """
        search, ranges = self._search, self.ranges
        timed = self._forms.possible(ranges, left)
        if len(timed) > MOST_SINGLE:
            search.estimate = estimate = self._forms.estimate(timed, ranges, self._feeds)
            if estimate is not None:
                most = _SEARCH_SECONDS / (_RUNS_OF_PLACEMENT * estimate.seconds)
                search.most_of_many = int(np.clip(most, _LEAST_TIMED, MOST_OF_MANY))
        self._fastest = search.best(timed, float("inf"))
        latency, most = search.latency(self._fastest), self._quantizer.most_latency
        if self._fastest and latency <= most:
            return None
        reasons = Reasons(search, self._fastest)
        if not self._fastest:
            reasons.add_to(left, {})
            return Result(left=left, timed=search.timed, why=reasons.of_none())
        taken = {unit.layer: TOO_LITTLE for unit in self._units if unit.node in self._fastest}
        left |= {layer: why for layer, why in taken.items() if layer not in left}
        reasons.add_to(left, {})
        return Result(left=left, timed=search.timed, why=reasons.of_too_little(latency, most))

    def result(self, left: dict[str, str], stopped: Result | None) -> Result:
        """Return the best placement that holds on the unseen samples, with the forms of linear layers.

        Args:
            left: reasons of layers that stay float, which are added to.
            stopped: result where static integers gain too little; None where they are placed.
        """
        base = self._forms.base
        if stopped is not None and not self._has_linear(base):
            return stopped
        probes = [self._probe(each) for each in (self._quantizer.reference, None)]
        if not all(probe.is_comparable for probe in probes):
            return nothing_to_compare(self._units, left)
        stage, placed = self._linear_stage(probes), stopped or self._placed(left, probes)
        found = stage.improved(placed, base)
        again = self._without_linear(placed) if stage.has_layers(placed, base) else None
        if again is None:
            return found
        return min(found, stage.improved(again, base), key=lambda each: each.latency_ratio)

    def _has_linear(self, base: ModelView) -> bool:
        """Return whether some layer may have one of the forms of linear layers."""
        quantizer = self._quantizer
        largest = largest_code(quantizer.steps)
        forms = quantizer.linear_forms
        return bool(forms and find_linear_layers(base, quantizer.layers, forms, largest)[0])

    def _without_linear(self, placed: Result) -> Result | None:
        """Return a placement with its Gemm and MatMul in float; None where none of them is integer.

        Where the tolerance does not reach for all of them, static ranges for some may leave too little of it
        for the forms that are as fast and round less.
        """
        linear = {
            unit.node: unit.layer
            for unit in self._units
            if unit.node in self._chosen and unit.kind is Kind.PRODUCT and not unit.must_quantise
        }
        if not linear:
            return None
        kept = place(self._units, self._chosen - linear.keys()).units
        layers = {unit.layer for unit in kept if unit.kind is not Kind.PASSING}
        built = self._forms.build(self._chosen - linear.keys(), self.ranges) if layers else None
        return replace(
            placed,
            model=built,
            latency_ratio=float("inf"),
            integer={layer: what for layer, what in placed.integer.items() if built and layer in layers},
            left={**placed.left, **dict.fromkeys(linear.values(), OTHER_FORMS)},
        )

    def _linear_stage(self, probes: Sequence[OutputProbe]) -> LinearStage:
        quantizer = self._quantizer
        measured = probes[1].on(self._samples.measured)
        most_error = 10 ** (-quantizer.tolerance.least_sqnr_db / 10)

        def latencies(base: ModelView, models: Sequence[ModelView]) -> list[float]:
            forms = [each.to_bytes(maps=False) for each in models]
            return ratios_of(base.to_bytes(maps=False), forms, self._feeds, _THREADS)

        def confirm(model: ModelView) -> Confirmation:
            effect, added = self._effects(model, probes)
            error = effect.relative_error if effect.agreement is None else added.score_error
            return Confirmation(effect, self._holds(effect, added), error / most_error)

        return LinearStage(
            before=self._model,
            layers=quantizer.layers,
            forms=quantizer.linear_forms,
            largest=largest_code(quantizer.steps),
            most_error=most_error,
            latencies=latencies,
            error=lambda model: self._effects(model, [measured])[0].score_error,
            confirm=confirm,
        )

    def _placed(self, left: dict[str, str], probes: Sequence[OutputProbe]) -> Result:
        """Return the best placement that holds on the unseen samples."""
        allowed = self._allowed(left)
        if not any(unit.kind is Kind.PRODUCT and unit.node in allowed for unit in self._units):
            return Result(left=left, why=NOTHING_ALLOWED)
        extremes = {name: found.of_extremes for name, found in self.ranges.items()}
        search, limit = self._search, self._quantizer.first_limit
        search.errors = {name: found.error for name, found in self.ranges.items()}
        search.weight_errors = self.weight_errors
        failed = set[int]()
        for _ in range(_ATTEMPTS):
            chosen = search.best(allowed, limit)
            if not chosen:
                break
            for ranges in (self.ranges, extremes):
                built = self._forms.build(chosen, ranges)
                if built is None:
                    continue
                effect, added = self._effects(built, probes)
                if self._holds(effect, added):
                    self.ranges, self._chosen = ranges, chosen
                    return self._result(built, chosen, search, effect, left)
                failed |= chosen
                _logger.info(
                    "a placement of %d units fails on unseen samples: agreement %s, %.1f dB, %.1f dB added",
                    len(chosen),
                    effect.agreement,
                    decibels(effect.relative_error),
                    decibels(added.relative_error),
                )
            limit = _STRICTER * min(limit, search.expected_error(chosen))
        reasons = Reasons(search, failed=failed)
        reasons.add_to(left, {})
        return Result(left=left, timed=search.timed, why=reasons.of_none())

    def _allowed(self, left: dict[str, str]) -> list[int]:
        """Return the units whose values may be rounded; note why others may not."""
        least_db = self._quantizer.tolerance.least_alone_db
        most = 10 ** (-least_db / 10)
        allowed = []
        names = {unit.node: unit.layer for unit in self._units}
        too_large = self._forms.biases_too_large(self.ranges)
        for node, roots in self._reads.items():
            if node not in self._fastest:
                continue
            worst = max(roots, key=lambda root: self._error(root))
            if node in too_large:
                left[names[node]] = BIAS_TOO_LARGE
            elif self.weight_errors.get(node, 0.0) > most:
                alone = decibels(self.weight_errors[node])
                left[names[node]] = (
                    f"its weight alone in 8 bits leaves the outputs {alone:.1f} dB, under {least_db:g}"
                )
            elif self._error(worst) <= most:
                allowed.append(node)
            else:
                alone = decibels(self._error(worst))
                left[names[node]] = (
                    f"{worst} alone in 8 bits leaves the outputs {alone:.1f} dB, under {least_db:g}"
                )
        return allowed

    def _error(self, root: str) -> float:
        found = self.ranges.get(root)
        return float("inf") if found is None else found.error

    def _latencies(self, placements: Sequence[Asked]) -> list[float]:
        found: list[float] = []
        at_once = max(1, _BUILT_BYTES // len(self._bytes))
        for start in range(0, len(placements), at_once):
            built = [self._forms.build(asked, self.ranges) for asked in placements[start : start + at_once]]
            forms = [each.to_bytes(maps=False) for each in built if each is not None]
            ratios = iter(ratios_of(self._bytes, forms, self._feeds, _THREADS))
            found += [float("inf") if each is None else next(ratios) for each in built]
        return found

    def _ratio_of(self, built: ModelView) -> float:
        """Return the latency of the result: a placement was chosen for a small one, which may be chance."""
        return ratios_of(self._bytes, [built.to_bytes(maps=False)], self._feeds, _THREADS)[0]

    def _probe(self, reference: ModelView | None) -> OutputProbe:
        """Return a comparison on the unseen samples with a reference; None: with the model before."""
        threads = self._quantizer.context.settings.threads
        return OutputProbe(self._model, [], self._samples.unseen, reference=reference, threads=threads)

    def _effects(self, other: ModelView, probes: Sequence[OutputProbe]) -> list[Effect]:
        """Return the effect of a model against each reference."""
        threads = self._quantizer.context.settings.threads
        session = open_session(probes[0].form_of(other), threads=threads, keeps_arena=False)
        return [probe.effect_of(session.run) for probe in probes]

    def _holds(self, effect: Effect, added: Effect) -> bool:
        """Return whether predictions stay the reference's; without any, whether the outputs do."""
        tolerance = self._quantizer.tolerance
        limit = 10 ** (-tolerance.least_sqnr_db / 10)
        if effect.agreement is None:
            return effect.relative_error <= limit
        agrees = effect.keeps_predictions(tolerance.least_agreement)
        hardly_changed = max(effect.by_output.values()) <= 10 ** (-tolerance.blind_sqnr_db / 10)
        same_scores = effect.has_scores and effect.score_error <= _SAME_SCORES
        return (agrees or hardly_changed or same_scores) and added.score_error <= limit

    def _result(
        self, built: ModelView, chosen: Asked, search: PlacementSearch, effect: Effect, left: dict[str, str]
    ) -> Result:
        placed = place(self._units, chosen)
        reasons = Reasons(search, chosen)
        integer = {
            unit.layer: reasons.of_integer(unit, self._forms.keeps_weight(unit))
            for unit in placed.units
            if unit.kind is not Kind.PASSING
        }
        reasons.add_to(left, integer)
        return Result(
            model=built,
            latency_ratio=self._ratio_of(built),
            effect=effect,
            integer=integer,
            left=left,
            kernels=kernel_counts(optimised_model(built.to_bytes(maps=False))),
            ranges={
                name: self.ranges[name] for name in sorted({self._roots.get(n, n) for n in placed.quantised})
            },
            timed=search.timed,
        )
