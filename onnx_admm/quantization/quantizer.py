"""From a model and samples to the fastest model with integer activations within a tolerance."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_admm.contracts import Dataset, Feeds, ModelView, PassContext, Skip
from onnx_admm.measurement.sensitivity import Effect, OutputProbe
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.model.integers.plan import IntegerWeight
from onnx_admm.model.integers.prepare import matmuls_to_gemms
from onnx_admm.model.integers.write import OLDEST_OPSET, write_integers
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.model.rewrite.expose_logits import with_scores
from onnx_admm.quantization.histograms import Histogram, histograms_of
from onnx_admm.quantization.linear_forms import Form
from onnx_admm.quantization.linear_search import Confirmation
from onnx_admm.quantization.linear_stage import LinearStage
from onnx_admm.quantization.placement import (
    grid_at,
    place,
    plan_of,
    product_with_bias,
    roots_read,
)
from onnx_admm.quantization.range_choice import ChosenRange, RangeChoice
from onnx_admm.quantization.ranges import RangeMethod
from onnx_admm.quantization.reasons import NOTHING_ALLOWED, OTHER_FORMS, Reasons
from onnx_admm.quantization.result import Result, decibels, nothing_to_compare
from onnx_admm.quantization.saturation import largest_code
from onnx_admm.quantization.search import Asked, PlacementSearch
from onnx_admm.quantization.units import Kind, Unit, find_units, roots_of
from onnx_admm.quantization.weights import integer_weight
from onnx_admm.runtime.sessions import open_session, optimised_model
from onnx_admm.runtime.turns import ratios_of

_logger = logging.getLogger(__name__)

_THREADS = 1
"""Threads of timed runs: processor time is exact on one."""

_SAME_SCORES = 1e-3
"""Relative error of scores, 30 dB, up to which predictions may change, as for rounded weights."""

_ATTEMPTS = 5
_FIRST_LIMIT = 2.0
"""First factor of the tolerance for the sum of single errors: they partly cancel, and the sum is measured."""

_STRICTER = 0.5
"""Factor of the tolerance after a placement that failed on unseen samples."""


@dataclass(frozen=True)
class Samples:
    """Samples to find ranges on, to measure errors on, and to confirm the whole model on.

    Attributes:
        calibration: ranges are found on them.
        measured: errors of single values are measured on them.
        unseen: the whole model is confirmed on them.
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
        linear_forms: forms that linear layers may have which stay float between nodes.
        trials: placements that are timed, at most.
        layers: names of the weights whose layers may be integer.
        reference: model whose outputs count as right.
        context: of the pass.
    """

    tolerance: Tolerance
    methods: frozenset[RangeMethod]
    steps: int
    linear_forms: frozenset[Form]
    trials: int
    layers: Collection[str]
    reference: ModelView
    context: PassContext

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
        roots = {root for reads in roots_read(units).values() for root in reads}
        of_roots = {name: histograms[name] for name in sorted(roots)}
        threads = self.context.settings.threads
        probe = OutputProbe(base, [], samples.measured, threads=threads)
        if not probe.is_comparable:
            return nothing_to_compare(units, left)
        with self.context.progress.task("activation ranges", len(of_roots)) as task:
            choice = RangeChoice(
                view=base, probe=probe, steps=self.steps, methods=self.methods, threads=threads
            )
            ranges = choice.of(of_roots, task)
        ranks = {name: found.rank for name, found in histograms.items()}
        return _Run(self, model, _Prepared(base, units, ranges, ranks), samples).result(left)

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
        """Return the histograms of all roots, and of what products read."""
        names = {root for reads in roots_read(units).values() for root in reads}
        names |= {unit.inputs[0] for unit in units if unit.kind is Kind.PRODUCT}
        memory, threads = self.context.memory_bytes, self.context.settings.threads
        return histograms_of(base, sorted(names), samples.calibration, memory_bytes=memory, threads=threads)


@dataclass(frozen=True)
class _Prepared:
    """A model in the form that integers are written into.

    Attributes:
        base: the model.
        units: its units.
        ranges: range of each root value.
        ranks: number of axes of values.
    """

    base: ModelView
    units: tuple[Unit, ...]
    ranges: Mapping[str, ChosenRange]
    ranks: Mapping[str, int]


class _Run:
    """One model, its units and ranges, and the placements that were built of them."""

    def __init__(
        self,
        quantizer: Quantizer,
        model: ModelView,
        prepared: _Prepared,
        samples: Samples,
    ) -> None:
        self._quantizer, self._model, self._samples = quantizer, model, samples
        self._base, self._ranks = prepared.base, prepared.ranks
        self._units, self._ranges = prepared.units, prepared.ranges
        self._roots = roots_of(self._units)
        self._extremes = {name: found.of_extremes for name, found in self._ranges.items()}
        self._chosen: Asked = frozenset()
        self._weights, self._kept = dict[int, IntegerWeight](), dict[int, bool]()
        for unit in self._units:
            if unit.weight is not None:
                found = integer_weight(unit.weight_name, unit.weight, unit.axis)
                self._weights[unit.node], self._kept[unit.node] = found
        self._bytes = model.to_bytes(maps=False)
        self._feeds: Feeds = next(samples.measured.select(np.arange(1)).batches(1)).feeds

    def result(self, left: dict[str, str]) -> Result:
        """Return the best placement that holds on the unseen samples, with the forms of linear layers."""
        probes = [self._probe(each) for each in (self._quantizer.reference, None)]
        if not all(probe.is_comparable for probe in probes):
            return nothing_to_compare(self._units, left)
        stage, placed = self._linear_stage(probes), self._placed(left, probes)
        found = stage.improved(placed, self._base)
        again = self._without_linear(placed) if stage.has_layers(placed, self._base) else None
        if again is None:
            return found
        return min(found, stage.improved(again, self._base), key=lambda each: each.latency_ratio)

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
        built = self.build(self._chosen - linear.keys(), self._ranges) if layers else None
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
        tolerance = self._quantizer.tolerance
        allowed = self._allowed(left)
        if not any(unit.kind is Kind.PRODUCT and unit.node in allowed for unit in self._units):
            return Result(left=left, why=NOTHING_ALLOWED)
        errors = {name: found.error for name, found in self._ranges.items()}
        search = PlacementSearch(self._units, errors, self._latencies, self._quantizer.trials)
        limit = _FIRST_LIMIT * 10 ** (-tolerance.least_sqnr_db / 10)
        failed = set[int]()
        for _ in range(_ATTEMPTS):
            chosen = search.best(allowed, limit)
            if not chosen:
                break
            for ranges in (self._ranges, self._extremes):
                built = self.build(chosen, ranges)
                if built is None:
                    continue
                effect, added = self._effects(built, probes)
                if self._holds(effect, added):
                    self._ranges, self._chosen = ranges, chosen
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
        return Result(left=left, timed=len(search.gains), why=reasons.of_none())

    def build(self, asked: Asked, ranges: Mapping[str, ChosenRange]) -> ModelView | None:
        """Return the model with these units integer; None where a bias does not fit."""
        placed = place(self._units, asked)
        grids = {name: found.range.grid(self._quantizer.steps) for name, found in ranges.items()}
        plan = plan_of(placed, self._roots, grids, self._weights, self._ranks)
        if plan is None:
            return None
        fork = self._base.fork()
        write_integers(fork, plan)
        return fork

    def _allowed(self, left: dict[str, str]) -> list[int]:
        """Return the units whose values may be rounded; note why others may not."""
        least_db = self._quantizer.tolerance.least_alone_db
        most = 10 ** (-least_db / 10)
        allowed = []
        names = {unit.node: unit.layer for unit in self._units}
        too_large = self._biases_too_large()
        for node, roots in roots_read(self._units).items():
            worst = max(roots, key=lambda root: self._error(root))
            if node in too_large:
                left[names[node]] = "its bias is too large for int32 in steps of its weight's own grid"
            elif self._error(worst) <= most:
                allowed.append(node)
            else:
                alone = decibels(self._error(worst))
                left[names[node]] = (
                    f"{worst} alone in 8 bits leaves the outputs {alone:.1f} dB, under {least_db:g}"
                )
        return allowed

    def _biases_too_large(self) -> set[int]:
        """Return the products whose bias int32 does not hold, by node."""
        grids = {name: found.range.grid(self._quantizer.steps) for name, found in self._ranges.items()}
        found = set[int]()
        for unit in self._units:
            if unit.bias is not None and self._roots.get(unit.inputs[0], unit.inputs[0]) in grids:
                grid = grid_at(unit.inputs[0], self._roots, grids)
                if product_with_bias(unit, self._weights[unit.node], grid) is None:
                    found.add(unit.node)
        return found

    def _error(self, root: str) -> float:
        found = self._ranges.get(root)
        return float("inf") if found is None else found.error

    def _latencies(self, placements: Sequence[Asked]) -> list[float]:
        built = [self.build(asked, self._ranges) for asked in placements]
        forms = [each.to_bytes(maps=False) for each in built if each is not None]
        ratios = iter(ratios_of(self._bytes, forms, self._feeds, _THREADS))
        return [float("inf") if each is None else next(ratios) for each in built]

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
            unit.layer: reasons.of_integer(unit, self._kept.get(unit.node, False))
            for unit in placed.units
            if unit.kind is not Kind.PASSING
        }
        reasons.add_to(left, integer)
        return Result(
            model=built,
            latency_ratio=search.latency(chosen),
            effect=effect,
            integer=integer,
            left=left,
            kernels=kernel_counts(optimised_model(built.to_bytes(maps=False))),
            ranges={
                name: self._ranges[name] for name in sorted({self._roots.get(n, n) for n in placed.quantised})
            },
            timed=len(search.gains),
        )
