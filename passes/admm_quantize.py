"""AdmmQuantize: move the nonzero weights to few levels by ADMM, fixed a fraction at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from onnx_admm.admm.sets.blocks import Separable
from onnx_admm.admm.sets.int8_per_channel import ByteLevels
from onnx_admm.admm.sets.levels import Levels, Quantized, SupportLevels
from onnx_admm.admm.sets.supports import pruned_support
from onnx_admm.contracts import (
    Array,
    Blocks,
    Edit,
    ModelView,
    PassContext,
    PassReport,
    TrainingRun,
    WeightSite,
)
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.rewrite.weight_storage import ByteGrid, StoredWeight, stored_weights
from onnx_admm.selection.layers import PerLayer, choose_layers, spread
from onnx_admm.settings.ranges import Epochs, NonNegative, Positive, PositiveShare
from onnx_admm.training.phases import AdmmPhase, Rates, Retraining, validation_score

LevelSet = Levels | SupportLevels

SCALE_BITS = 11
"""Significant bits of a scale: those of float16, so that ``code * scale`` is exact in float32."""


@dataclass(frozen=True, kw_only=True)
class AdmmQuantize:
    """Round every weight to one of few levels (ADMM-NN, arXiv 1812.11677, section 3); zeros stay zero.

    A layer with zeros takes the levels ``+-1q .. +-2^(bits-1) q`` for its nonzeros; one without takes ``0,
    +-1q .. +-(2^(bits-1) - 1) q``; q minimises the squared error. With a trainer, ADMM moves the weights to
    the levels, then the nearest ``fractions`` of them are fixed in turn while the rest is retrained (arXiv
    1811.01907). Without a trainer, weights are only rounded, and 8 bits are ``0, +-1q .. +-127q``, the range
    of a byte, for layers with zeros too; per channel q is then within percents of the least error, which
    takes seconds for a hundred million weights (see ``admm/sets/int8_per_channel.py``).

    Attributes:
        bits: bits of a weight: for all layers, in graph order, or by name pattern.
        per_channel: a scale for each output channel instead of one for each layer.
        epochs: epochs of ADMM; one epoch is one W-step.
        fractions: shares of the weights fixed after each round, rising to 1.
        round_epochs: epochs of retraining after each round but the last.
        retrain_epochs: epochs after the last round, when only biases still change.
        rho_start, rho_end: penalty in units of one over a layer's mean square, rising geometrically.
        learning_rate: AdamW's during ADMM and the rounds; the last retraining falls from it to ``end_rate``.
        include, exclude: patterns of layer names or operators.
    """

    name: ClassVar[str] = "admm_quantize"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    bits: PerLayer = 8
    per_channel: bool = False
    epochs: Epochs = 4
    fractions: tuple[PositiveShare, ...] = (0.5, 0.75, 0.9, 1.0)
    round_epochs: Epochs = 1
    retrain_epochs: Epochs = 1
    rho_start: Positive = 1e-4
    rho_end: Positive = 2e-3
    learning_rate: Positive = 5e-4
    end_rate: NonNegative = 1e-5
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        sites, _ = choose_layers(model, self.include, self.exclude)
        for name, bits in spread(self.bits, sites, "bits").items():
            if bits != int(bits) or not 1 <= bits <= 8:
                raise PassRefused("impossible number of bits", where=name, got=bits, expected="1 to 8, whole")
        rising = sorted(self.fractions) == list(self.fractions)
        if not (rising and self.fractions and self.fractions[-1] == 1.0 and self.fractions[0] > 0):
            got, expected = self.fractions, "rising shares that end at 1.0"
            raise PassRefused("impossible fractions", where="fractions", got=got, expected=expected)

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        sites, skipped = choose_layers(model, self.include, self.exclude)
        if context.trainer is None or context.train is None:
            stored = {weight.site: weight for weight in stored_weights(model)}
            edits = tuple(
                edit for site in sites if (edit := self._round(model, stored[site], sites)) is not None
            )
            return PassReport(bool(edits), edits, skipped)
        original = model.fork()
        before = {site.name: model.read(site) for site in sites}
        sets = {site.name: self._set(site, before[site.name], sites) for site in sites}
        figures = self._fine_tune(model, sites, sets, context)
        edits = tuple(
            Edit(site.name, f"{_distinct(after)} distinct values, {sets[site.name].bits} bits")
            for site in sites
            if not np.array_equal(before[site.name], after := model.read(site))
        )
        return PassReport(not same_model(original, model), edits, skipped, figures)

    def _set(self, site: WeightSite, weight: Array, sites: tuple[WeightSite, ...]) -> LevelSet:
        mask, width = pruned_support(weight), int(spread(self.bits, sites, "bits")[site.name])
        axis = site.out_axis if self.per_channel else None
        scale_bits = _exact_scale_bits(weight.dtype, width)
        if mask is None and width > 1:
            return Levels(width, axis=axis, scale_bits=scale_bits)
        support = np.ones(weight.shape, np.bool_) if mask is None else mask  # one bit has no level for zero
        return SupportLevels(support, width, axis=axis, scale_bits=scale_bits)

    def _round(self, model: ModelView, stored: StoredWeight, sites: tuple[WeightSite, ...]) -> Edit | None:
        """Round one weight to its nearest levels; return None where it lies on them already."""
        site, before = stored.site, stored.read()
        bits, axis = int(spread(self.bits, sites, "bits")[site.name]), site.out_axis
        if bits == ByteLevels.bits and axis is not None and self.per_channel:
            coded = ByteLevels(axis, _exact_scale_bits(before.dtype, bits)).quantize(before)
            grid = ByteGrid(coded.codes, coded.along)
            if grid.holds(before):
                return None
            stored.store_as_codes(grid)
            return Edit(site.name, f"{bits} bits, a scale for each of {len(coded.scales)} channels")
        in_bytes = bits == ByteLevels.bits
        scale_bits = _exact_scale_bits(before.dtype, bits)
        levels = Levels(bits, scale_bits=scale_bits) if in_bytes else self._set(site, before, sites)
        after = levels.project(before)
        if np.array_equal(before, after):
            return None
        model.replace(site, after)
        return Edit(site.name, f"{_distinct(after)} distinct values, {bits} bits")

    # -- fine-tuning -------------------------------------------------------------------------

    def _fine_tune(
        self, model: ModelView, sites: tuple[WeightSite, ...], sets: dict[str, LevelSet], context: PassContext
    ) -> dict[str, Any]:
        if context.trainer is None or context.train is None:
            raise PassRefused("fine-tuning needs a trainer and data")
        rounds = len(self.fractions) - 1
        total = self.epochs + rounds * self.round_epochs + self.retrain_epochs
        opened = context.trainer.open(model, sites, context.train, context.settings, context.taught_by)
        with opened as run, context.progress.task("quantise", total) as task:
            admm_phase = AdmmPhase(
                epochs=self.epochs,
                rate=self.learning_rate,
                rho_start=self.rho_start,
                rho_end=self.rho_end,
                seed=context.seed,
            )
            history = admm_phase.run(run, Separable(sets), task)
            grids = {name: sets[name].quantize(array) for name, array in run.weights().items()}
            for number, fraction in enumerate(self.fractions):
                _fix_nearest(run, sets, grids, fraction)
                last = number == rounds
                rates = Rates(peak=self.learning_rate, end=self.end_rate if last else self.learning_rate)
                epochs = self.retrain_epochs if last else self.round_epochs
                seed = context.seed + 1000 * (number + 1)
                score = validation_score(context) if last else None
                average = context.settings.average_epochs if last else 1
                phase = Retraining(epochs=epochs, rates=rates, seed=seed, average=average)
                scores = phase.run(run, score, task)
            model.write_back(run.tensors())
        return {"admm": [asdict(record) for record in history], "retraining": list(scores)}


def _fix_nearest(
    run: TrainingRun, sets: dict[str, LevelSet], grids: dict[str, Quantized], share: float
) -> None:
    """Fix the ``share`` of each layer's weights that are nearest to their level; grids stay the same."""
    free: Blocks = {}
    fixed: Blocks = {}
    for name, weights in run.weights().items():
        levels = _nearest_levels(weights, sets[name], grids[name])
        alive = np.flatnonzero(_support(sets[name], weights))
        distance = np.abs(weights - levels).reshape(-1)[alive]
        chosen = alive[np.argsort(distance, kind="stable")[: round(len(alive) * share)]]
        moving = np.zeros(weights.size, weights.dtype)
        moving[np.setdiff1d(alive, chosen)] = 1
        free[name] = moving.reshape(weights.shape)
        fixed[name] = np.where(free[name] == 0, levels, 0).astype(weights.dtype)
    run.load(run.weights())
    run.freeze(free, fixed)


def _support(levels: LevelSet, weights: Array) -> Array:
    return levels.mask if isinstance(levels, SupportLevels) else np.ones(weights.shape, np.bool_)


def _nearest_levels(weights: Array, levels: LevelSet, grid: Quantized) -> Array:
    """Return the nearest levels of a grid with fixed scales."""
    scales = grid.scales
    if grid.axis is not None:
        scales = scales.reshape([-1 if axis == grid.axis else 1 for axis in range(weights.ndim)])
    divisors = np.broadcast_to(np.where(scales > 0, scales, np.inf), weights.shape)
    support = _support(levels, weights)
    codes = np.zeros(weights.shape, np.int64)
    live = support & np.isfinite(divisors)
    codes[live] = levels.codes.nearest(np.abs(weights[live]), divisors[live])
    signed = np.where(weights < 0, -codes, codes)
    return grid._replace(codes=signed).values(weights.dtype)


def _exact_scale_bits(dtype: np.dtype[Any], bits: int) -> int:
    """Return the bits of a scale whose products with codes of so many bits are exact in ``dtype``."""
    return max(1, min(SCALE_BITS, np.finfo(dtype).nmant + 2 - bits))


def _distinct(weights: Array) -> int:
    return len(np.unique(weights[weights != 0]))
