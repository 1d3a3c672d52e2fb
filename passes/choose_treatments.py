"""ChooseTreatments: for each layer the strongest rounding that the outputs bear, by measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnx_admm.allocation import Option, least_cost
from onnx_admm.contracts import (
    Array,
    Dataset,
    Edit,
    ModelView,
    PassContext,
    PassReport,
    Skip,
    Task,
    WeightSite,
)
from onnx_admm.data import synthetic_dataset
from onnx_admm.encoding.codebook import Weight
from onnx_admm.encoding.treatments import BYTES, DENSE, HALF, NIBBLES, SPARSE, Rounding, Treated
from onnx_admm.errors import PassRefused
from onnx_admm.layers import choose_sites
from onnx_admm.model.shapes import layer_profiles
from onnx_admm.sensitivity import Effect, OutputProbe

_FLOATS = ("float16", "float32", "float64")
_ANCHORS = (BYTES, NIBBLES)
"""What every layer is measured with first; all others are guessed from these until one is wanted."""

_SEEN, _LEAST_GAIN = 1e-3, 0.02
"""Of its own relative error a layer in a chain passes on about all, a redundant one some hundredths. One that
passes on less than a thousandth is not seen by the samples: nobody knows what it does with others, so all is
expected of it. And never less is than two hundredths."""

_MOST_MACS = 1 << 39
"""Multiply-accumulates that measuring may take: a minute or so on one core. They decide how many samples are
run, and not a clock, so that the same model gives the same bytes."""

_RUNS_PER_LAYER = 5
_UNSEEN = 8
"""Times as many samples confirm as were measured on: one in a hundred shows only among some hundreds."""

_ATTEMPTS = 6
_LARGEST_STEP, _CLOSE = 8.0, 1.1
_HOPELESS = 1e6
_QUANTISED_ELEMENTS, _QUANTISED_LEVELS = 16, 2

Choice = Mapping[str, Rounding | None]
"""What is done to each layer; None leaves it as it is."""


@dataclass(frozen=True, kw_only=True)
class ChooseTreatments:
    """Round each layer's weights as far as the outputs allow, by measurement.

    Damage is the relative squared error of the outputs, summed over them (see ``sensitivity``). Layers are
    rounded one at a time and the outputs compared; then the roundings of least bytes are taken whose damages
    add up to the tolerance (see ``allocation``), and the model rounded so is compared as a whole, on samples
    that took no part in choosing. What does not hold there is chosen again with less.

    How much is borne depends on the outputs. Of a classifier (``runtime.evaluation.predictions``) the top-1
    predictions must stay on validation samples; without those random inputs stand in, which have no class to
    agree on, so its scores are held closer. All other outputs keep a signal-to-noise ratio.

    A model that holds quantised weights is left alone: its other weights were left for a reason.

    Attributes:
        least_sqnr_db: signal-to-noise ratio that the outputs keep.
        least_agreement: share of validation samples whose top-1 prediction stays, 0 to 1.
        blind_sqnr_db: ratio that a classifier's scores keep where there are no validation samples.
        samples: samples to measure on, at most; some times as many confirm.
        include, exclude: patterns of layer names or operators.
    """

    name: ClassVar[str] = "choose_treatments"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    least_sqnr_db: float = 22.0
    least_agreement: float = 0.99
    blind_sqnr_db: float = 30.0
    samples: int = 32
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

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
        quantised = _quantised(model)
        if quantised is not None:
            why = f"the model is quantised already ({quantised}); start from the original to choose again"
            return PassReport(False, (), (*skipped, *(Skip(site.name, why) for site in sites)))
        layers = {site.name: Treated(model.read(site), site.out_axis) for site in sites if _fits(model, site)}
        skipped += tuple(_unfit(model, site) for site in sites if site.name not in layers)
        measuring, unseen, runs = self._data(model, context)
        probe = OutputProbe(
            model, layers, measuring, reference=context.reference, threads=context.settings.threads
        )
        with context.progress.task("measure", runs) as task:
            search = _Search(layers, probe, runs, task)
            found = self._confirmed(search, probe.on(unseen), context)
        return self._report(model, search, found, skipped)

    def _sites(self, model: ModelView) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
        """As ``choose_sites``, but a model whose weights are all encoded is one that is done."""
        sites = model.sites()
        if sites and not any(site.editable for site in sites):
            return (), tuple(Skip(site.name, "already encoded") for site in sites)
        return choose_sites(sites, self.include, self.exclude, subgraphs=True)

    # -- data --------------------------------------------------------------------------------

    def _data(self, model: ModelView, context: PassContext) -> tuple[Dataset, Dataset, int]:
        """Samples to measure on, others to confirm on, and how often the former may be run."""
        if context.train is not None and context.validation is not None:
            data, others = context.train, context.validation
        else:
            made = synthetic_dataset(model, (1 + _UNSEEN) * self.samples, context.seed)
            data = made.select(np.arange(self.samples))
            others = made.select(np.arange(self.samples, len(made)))
        profiles = layer_profiles(model, _open_extents(model, data))
        macs = max(1, sum(profile.macs or 0 for profile in profiles))
        runs = _RUNS_PER_LAYER * len(profiles)
        count = min(self.samples, max(1, _MOST_MACS // (macs * runs)))
        unseen = min(_UNSEEN * self.samples, max(1, _MOST_MACS // (macs * 2 * _ATTEMPTS)))
        runs = min(runs, max(len(_ANCHORS) * len(profiles), _MOST_MACS // (macs * count)))
        return _spread(data, count), _spread(others, unseen), runs

    # -- choosing ----------------------------------------------------------------------------

    def _confirmed(self, search: _Search, unseen: OutputProbe, context: PassContext) -> _Found:
        """The choice of fewest bytes that holds on the unseen samples; nothing is done where none does.

        Damages do not quite add up, so the sum allowed is moved, up while the model as a whole holds and down
        while it does not, then to the middle between the two.
        """
        best = search.judged(dict.fromkeys(search.layers), unseen)
        tolerance = 10 ** (-self._least_db(best.effect, context) / 10)
        allowed, holding, failing = tolerance, 0.0, math.inf
        for _ in range(_ATTEMPTS):
            found = search.judged(search.allocate(allowed), unseen)
            room = tolerance / max(found.damage, tolerance / _LARGEST_STEP)
            if room >= 1 and self._agrees(found.effect, context):
                holding = allowed
                best = min(best, found, key=lambda each: search.bytes(each.choice))
                allowed = math.sqrt(holding * failing) if failing < math.inf else allowed * room
            else:
                failing = allowed
                allowed = math.sqrt(holding * failing) if holding else allowed * min(0.5, room)
            if failing < holding * _CLOSE or (holding and room < _CLOSE):
                break
        return best

    def _least_db(self, effect: Effect, context: PassContext) -> float:
        is_blind = effect.agreement is not None and context.validation is None
        return self.blind_sqnr_db if is_blind else self.least_sqnr_db

    def _agrees(self, effect: Effect, context: PassContext) -> bool:
        """Whether predictions stay, where there are any and samples that show it."""
        if effect.agreement is None or context.validation is None:
            return True
        return effect.agreement >= self.least_agreement

    def _report(
        self, model: ModelView, search: _Search, found: _Found, skipped: tuple[Skip, ...]
    ) -> PassReport:
        weights = {
            name: array
            for name, array in search.weights(found.choice).items()
            if not np.array_equal(array, search.layers[name].treated.values)
        }
        for name, array in weights.items():
            model.replace(name, array)
        edits, left = [], []
        for name, layer in search.layers.items():
            way = found.choice[name]
            if name in weights and way is not None:
                edits.append(Edit(name, layer.says(way)))
            else:
                left.append(Skip(name, layer.why_left(way)))
        figures: dict[str, Any] = {
            "sqnr_db": _decibels(found.damage),
            "agreement": found.effect.agreement,
            "expected_bytes": round(search.bytes(found.choice)),
            "bytes_before": sum(layer.treated.values.nbytes for layer in search.layers.values()),
            "runs": search.runs,
        }
        return PassReport(bool(edits), tuple(edits), (*skipped, *left), figures)


@dataclass(frozen=True)
class _Found:
    """A choice, the worse of its damages on both sets of samples, and its effect on the unseen ones."""

    choice: Choice
    damage: float
    effect: Effect


class _Search:
    """Allocation and measurement in turns: only roundings that would be chosen are ever run."""

    def __init__(self, layers: Mapping[str, Treated], probe: OutputProbe, most_runs: int, task: Task) -> None:
        self.layers = {name: _Layer(treated) for name, treated in layers.items()}
        self.probe, self.runs = probe, 0
        self._most_runs, self._task = most_runs, task
        self._base = probe.damage({})

    def allocate(self, allowed: float) -> Choice:
        """The roundings of fewest bytes whose damages add up to at most ``allowed``, measured."""
        for name, layer in self.layers.items():
            for anchor in _ANCHORS if layer.ways else ():
                self._measure(name, anchor)
        while True:
            options = {name: layer.options() for name, layer in self.layers.items()}
            choice = {name: option.what for name, option in least_cost(options, allowed).items()}
            if not sum(self._measure(name, way) for name, way in choice.items()):
                return choice

    def judged(self, choice: Choice, unseen: OutputProbe) -> _Found:
        """The choice with its effect on the model as a whole."""
        weights = self.weights(choice)
        effect = unseen.effect(weights)
        return _Found(choice, max(self.probe.damage(weights), effect.damage), effect)

    def weights(self, choice: Choice) -> dict[str, Array]:
        """New weights of the layers that do not stay as they are."""
        return {name: self.layers[name].treated.apply(way) for name, way in choice.items() if way is not None}

    def bytes(self, choice: Choice) -> float:
        """What all layers would take in the file."""
        return sum(self.layers[name].treated.stored_bytes(way) for name, way in choice.items())

    def _measure(self, name: str, way: Rounding | None) -> bool:
        """Run the layer rounded so; False where that is known, or no run is left."""
        layer = self.layers[name]
        if way is None or way in layer.measured or self.runs >= self._most_runs:
            return False
        damage = self.probe.damage({name: layer.treated.apply(way)})
        layer.measured[way] = max(damage - self._base, 0.0)
        self.runs += 1
        self._task.advance(note=name)
        return True


class _Layer:
    """A layer, the roundings worth a thought, and what those that were run did to the outputs.

    What others do is guessed in proportion to what they are expected to change in the weight; the proportion
    is that of the nearest one run, and between two of them lies between theirs.
    """

    def __init__(self, treated: Treated) -> None:
        self.treated = treated
        self.ways = _worthwhile(treated)
        self.measured: dict[Rounding, float] = {}

    @property
    def is_seen(self) -> bool:
        """Whether the samples show what becomes of the layer."""
        return any(d >= _SEEN * self.treated.expected_error(way) for way, d in self.measured.items())

    def options(self) -> list[Option[Rounding | None]]:
        """What an allocation chooses from; to stay as it is is one."""
        return [Option(self.treated.stored_bytes(way), self.damage(way), way) for way in (None, *self.ways)]

    def damage(self, way: Rounding | None) -> float:
        """Measured or guessed, with the doubt that there is."""
        if way is None:
            return 0.0
        expected = self.treated.expected_error(way)
        if not self.is_seen:
            return expected
        found = self.measured[way] if way in self.measured else self._guess(expected)
        return min(max(found, _LEAST_GAIN * expected), _HOPELESS)

    def _guess(self, expected: float) -> float:
        errors, damages = np.array(
            sorted((self.treated.expected_error(way), damage) for way, damage in self.measured.items())
        ).T
        gains = np.log(np.maximum(damages, _SEEN * errors) / errors)
        return expected * float(np.exp(np.interp(math.log(expected), np.log(errors), gains)))

    def says(self, way: Rounding) -> str:
        """One line on the layer where it is rounded."""
        size = f"{self.treated.values.nbytes:,} to about {self.treated.stored_bytes(way):,.0f} bytes"
        if not self.is_seen:
            return f"{way}: {size}; the samples hardly reach it, so it is taken to matter in full"
        return f"{way}: {size}; rounded alone it leaves the outputs {_decibels(self.damage(way)):.1f} dB"

    def why_left(self, way: Rounding | None) -> str:
        """One line on the layer where it stays."""
        if way is not None:
            return f"its values are {way} as they are"
        if not self.ways:
            return f"{self.treated.values.nbytes:,} bytes: too small for any form to take fewer"
        alone = _decibels(self.damage(self.ways[0]))
        return f"{self.ways[0]} alone would leave the outputs {alone:.1f} dB"


def _worthwhile(layer: Treated) -> tuple[Rounding, ...]:
    """Roundings that save bytes, none expected to be larger and worse than another; mildest first."""
    ways = sorted(
        (HALF, *DENSE, *SPARSE), key=lambda way: (layer.expected_error(way), layer.stored_bytes(way))
    )
    kept: list[Rounding] = []
    least = layer.stored_bytes(None)
    for way in ways:
        if layer.stored_bytes(way) < least:
            kept.append(way)
            least = layer.stored_bytes(way)
    return tuple(kept)


# -- what is there ---------------------------------------------------------------------------


def _quantised(model: ModelView) -> str | None:
    """A weight that lies on few levels or a grid; None where there is none.

    Tables of ones and zeros do not count, nor do weights so small that any has few values.
    """
    for site in model.sites():
        if site.dtype not in _FLOATS:
            continue
        if not site.editable:
            if model.decoded(site).stored_bits < 16:
                return site.name
            continue
        weight = Weight(site.name, model.read(site))
        grid = (weight.grid or weight.channel_grid) if site.size >= _QUANTISED_ELEMENTS else None
        if grid is not None and len(grid.levels) >= _QUANTISED_LEVELS:
            return site.name
    return None


def _fits(model: ModelView, site: WeightSite) -> bool:
    return site.dtype in _FLOATS and site.size > 0 and bool(np.isfinite(model.read(site)).all())


def _unfit(model: ModelView, site: WeightSite) -> Skip:
    if site.dtype not in _FLOATS:
        return Skip(site.name, f"{site.dtype} weights have no smaller form here")
    return Skip(site.name, "holds values that are not finite" if site.size else "has no elements")


def _open_extents(model: ModelView, data: Dataset) -> dict[str, int]:
    """What the first sample makes of the inputs' open extents."""
    feeds = next(data.select(np.arange(1)).batches(1)).feeds
    bindings: dict[str, int] = {}
    for port in model.signature().inputs:
        stated = port.shape or ()
        met = feeds[port.name].shape[feeds[port.name].ndim - len(stated) :]
        bindings |= {
            f"{port.name}[{axis}]": extent
            for axis, extent in enumerate(met)
            if not isinstance(stated[axis], int)
        }
    return bindings


def _spread(data: Dataset, wanted: int) -> Dataset:
    """At most so many samples, evenly over all there are."""
    return data.select(
        np.unique(np.linspace(0, len(data) - 1, min(len(data), wanted)).round().astype(np.int64))
    )


def _decibels(damage: float) -> float:
    return round(-10 * math.log10(max(damage, 1e-20)), 2)
