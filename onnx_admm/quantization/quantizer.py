"""From a model and samples to the fastest model with integer activations within a tolerance."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Dataset, Feeds, ModelView, PassContext, Skip
from onnx_admm.measurement.sensitivity import Effect, OutputProbe
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.model.integers.prepare import matmuls_to_gemms
from onnx_admm.model.integers.write import OLDEST_OPSET
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.model.rewrite.expose_logits import with_scores
from onnx_admm.quantization.exchanges import Asked
from onnx_admm.quantization.forms import BIAS_TOO_LARGE, IntegerForms
from onnx_admm.quantization.histograms import Histogram, count_into, extremes_of
from onnx_admm.quantization.placement import place, roots_read
from onnx_admm.quantization.range_choice import ChosenRange, RangeChoice
from onnx_admm.quantization.ranges import RangeMethod
from onnx_admm.quantization.reasons import NOTHING_ALLOWED, TOO_LITTLE, Reasons
from onnx_admm.quantization.result import Result, decibels, nothing_to_compare
from onnx_admm.quantization.search import MOST_OF_MANY, MOST_SINGLE, PlacementSearch
from onnx_admm.quantization.units import Kind, Unit, find_units, roots_of
from onnx_admm.runtime.sessions import open_session, optimised_model
from onnx_admm.runtime.turns import ratios_of

_logger = logging.getLogger(__name__)

_THREADS = 1
"""Threads of timed runs: processor time is exact on one."""

_SAME_SCORES = 1e-3
"""Relative error of scores, 30 dB, up to which predictions may change, as for rounded weights."""

_FEW_SAMPLES, _ENOUGH_SAMPLES = 16, 48
"""Samples that ranges are compared on, where there are enough to confirm the best of them on."""

_NEGLIGIBLE, _NEGLIGIBLE_OF_SLOW = 0.1, 0.5
"""Share of the tolerance that values may take together whose ranges are not worth comparing; the same where
runs take so long that few ranges are tried at all."""

_SEARCH_SECONDS, _RUNS_OF_PLACEMENT, _LEAST_TIMED = 8.0, 12, 6
"""Seconds that exchanges of a model with many units are timed for, the runs that each takes at least, and the
number of them however slow the model is."""

_ATTEMPTS = 5
_FIRST_LIMIT = 2.0
"""Factor of the tolerance for the sum of single errors at first: they partly cancel, and all is measured."""

_STRICTER = 0.5
"""Factor of the tolerance after a placement that failed on unseen samples."""


@dataclass(frozen=True)
class Samples:
    """Samples to find ranges on, to measure errors on, and to confirm the whole on.

    Attributes:
        calibration: ranges are found on them.
        measured: errors of single values are measured on them.
        unseen: the whole is confirmed on them.
        confirmed_on: what the unseen samples are, for the report.
    """

    calibration: Dataset
    measured: Dataset
    unseen: Dataset
    confirmed_on: str


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What the outputs keep; see ``QuantizeActivations``."""

    least_sqnr_db: float
    least_agreement: float
    blind_sqnr_db: float
    least_alone_db: float


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """Quantises the activations of models.

    Attributes:
        tolerance: what the outputs keep.
        methods: methods of ranges to choose among.
        steps: steps of an activation's grid.
        trials: placements that are timed, at most.
        layers: names of the weights whose layers may be integer.
        reference: model whose outputs count as right.
        context: of the pass.
        most_latency: latency of the result over that of the model before, at most.
    """

    tolerance: Tolerance
    methods: frozenset[RangeMethod]
    steps: int
    trials: int
    layers: Collection[str]
    reference: ModelView
    context: PassContext
    most_latency: float = 1.0

    def run(self, model: ModelView, samples: Samples) -> Result:
        """Return the fastest model found that keeps the tolerance.

        Raises:
            UnsupportedModel: its opset cannot be raised to 13.
            DataError, WorkError: it does not run with the samples.
        """
        base = convert_opset(model, at_least=OLDEST_OPSET)
        units, skipped = self._units(base)
        left = {skip.layer: skip.why for skip in skipped}
        if not any(unit.kind is Kind.PRODUCT for unit in units):
            return Result(left=left, why="no layer has an integer kernel")
        histograms = self._histograms(base, units, samples)
        if matmuls_to_gemms(base, {name: found.rank for name, found in histograms.items()}):
            units, _ = self._units(base)
            histograms = self._histograms(base, units, samples)
        probe = OutputProbe(base, [], samples.measured, threads=self.context.settings.threads)
        if not probe.is_comparable:
            return nothing_to_compare(units, left)
        forms = IntegerForms(base, units, histograms, len(samples.calibration), self.steps)
        run = _Run(self, model, forms, samples)
        stopped = run.without_gain(left)
        if stopped is not None:
            return stopped
        run.ranges = self._ranges(base, probe, samples, {name: histograms[name] for name in run.roots})
        return run.result(left)

    @property
    def first_limit(self) -> float:
        """Largest sum of relative errors of single values at first."""
        return _FIRST_LIMIT * 10 ** (-self.tolerance.least_sqnr_db / 10)

    def _ranges(
        self, base: ModelView, probe: OutputProbe, samples: Samples, histograms: Mapping[str, Histogram]
    ) -> dict[str, ChosenRange]:
        """Return the range of each value; count their histograms first."""
        memory, threads = self.context.memory_bytes, self.context.settings.threads
        count_into(histograms, base, samples.calibration, memory_bytes=memory, threads=threads)
        count, few = len(samples.measured), None
        if count >= _ENOUGH_SAMPLES:
            few = probe.on(samples.measured.select(np.linspace(0, count - 1, _FEW_SAMPLES).astype(np.int64)))
        share = _NEGLIGIBLE if self.methods >= frozenset(RangeMethod) else _NEGLIGIBLE_OF_SLOW
        choice = RangeChoice(
            view=base,
            probe=probe,
            steps=self.steps,
            methods=self.methods,
            threads=threads,
            few=few,
            negligible=share * self.first_limit / max(1, len(histograms)),
        )
        with self.context.progress.task("activation ranges", len(histograms)) as task:
            return choice.of(histograms, task)

    def _units(self, base: ModelView) -> tuple[tuple[Unit, ...], tuple[Skip, ...]]:
        """Return the units that may be integer at all, and why further products are none.

        Where not even all others being integer makes a unit one, it never is: an addition far from any
        product is not measured.
        """
        units, skipped = find_units(base)
        kept = [unit for unit in units if unit.weight is None or unit.weight_name in self.layers]
        possible = place(kept, {unit.node for unit in kept}).units
        return possible, tuple(skip for skip in skipped if skip.layer in self.layers)

    def _histograms(self, base: ModelView, units: Sequence[Unit], samples: Samples) -> dict[str, Histogram]:
        """Return the extremes of all roots, and of what products read."""
        names = {root for reads in roots_read(units).values() for root in reads}
        names |= {unit.inputs[0] for unit in units if unit.kind is Kind.PRODUCT}
        memory, threads = self.context.memory_bytes, self.context.settings.threads
        return extremes_of(base, sorted(names), samples.calibration, memory_bytes=memory, threads=threads)


