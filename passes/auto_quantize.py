"""AutoQuantize: for each layer the strongest rounding that the outputs tolerate, by measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnx_admm.calibration.four_bits import four_bits_instead
from onnx_admm.calibration.roundings import ATTEMPTS, ChosenRoundings, RoundingSearch, decibels
from onnx_admm.calibration.transforms import shortened_transforms
from onnx_admm.contracts import Dataset, Edit, ModelView, PassContext, PassReport, Skip, WeightSite
from onnx_admm.data import cost_of_sample, synthetic_dataset
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.compression_options import Treated
from onnx_admm.errors import NothingToDo, OnnxAdmmError, PassRefused
from onnx_admm.measurement.sensitivity import Effect, OutputProbe
from onnx_admm.model.analysis.unsupported_weights import unsupported_weights
from onnx_admm.model.rewrite.weight_storage import constant_bytes
from onnx_admm.pipeline import MODEL, PROVENANCE
from onnx_admm.selection.layers import choose_sites, transforms_among, usable_layers
from onnx_admm.settings.ranges import Positive, Samples, Share

_FLOATS = ("float16", "float32", "float64")
_MOST_MACS = 1 << 38
"""Multiply-accumulates that measuring may take: about half a minute on one core.

They, and not a clock, set the number of samples that are run, so that the same model gives the same bytes.
"""

_RUNS_PER_LAYER = 5
_UNSEEN, _UNSEEN_MADE_UP = 8, 2
"""Multiples of the measured samples that confirm a choice.

A changed prediction in a hundred shows only among hundreds; a signal-to-noise ratio, the only requirement on
made-up inputs, is known to within a decibel from some tens.
"""

_TELLING = 100
"""Least number of samples for a statement on predictions that stay."""

_LEAST_SAVED = 0.005
"""Share of the model's constants that roundings must save."""

_QUANTISED_ELEMENTS, _QUANTISED_LEVELS = 16, 2

_FORMER_NAME = "choose_treatments"
"""Name of the pass in the provenance of older files."""

_CHOSEN = "was rounded in an earlier run; start from the original to round it again"


