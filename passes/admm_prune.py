"""AdmmPrune: set weights to zero by ADMM, then retrain the remaining ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, ClassVar

import numpy as np

from onnx_admm.admm.loop.solver import Record
from onnx_admm.admm.sets.blocks import GlobalAtMostK, JointChannels, JointSet, Separable
from onnx_admm.admm.sets.supports import AtMostK, NofM
from onnx_admm.contracts import (
    Edit,
    ModelView,
    PassContext,
    PassReport,
    Skip,
    Task,
    TrainingRun,
    WeightSite,
)
from onnx_admm.errors import NothingToDo, PassRefused
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.selection.channel_pruning import prunable_channels
from onnx_admm.selection.layers import PerLayer, choose_layers, spread
from onnx_admm.selection.pruning_budget import global_density, parse_pattern, require_budget
from onnx_admm.settings.ranges import Epochs, NonNegative, Positive, PositiveShare, Ratio, Rounds
from onnx_admm.training.phases import AdmmPhase, Rates, Retraining, freeze_zeros, validation_score


@dataclass(frozen=True, kw_only=True)
class AdmmPrune:
    """Keep a budget of nonzero weights: ``min f(W) s.t. nnz(W) <= k`` (ADMM-NN, arXiv 1812.11677, section 3).

    Exactly one of ``ratio``, ``keep``, ``pattern`` and ``layers`` sets the budget. With a trainer, ADMM moves
    the weights to the set over ``epochs`` (in ``steps`` of ever smaller budgets, arXiv 1903.09769), they are
    projected on the set, and the remaining weights are retrained. Without a trainer, the weights are only
    projected.

    Attributes:
        ratio: weights over nonzeros, one budget over all layers.
        keep: share of nonzeros, 0 to 1, one budget over all layers.
        pattern: ``"2:4"``: at most 2 nonzeros in 4 consecutive weights along the input channels.
        layers: share of nonzeros by layer: in graph order, or by name pattern.
        structure: ``element``, or ``channel``: whole output channels, ``layers`` being shares of channels.
            Channels that are outputs of the model stay; layers whose outputs are added keep the same
            channels, as many as the largest of their shares requires (see ``channel_pruning``).
        epochs: epochs of ADMM, over all steps; one epoch is one W-step.
        steps: partial prunings in sequence, each from the result of the last.
        retrain_epochs: masked epochs after the last step; each earlier step gets one.
        rho_start, rho_end: penalty in units of one over a layer's mean square, rising geometrically.
        learning_rate: AdamW's during ADMM; retraining falls from it to ``end_rate``.
        include, exclude: patterns of layer names or operators.
    """

    name: ClassVar[str] = "admm_prune"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    ratio: Ratio | None = None
    keep: PositiveShare | None = None
    pattern: str | None = None
    layers: PerLayer | None = None
    structure: str = "element"
    epochs: Epochs = 8
    steps: Rounds = 1
    retrain_epochs: Epochs = 4
    rho_start: Positive = 1e-5
    rho_end: Positive = 1e-3
    learning_rate: Positive = 1e-3
    end_rate: NonNegative = 1e-5
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        require_budget(self)
        if self.structure not in ("element", "channel"):
            raise PassRefused("unknown structure", got=self.structure, expected="element or channel")
        sites, _ = self._layers(model)
        self.budget(sites, model, context)

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        sites, skipped = self._layers(model)
        original = model.fork()
        before = {site.name: model.read(site) for site in sites}
        figures: dict[str, Any] = {}
        if context.trainer is None or context.train is None:
            after = self.budget(sites, model, context).project(before)
            model.write_back(after)
        else:
            figures = self._fine_tune(model, sites, context)
            after = {site.name: model.read(site) for site in sites}
        edits = tuple(
            Edit(name, f"{np.count_nonzero(after[name]):,} of {after[name].size:,} weights kept")
            for name in after
            if not np.array_equal(before[name], after[name])
        )
        return PassReport(not same_model(original, model), edits, skipped, figures)

    def _layers(self, model: ModelView) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
        """Return the layers to prune; for whole channels, the layers whose channels may be removed."""
        sites, skipped = choose_layers(model, self.include, self.exclude)
        if self.structure != "channel" or self.pattern is not None:
            return sites, skipped
        tied, left = prunable_channels(model, sites)
        names = {name for group in tied for name in group.axes}
        if not names:
            raise NothingToDo("no channels can be pruned", got=f"{left[0].layer}: {left[0].why}")
        return tuple(site for site in sites if site.name in names), (*skipped, *left)

    # -- fine-tuning -------------------------------------------------------------------------

    def _fine_tune(
        self, model: ModelView, sites: tuple[WeightSite, ...], context: PassContext
    ) -> dict[str, Any]:
        if context.trainer is None or context.train is None:
            raise PassRefused("fine-tuning needs a trainer and data")
        score = validation_score(context)
        history: list[Record] = []
        scores: tuple[float, ...] = ()
        total = self.epochs + self.retrain_epochs + self.steps - 1
        opened = context.trainer.open(model, sites, context.train, context.settings, context.taught_by)
        with opened as run, context.progress.task("prune", total) as task:
            for step in range(1, self.steps + 1):
                budget = self.budget(sites, model, context, _geometric(step / self.steps))
                history += self.draw(run, budget, step, context.seed, task)
                last = step == self.steps
                retraining = self._retraining(last, context, context.seed + 1000 * step)
                scores = retraining.run(run, score if last else None, task)
            model.write_back(run.tensors())
        return {"admm": [asdict(record) for record in history], "retraining": list(scores)}

    def draw(
        self, run: TrainingRun, budget: JointSet, step: int, seed: int, task: Task
    ) -> tuple[Record, ...]:
        """Run ADMM towards one budget, project on it, and freeze the zeros."""
        epochs = ceil(self.epochs * step / self.steps) - ceil(self.epochs * (step - 1) / self.steps)
        admm_phase = AdmmPhase(
            epochs=epochs,
            rate=self.learning_rate,
            rho_start=self.rho_start,
            rho_end=self.rho_end,
            seed=seed + 100 * step,
        )
        history = admm_phase.run(run, budget, task)
        freeze_zeros(run, budget.project(run.weights()))
        return history

    def _retraining(self, last: bool, context: PassContext, seed: int) -> Retraining:
        rates = Rates(peak=self.learning_rate, end=self.end_rate if last else self.learning_rate)
        epochs = self.retrain_epochs if last else 1
        average = context.settings.average_epochs if last else 1
        return Retraining(epochs=epochs, rates=rates, seed=seed, average=average)

    # -- budgets -----------------------------------------------------------------------------

    def budget(
        self,
        sites: tuple[WeightSite, ...],
        model: ModelView,
        context: PassContext,
        partial: Callable[[float], float] = lambda density: density,
    ) -> JointSet:
        """Return the set to prune to; ``partial`` maps a final density to that of the present step.

        A global budget counts the weights of the reference: what earlier passes removed stays removed.
        """
        if self.pattern is not None:
            n, m = parse_pattern(self.pattern)
            return Separable({site.name: NofM(n, m, axis=_in_axis(site)) for site in sites})
        if self.structure == "channel":
            return self._channels(sites, model, context, partial)
        if self.layers is not None:
            densities = self._shares(sites)
            return Separable(
                {site.name: AtMostK(round(site.size * partial(densities[site.name]))) for site in sites}
            )
        density = global_density(self, sites, context.reference)
        here = sum(site.size for site in sites)
        return GlobalAtMostK(int(here * partial(density)), _evened(sites, model))

    def _channels(
        self,
        sites: tuple[WeightSite, ...],
        model: ModelView,
        context: PassContext,
        partial: Callable[[float], float],
    ) -> JointChannels:
        tied, _ = prunable_channels(model, sites)
        everything, _ = choose_layers(model, self.include, self.exclude)
        if self.layers is None:
            density = global_density(self, everything, context.reference)
            densities = dict.fromkeys((site.name for site in sites), density)
        else:
            densities = self._shares(everything)
        shares = [max(densities[name] for name in group.axes) for group in tied]
        kept = [
            max(1, round(group.channels * partial(share))) for group, share in zip(tied, shares, strict=True)
        ]
        return JointChannels(tied, kept, _evened(sites, model))

    def _shares(self, sites: tuple[WeightSite, ...]) -> dict[str, float]:
        densities = spread(self.layers or (), sites, "layers")
        for name, density in densities.items():
            if not 0 <= density <= 1:
                raise PassRefused("impossible share to keep", where=name, got=density, expected="0 to 1")
        return densities


def _geometric(share: float) -> Callable[[float], float]:
    """Return a function from a final density to that of a step: ``density ** share``."""
    return lambda density: density**share


def _evened(sites: tuple[WeightSite, ...], model: ModelView) -> Mapping[str, float]:
    """Return weights that make layers of different scale comparable: 1 over each root mean square."""
    scales = {
        site.name: float(np.sqrt(np.mean(np.square(model.read(site), dtype=np.float64)))) for site in sites
    }
    return {name: 1.0 / scale for name, scale in scales.items() if scale > 0}


def _in_axis(site: WeightSite) -> int:
    return -1 if site.in_axis is None else site.in_axis