class _Run:
    """One model, its units and ranges, and the placements that were built of them.

    Attributes:
        ranges: range of each root value; at first that of the extremes, with which latencies are measured.
        roots: values whose ranges matter: those of the fastest placement without a tolerance.
    """

    def __init__(self, quantizer: Quantizer, model: ModelView, forms: IntegerForms, samples: Samples) -> None:
        self._quantizer, self._model, self._samples = quantizer, model, samples
        self._forms, self._units = forms, forms.units
        self._roots, self._reads = roots_of(self._units), roots_read(self._units)
        self.ranges = forms.extremes()
        self._fastest = frozenset[int]()
        self._bytes = model.to_bytes(maps=False)
        self._feeds: Feeds = next(samples.measured.select(np.arange(1)).batches(1)).feeds
        self._search = PlacementSearch(
            self._units, {}, self._latencies, quantizer.trials, enough=quantizer.most_latency
        )

    @property
    def roots(self) -> list[str]:
        """Values that the fastest placement rounds, in order of their names."""
        return sorted({root for node in self._fastest for root in self._reads[node]})

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

    def result(self, left: dict[str, str]) -> Result:
        """Return the best placement that holds on the unseen samples."""
        allowed = self._allowed(left)
        if not any(unit.kind is Kind.PRODUCT and unit.node in allowed for unit in self._units):
            return Result(left=left, why=NOTHING_ALLOWED)
        probes = [self._probe(each) for each in (self._quantizer.reference, None)]
        if not all(probe.is_comparable for probe in probes):
            return nothing_to_compare(self._units, left)
        extremes = {name: found.of_extremes for name, found in self.ranges.items()}
        search, limit = self._search, self._quantizer.first_limit
        search.errors = {name: found.error for name, found in self.ranges.items()}
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
                    self.ranges = ranges
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
        built = [self._forms.build(asked, self.ranges) for asked in placements]
        forms = [each.to_bytes(maps=False) for each in built if each is not None]
        ratios = iter(ratios_of(self._bytes, forms, self._feeds, _THREADS))
        return [float("inf") if each is None else next(ratios) for each in built]

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
        session = open_session(with_scores(other), threads=threads, keeps_arena=False)
        return [probe.effect_of(session.run) for probe in probes]

    def _holds(self, effect: Effect, added: Effect) -> bool:
        """Return whether predictions stay the reference's; without any, whether the outputs do."""
        tolerance = self._quantizer.tolerance
        limit = 10 ** (-tolerance.least_sqnr_db / 10)
        if effect.agreement is None:
            return effect.relative_error <= limit
        agrees = effect.agreement >= tolerance.least_agreement
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