@dataclass(frozen=True, kw_only=True)
class AutoQuantize:
    """Round each layer's weights as far as the outputs allow, by measurement.

    The error is the relative squared error of the outputs, summed over them (see ``sensitivity``). Layers are
    rounded one at a time and the outputs compared; then the roundings of least bytes are chosen whose
    relative errors add up to the tolerance (see ``allocation``), and the model rounded so is compared as a
    whole, on samples that were not used for the choice. Where it misses the tolerance, the choice is repeated
    with less error allowed.

    The tolerance depends on the outputs. For a classifier (``runtime.evaluation.predictions``) the top-1
    predictions must stay on given samples that were not measured on, or its scores keep a higher
    signal-to-noise ratio. The higher ratio also applies without samples, because random
    inputs belong to no class, and with few samples, because they would not show a changed prediction. All
    other outputs keep a signal-to-noise ratio, and so do all outputs on synthetic inputs where samples are
    given.

    Constants that are transforms or filter banks take 12 bits or half floats where outputs keep 60 dB (see
    ``calibration.transforms``); otherwise they stay unchanged. If they are included by name, they are
    treated as weights. A weight that already lies on a grid stays, and so does each constant of an integer
    operator. A model that this pass has compressed before is left unchanged.

    Attributes:
        least_sqnr_db: signal-to-noise ratio that the outputs keep, in dB.
        least_agreement: share of given samples whose top-1 prediction stays, 0 to 1.
        blind_sqnr_db: ratio that a classifier's scores keep, in dB, where there are no samples, too few of
            them, or their predictions change.
        samples: samples to measure on, at most; several times as many confirm.
        against: reference of the comparison: the ``original``, or the model ``before`` this pass, which a
            pruning pass may have moved far from the original.
        include, exclude: patterns of layer names or operators.
    """

    name: ClassVar[str] = "auto_quantize"
    exact: ClassVar[bool] = False

    least_sqnr_db: Positive = 22.0
    least_agreement: Share = 0.99
    blind_sqnr_db: Positive = 30.0
    samples: Samples = 32
    against: Literal["original", "before"] = "original"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def idempotent(self) -> bool:
        """Whether a second run changes nothing; compared with its own result, it could round once more."""
        return self.against == "original"

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        for key in ("least_sqnr_db", "blind_sqnr_db"):
            if not (decibels := getattr(self, key)) > 0:
                raise PassRefused("impossible tolerance", where=key, got=decibels, expected="over 0")
        if not 0 <= self.least_agreement <= 1:
            got = self.least_agreement
            raise PassRefused("impossible share", where="least_agreement", got=got, expected="0 to 1")
        if self.samples < 1:
            raise PassRefused("too few samples", where="samples", got=self.samples, expected="1 or more")
        self._sites(model)

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        sites, skipped = self._sites(model)
        unsupported = unsupported_weights(model)
        skipped += tuple(Skip(constant.name, constant.line()) for constant in unsupported)
        if (
            self.idempotent
            and not self.include
            and not {self.name, _FORMER_NAME}.isdisjoint(model.metadata.get(PROVENANCE, "").split(","))
        ):
            return PassReport(False, (), (*skipped, *(Skip(site.name, _CHOSEN) for site in sites)))
        weights = {site.name: model.read(site) for site in sites}
        quantised = {name: levels for name, array in weights.items() if (levels := _levels(array))}
        skipped += tuple(Skip(name, f"lies on {levels} levels already") for name, levels in quantised.items())
        layers = {
            site.name: Treated(weights[site.name], site.out_axis)
            for site in sites
            if site.name not in quantised
        }
        transforms = self._transforms(model)
        if not layers and not transforms:
            return PassReport(False, (), skipped)
        data = self._data(model, context)
        probes, unseen = self._probes(model, layers | transforms, data, context)
        with context.progress.task("measure", data.runs) as task:
            search = RoundingSearch(layers, probes, data.runs, task)
            found = self._confirmed(search, unseen, data.told, gives_scores=_gives_floats(model))
        if layers and not transforms and (little := _too_little(model, search, found)) is not None:
            search.close()
            return PassReport(False, (), (*skipped, *(Skip(name, little) for name in (*layers, MODEL))))
        kept = shortened_transforms(transforms, (*probes, *unseen))
        search.close()
        probes, unseen = [], []
        for name, short in kept.items():
            model.replace(name, transforms[name].apply(short.rounding))
        skipped = tuple(skip for skip in skipped if skip.layer not in kept)
        report = self._report(model, search, found, skipped)
        edits = (*report.edits, *(Edit(name, short.says(transforms[name])) for name, short in kept.items()))
        figures = {
            **report.figures,
            **self._instead(model, layers, search.bytes(found.choice), data, context),
        }
        return replace(report, changed=bool(edits), edits=edits, figures=figures)

    def _instead(
        self,
        model: ModelView,
        names: Iterable[str],
        nbytes: float,
        data: _Samples,
        context: PassContext,
    ) -> dict[str, Any]:
        """Return the result of 4 bits in place of zeros, where it is better in bytes and in error."""
        if self.against == "original":
            return {}
        better = four_bits_instead(context.reference, model, names, data.measured[0], nbytes)
        return {} if better is None else {"instead": better.figures()}

    def _sites(self, model: ModelView) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
        """Return the layers as ``choose_layers`` does, but accept a model without usable weights."""
        sites = model.sites()
        if not sites and (unsupported := unsupported_weights(model)):
            largest = max(unsupported, key=lambda weight: weight.nbytes)
            count = len(unsupported) - 1
            more = f", and {count} {'other' if count == 1 else 'others'}" if count else ""
            why = f"{largest.name} of {largest.nbytes:,} bytes: {largest.why_left()}{more}"
            raise NothingToDo("the model has no weights to compress that the tool knows", got=why)
        if sites and not any(site.editable for site in sites):
            return (), tuple(Skip(site.name, site.fixed or "already encoded") for site in sites)
        chosen, skipped = choose_sites(sites, self.include, self.exclude, subgraphs=True)
        layers, left = usable_layers(model, chosen, are_named=bool(self.include))
        return layers, (*skipped, *left)

    def _transforms(self, model: ModelView) -> dict[str, Treated]:
        """Return the constants that are fixed transforms, by name, unless layers were named."""
        if self.include or not any(site.editable for site in model.sites()):
            return {}
        sites, _ = choose_sites(model.sites(), (), self.exclude, subgraphs=True)
        arrays = {site.name: (model.read(site), site.out_axis) for site in transforms_among(model, sites)}
        return {
            name: Treated(array, axis) for name, (array, axis) in arrays.items() if _levels(array) is None
        }

    # -- data --------------------------------------------------------------------------------

    def _data(self, model: ModelView, context: PassContext) -> _Samples:
        sources, layers = self._sources(context), len(model.sites())
        compute_budget, runs = _MOST_MACS // len(sources), _RUNS_PER_LAYER * layers
        measured, unseen = [], []
        for data, others in sources:
            cost = cost_of_sample(model, data)
            macs, most = cost.macs, cost.most_samples
            count = min(self.samples, most, max(1, compute_budget // (macs * _RUNS_PER_LAYER * layers)))
            runs = min(runs, max(layers, compute_budget // (macs * count)))
            measured_rows = _evenly(len(data), count)
            measured.append(data.select(measured_rows))
            confirm = min(_UNSEEN * self.samples, most, max(1, compute_budget // (macs * 2 * ATTEMPTS)))
            too_few = len(others) < min(
                confirm, _TELLING
            )  # the final comparison, where it has enough samples
            if too_few and len(data) - len(measured_rows) > len(others):
                others = data.select(np.setdiff1d(np.arange(len(data)), measured_rows))
            unseen.append(others.select(_evenly(len(others), confirm)))
        told = context.validation is not None and len(unseen[0]) >= _TELLING
        return _Samples(measured, unseen, runs, told)

    def _sources(self, context: PassContext) -> list[tuple[Dataset, Dataset]]:
        """Return samples to measure on and others to confirm on: given, and random where possible."""
        sources: list[tuple[Dataset, Dataset]] = []
        if context.train is not None and context.validation is not None:
            sources.append((context.train, context.validation))
        try:
            made = synthetic_dataset(context.reference, (1 + _UNSEEN_MADE_UP) * self.samples, context.seed)
        except OnnxAdmmError:
            if not sources:
                raise
            return sources
        first, rest = np.split(np.arange(len(made)), [self.samples])
        return [*sources, (made.select(first), made.select(rest))]

    def _probes(
        self, model: ModelView, layers: Mapping[str, Treated], data: _Samples, context: PassContext
    ) -> tuple[list[OutputProbe], list[OutputProbe]]:
        """Return a probe for each set of samples to measure on, and for each to confirm on."""
        threads = context.settings.threads
        reference = context.reference if self.against == "original" else None
        own = {name: layer.values for name, layer in layers.items()}
        first = data.measured[0]
        probe = OutputProbe(model, layers, first, reference=reference, own=own, threads=threads)
        measuring, confirming = [probe], [probe.on(data.unseen[0])]
        for measured, unseen in zip(data.measured[1:], data.unseen[1:], strict=True):
            try:
                pair = probe.on(measured), probe.on(unseen)
            except OnnxAdmmError:
                continue  # a model need not run with made-up inputs
            measuring.append(pair[0])
            confirming.append(pair[1])
        return measuring, confirming

    # -- choosing ----------------------------------------------------------------------------

    def _confirmed(
        self, search: RoundingSearch, unseen: Sequence[OutputProbe], told: bool, *, gives_scores: bool
    ) -> ChosenRoundings:
        is_blind = not told and unseen[0].effect({}).agreement is not None
        least_db = self.blind_sqnr_db if is_blind else self.least_sqnr_db
        agrees = self._agrees if gives_scores else self._keeps_predictions
        return search.confirmed(unseen, 10 ** (-least_db / 10), agrees if told else lambda _: True)

    def _agrees(self, effect: Effect) -> bool:
        """Return whether predictions stay, where there are any.

        Scores that hardly change may still change their order: two that are equal, or numbers that are not
        scores. So the ratio that is required without samples is enough.
        """
        return self._keeps_predictions(effect) or decibels(effect.relative_error) >= self.blind_sqnr_db

    def _keeps_predictions(self, effect: Effect) -> bool:
        """Return whether predictions stay, where there are any (a model may return classes alone)."""
        return effect.keeps_predictions(self.least_agreement)

    def _report(
        self, model: ModelView, search: RoundingSearch, found: ChosenRoundings, skipped: tuple[Skip, ...]
    ) -> PassReport:
        edits, left = [], []
        for name, layer in search.layers.items():
            rounding = found.choice[name]
            values = layer.treated.values
            rounded = values if rounding is None else layer.treated.apply(rounding)
            if rounding is not None and not np.array_equal(rounded, values):
                model.replace(name, rounded)
                edits.append(Edit(name, layer.says(rounding)))
            else:
                left.append(Skip(name, layer.why_left(rounding, self.least_sqnr_db)))
        figures: dict[str, Any] = {
            "sqnr_db": decibels(found.relative_error),
            "agreement": found.effect.agreement,
            "expected_bytes": round(search.bytes(found.choice)),
            "bytes_before": sum(layer.treated.values.nbytes for layer in search.layers.values()),
            "runs": search.runs,
        }
        return PassReport(bool(edits), tuple(edits), (*skipped, *left), figures)


@dataclass(frozen=True)
class _Samples:
    """Sets of samples to measure on, at most how often, and others to confirm on: given ones first.

    ``told``: samples are given, and enough of them to show predictions that change.
    """

    measured: Sequence[Dataset]
    unseen: Sequence[Dataset]
    runs: int
    told: bool


# -- what is there ---------------------------------------------------------------------------


def _too_little(model: ModelView, search: RoundingSearch, found: ChosenRoundings) -> str | None:
    """Return the reason where the roundings save next to nothing of what the model stores; else None."""
    saved = search.bytes(dict.fromkeys(found.choice)) - search.bytes(found.choice)
    stored = constant_bytes(model)
    if not 0 < saved < _LEAST_SAVED * stored:
        return None
    return f"roundings would save {saved:,.0f} of {stored:,} bytes, which is not worth an error"


def _gives_floats(model: ModelView) -> bool:
    """Return whether any output is a number, and not a class or an index alone."""
    return any(port.dtype.startswith(("float", "bfloat")) for port in model.signature().outputs)


def _levels(weight: npt.NDArray[np.floating]) -> int | None:
    """Return the most levels that a channel of a weight on a grid has; None for a weight on no grid.

    Weights with so few elements that any has few values do not count, nor do tables of ones and zeros.
    """
    if weight.size < _QUANTISED_ELEMENTS:
        return None
    found = Weight("", weight)
    grid = found.grid or found.channel_grid
    return None if grid is None or len(grid.levels) < _QUANTISED_LEVELS else len(grid.levels)


def _evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most ``most`` of ``count`` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
