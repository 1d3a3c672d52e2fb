"""MeetBudget: how much of each layer, at how many bits, for a budget on a target and an accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from onnx_admm.allocation.allocation import FLOAT_BITS, Curve, Surface
from onnx_admm.calibration.rates import Trial, measured_surfaces
from onnx_admm.calibration.samples import calibration_samples
from onnx_admm.calibration.stream import Calibration, calibrated_layer
from onnx_admm.contracts import CostModel, Dataset, Edit, ModelView, PassContext, PassReport, WeightSite
from onnx_admm.errors import BudgetExceeded, NothingToDo, PassRefused
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.rewrite.expose_logits import output_roles
from onnx_admm.pricing.pricing import for_model, price
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.selection.layers import choose_layers
from onnx_admm.settings.ranges import Bits, Epochs, NonNegative, Positive, Rounds, Samples
from onnx_admm.targeting.figures import parse_budgets, require_given
from onnx_admm.targeting.offers import Market, open_market
from onnx_admm.targeting.reasons import by_operator, explain
from onnx_admm.targeting.search import CandidateResult, SearchResult, not_reachable, search

from .fine_tune import FineTune
from .reconstruct_layers import ReconstructLayers

_DENSITIES = (0.01, 0.03, 0.08, 0.2, 0.4, 0.7)
"""Measured of each layer; between them errors are interpolated, and less is not on offer."""

_PROBE_SAMPLES = 128

Measured = dict[str, dict[str, dict[str, list[float]]]]
"""By site name and bits: ``densities`` and ``errors``."""


@dataclass(frozen=True, kw_only=True)
class MeetBudget:
    """Density and bits of every layer by one knapsack over measured damages and the target's prices.

    What each layer does to the outputs is measured by density and bits, what it costs is asked of the cost
    model; the treatments of least damage within the budget are carried out layer by layer
    (``reconstruct_layers``), trained if ``epochs`` says so, and measured. Over the allowed drop
    (``PassContext.max_drop``) means another round: see ``targeting.search``. Whatever is left under its
    break-even ratio goes back to dense.

    Attributes:
        budget: what may be left of the cost model's figures or of the weights: ``"latency=0.5x"``,
            ``"size=20x"``, ``"weights=12x"``; several hold together.
        bits: of a weight, on offer beside unquantised ones.
        rounds: at most.
        epochs: of training in each round, zeros held, between pruning and quantising; 0: none.
        learning_rate, end_rate: AdamW's, as in ``fine_tune``.
        samples: to calibrate on, taken from the training data: of each predicted class as many.
        measured: what an earlier run of this model measured (``measured`` in its report), not to do it again.
        include, exclude: patterns of layer names or operators.
    """

    name: ClassVar[str] = "meet_budget"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    budget: tuple[str, ...] = ()
    bits: tuple[Bits, ...] = (2, 3, 4, 5, 6, 8)
    rounds: Rounds = 8
    epochs: Epochs = 0
    learning_rate: Positive = 3e-4
    end_rate: NonNegative = 5e-6
    samples: Samples = 512
    measured: Measured | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_budgets(self.budget, "budget")

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if not self.budget:
            raise PassRefused("no budget to meet", expected="such as latency=0.5x")
        require_given(parse_budgets(self.budget), self._cost_model(context), "budget")
        for bits in self.bits:
            if not 1 <= bits <= 8:
                raise PassRefused("impossible number of bits", where="bits", got=bits, expected="1 to 8")
        for key in ("samples", "rounds"):
            if getattr(self, key) < 1:
                raise PassRefused("too few", where=key, got=getattr(self, key), expected="1 or more")
        if context.max_drop is not None and context.validation is None:
            raise PassRefused("nothing to measure a drop on", hint="Give --data or --val.")
        if self.epochs:
            FineTune(epochs=self.epochs).requires(model, context)
        try:
            choose_layers(model, self.include, self.exclude)
        except NothingToDo as reason:
            raise BudgetExceeded(f"the budget is not reachable: {reason.what}", hint=reason.hint) from reason

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        sites, skipped = choose_layers(model, self.include, self.exclude)
        samples = calibration_samples(context, self.samples)
        surfaces = self._surfaces(model, sites, samples, context)
        priced = self._cost_model(context)
        market = open_market(
            node_profiles(model, context.bindings),
            for_model(priced, model, context.bindings),
            parse_budgets(self.budget),
            surfaces,
            original=price(context.reference, priced, bindings=context.bindings),
            least_density=_DENSITIES[0],
        )
        work = _Work(self, model, sites, context, samples)
        found = search(
            market,
            lambda choice: work.attempt(market, choice),
            max_drop=context.max_drop,
            most_rounds=self.rounds,
        )
        changed = found.result is not None and not same_model(model, found.result)
        figures, edits = self._told(market, found, surfaces)
        if found.result is not None and changed:
            model.become(found.result)
        unmet = not_reachable(market, found, context.max_drop)
        return PassReport(changed, edits if changed else (), skipped, figures, unmet)

    def _cost_model(self, context: PassContext) -> CostModel:
        if context.cost_model is None:
            raise PassRefused(
                "a budget needs a cost model to say what layers cost",
                hint="Name one with --cost-model, or as cost_model in the recipe; see `onnx-admm plugins`.",
            )
        return context.cost_model

    # -- measuring ---------------------------------------------------------------------------

    def _surfaces(
        self, model: ModelView, sites: Sequence[WeightSite], samples: Dataset, context: PassContext
    ) -> dict[str, Surface]:
        """Measured damages by layer; those of an earlier run where they are given."""
        if self.measured is not None:
            missing = [site.name for site in sites if site.name not in self.measured]
            if missing:
                raise PassRefused("not measured in the earlier run", where="measured", got=", ".join(missing))
            return {site.name: _surface(self.measured[site.name]) for site in sites}
        calibration = Calibration(
            original=model.fork(), samples=samples, seed=context.seed, threads=context.settings.threads
        )
        layers = [layer for site in sites if (layer := calibrated_layer(model, site)) is not None]
        few = samples.select(np.arange(min(len(samples), _PROBE_SAMPLES)))
        with context.progress.task("measure", len(sites)) as task:
            trial = Trial(calibration, few, context, task)
            return measured_surfaces(sites, layers, trial, densities=_DENSITIES, bits=self.bits)

    # -- telling -----------------------------------------------------------------------------

    def _told(
        self, market: Market, found: SearchResult[ModelView], surfaces: Mapping[str, Surface]
    ) -> tuple[dict[str, Any], tuple[Edit, ...]]:
        """Figures of the report, and a sentence for each layer."""
        dense = {name: offers.untouched for name, offers in market.offers.items()}
        choice = dense if found.best is None else found.best.choice
        shares = None if found.best is None else found.best.shares
        layers = explain(market, choice, shares=shares, scales=found.scales)
        cost = market.cost(choice)
        figures: dict[str, Any] = {
            "cost_model": market.cost_model.name,
            "assumes": market.cost_model.assumes,
            "budget": {
                figure: {"asked": share, "reached": reached, "original": whole}
                for (figure, share), reached, whole in zip(
                    market.budgets.items(), cost, market.original, strict=True
                )
            },
            "layers": layers,
            "by_operator": by_operator(market, choice),
            "zeros_never_pay": list(market.never()),
            "rounds": [
                {
                    "budget": dict(zip(market.budgets, each.shares, strict=True)),
                    "reached": dict(zip(market.budgets, each.cost, strict=True)),
                    "expected_damage": each.damage,
                    "drop": each.drop,
                    "layers": {
                        name: [treatment.density, treatment.bits]
                        for name, treatment in market.treatments(each.choice).items()
                    },
                }
                for each in found.rounds
            ],
            "measured": {name: _table(surface) for name, surface in surfaces.items()},
        }
        return figures, tuple(Edit(name, row["why"]) for name, row in layers.items())


@dataclass(frozen=True)
class _Work:
    """Carries choices out."""

    settings: MeetBudget
    model: ModelView
    sites: Sequence[WeightSite]
    context: PassContext
    samples: Dataset

    def attempt(self, market: Market, choice: Mapping[str, int]) -> CandidateResult[ModelView]:
        """The model treated so, what it loses, and what each layer would give back."""
        treatments = market.treatments(choice)
        densities = {site.name: treatments[site.name].density for site in self.sites}
        bits = {site.name: float(treatments[site.name].bits) for site in self.sites}
        made = self.model.fork()
        if self.settings.epochs:
            self._rebuild(made, layers=densities)
            tuning = FineTune(
                epochs=self.settings.epochs,
                learning_rate=self.settings.learning_rate,
                end_rate=self.settings.end_rate,
                include=self._names,
            )
            tuning.run(made, self.context)
            if any(width != FLOAT_BITS for width in bits.values()):
                self._rebuild(made, bits=bits)
        else:
            self._rebuild(made, layers=densities, bits=bits)
        drop = self._drop(made)
        is_over = drop is not None and drop > (self.context.max_drop or 0.0)
        return CandidateResult(made, drop, self._given_back(made, treatments) if is_over else {})

    @property
    def _names(self) -> tuple[str, ...]:
        """The layers that the choice is for, whatever patterns would say of the pruned model."""
        return tuple(site.name for site in self.sites)

    def _rebuild(self, made: ModelView, **asked: dict[str, float]) -> None:
        """By reconstruction, layer after layer."""
        step = ReconstructLayers(samples=self.settings.samples, include=self._names, **asked)  # type: ignore[arg-type]
        step.run(made, replace(self.context, train=self.samples))

    def _drop(self, made: ModelView) -> float | None:
        """Accuracy lost on the validation samples, in points; without labels, predictions that changed."""
        if self.context.max_drop is None or self.context.validation is None:
            return None
        threads, data = self.context.settings.threads, self.context.validation
        reference = self.context.reference
        roles = output_roles(reference)
        after = evaluate(made, data, reference=reference, roles=roles, threads=threads)
        if after.accuracy is not None:
            before = evaluate(reference, data, roles=roles, threads=threads)
            return 100.0 * ((before.accuracy or 0.0) - after.accuracy)
        if after.agreement is None:
            raise PassRefused(
                "nothing to judge the drop by", expected="a classifier's outputs, or data with labels"
            )
        return 100.0 * (1.0 - after.agreement)

    def _given_back(self, made: ModelView, treatments: Mapping[str, Any]) -> dict[str, float]:
        """Damage that goes away when one layer alone has its own weights again."""
        names = [name for name, each in treatments.items() if each.density < 1 or each.bits != FLOAT_BITS]
        few = self.samples.select(np.arange(min(len(self.samples), _PROBE_SAMPLES)))
        probe = OutputProbe(
            made, names, few, reference=self.context.reference, threads=self.context.settings.threads
        )
        whole = probe.damage({})
        return {name: max(0.0, whole - probe.damage({name: self.model.read(name)})) for name in names}


def _table(surface: Surface) -> dict[str, dict[str, list[float]]]:
    curves = {FLOAT_BITS: surface.pruned, **surface.rounded}
    return {
        str(bits): {"densities": list(curve.densities), "errors": list(curve.errors)}
        for bits, curve in curves.items()
    }


def _surface(table: Mapping[str, Mapping[str, Sequence[float]]]) -> Surface:
    curves = {
        int(bits): Curve(tuple(curve["densities"]), tuple(curve["errors"])) for bits, curve in table.items()
    }
    return Surface(curves.pop(FLOAT_BITS), curves)
