"""MeetBudget: choose density and bits of each layer for a cost budget and an accuracy."""

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
from onnx_admm.pricing.pricing import basis_of, for_model, price
from onnx_admm.selection.layers import choose_layers
from onnx_admm.settings.ranges import Bits, Epochs, NonNegative, Positive, Rounds, Samples
from onnx_admm.targeting.drop import accuracy_drop
from onnx_admm.targeting.quantities import parse_budgets, require_given
from onnx_admm.targeting.reasons import by_operator, explain
from onnx_admm.targeting.search import CandidateResult, SearchResult, not_reachable, search
from onnx_admm.targeting.search_space import SearchSpace, build_search_space

from .fine_tune import FineTune
from .reconstruct_layers import ReconstructLayers

_DENSITIES = (0.01, 0.03, 0.08, 0.2, 0.4, 0.7)
"""Densities measured of each layer; errors are interpolated between them, and no candidate has less."""

_PROBE_SAMPLES = 128

Measured = dict[str, dict[str, dict[str, list[float]]]]
"""By site name and bits: ``densities`` and ``errors``."""


@dataclass(frozen=True, kw_only=True)
class MeetBudget:
    """Choose density and bits of every layer by one knapsack over measured errors and costs.

    The effect of each layer on the outputs is measured by density and bits; the cost model gives the costs.
    The options of least total relative error within the budget are applied layer by layer
    (``reconstruct_layers``), trained if ``epochs`` is positive, and measured. A result over the allowed drop
    (``PassContext.max_drop``) starts another round: see ``targeting.search``. Layers under their break-even
    ratio stay dense.

    Attributes:
        budget: share that may remain of the cost model's quantities or of the weights: ``"latency=0.5x"``,
            ``"size=20x"``, ``"weights=12x"``; several apply together.
        bits: bits of a weight that are candidates, in addition to unquantised ones.
        rounds: rounds of the search, at most.
        epochs: epochs of training in each round, zeros frozen, between pruning and quantising; 0: none.
        learning_rate, end_rate: AdamW's, as in ``fine_tune``.
        samples: calibration samples, taken from the training data: equally many of each predicted class.
        measured: measurements of an earlier run of this model (``measured`` in its report), to be reused.
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
            raise PassRefused("no samples to measure a drop on", hint="Give --data or --val.")
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
        search_space = build_search_space(
            node_profiles(model, context.bindings),
            for_model(priced, model, context.bindings),
            parse_budgets(self.budget),
            surfaces,
            original=price(context.reference, priced, bindings=context.bindings),
            least_density=_DENSITIES[0],
        )
        work = _Work(self, model, sites, context, samples)
        found = search(
            search_space,
            lambda choice: work.attempt(search_space, choice),
            max_drop=context.max_drop,
            most_rounds=self.rounds,
        )
        changed = found.result is not None and not same_model(model, found.result)
        figures, edits = self._told(search_space, found, surfaces, basis_of(priced))
        if found.result is not None and changed:
            model.become(found.result)
        unmet = not_reachable(search_space, found, context.max_drop)
        return PassReport(changed, edits if changed else (), skipped, figures, unmet)

    def _cost_model(self, context: PassContext) -> CostModel:
        if context.cost_model is None:
            raise PassRefused(
                "a budget needs a cost model that prices the layers",
                hint="Name one with --cost-model, or as cost_model in the recipe; see `onnx-admm plugins`.",
            )
        return context.cost_model

    # -- measuring ---------------------------------------------------------------------------

    def _surfaces(
        self, model: ModelView, sites: Sequence[WeightSite], samples: Dataset, context: PassContext
    ) -> dict[str, Surface]:
        """Return the measured relative errors by layer; those of an earlier run where given."""
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

    # -- the report --------------------------------------------------------------------------

    def _told(
        self,
        search_space: SearchSpace,
        found: SearchResult[ModelView],
        surfaces: Mapping[str, Surface],
        basis: str,
    ) -> tuple[dict[str, Any], tuple[Edit, ...]]:
        """Return the figures of the report, and a sentence for each layer."""
        dense = {name: candidates.untouched for name, candidates in search_space.candidates.items()}
        choice = dense if found.best is None else found.best.choice
        shares = None if found.best is None else found.best.shares
        layers = explain(search_space, choice, shares=shares, scales=found.scales)
        cost = search_space.cost(choice)
        figures: dict[str, Any] = {
            "cost_model": search_space.cost_model.name,
            "assumes": search_space.cost_model.assumes,
            "basis": basis,
            "budget": {
                quantity: {"asked": share, "reached": reached, "original": whole}
                for (quantity, share), reached, whole in zip(
                    search_space.budgets.items(), cost, search_space.original, strict=True
                )
            },
            "layers": layers,
            "by_operator": by_operator(search_space, choice),
            "zeros_never_pay": list(search_space.never()),
            "rounds": [
                {
                    "budget": dict(zip(search_space.budgets, each.shares, strict=True)),
                    "reached": dict(zip(search_space.budgets, each.cost, strict=True)),
                    "expected_relative_error": each.relative_error,
                    "drop": each.drop,
                    "layers": {
                        name: [option.density, option.bits]
                        for name, option in search_space.options(each.choice).items()
                    },
                }
                for each in found.rounds
            ],
            "measured": {name: _table(surface) for name, surface in surfaces.items()},
        }
        return figures, tuple(Edit(name, row["why"]) for name, row in layers.items())


@dataclass(frozen=True)
class _Work:
    """Applies choices to the model and measures the results."""

    settings: MeetBudget
    model: ModelView
    sites: Sequence[WeightSite]
    context: PassContext
    samples: Dataset

    def attempt(self, search_space: SearchSpace, choice: Mapping[str, int]) -> CandidateResult[ModelView]:
        """Return the compressed model, its loss, and what restoring each layer would recover."""
        options = search_space.options(choice)
        densities = {site.name: options[site.name].density for site in self.sites}
        bits = {site.name: float(options[site.name].bits) for site in self.sites}
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
        drop = accuracy_drop(made, self.context)
        is_over = drop is not None and drop > (self.context.max_drop or 0.0)
        return CandidateResult(made, drop, self._recovered(made, options) if is_over else {})

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of the layers that the choice is for; patterns could match others in the pruned model."""
        return tuple(site.name for site in self.sites)

    def _rebuild(self, made: ModelView, **asked: dict[str, float]) -> None:
        """Reconstruct the model layer by layer."""
        step = ReconstructLayers(samples=self.settings.samples, include=self._names, **asked)  # type: ignore[arg-type]
        step.run(made, replace(self.context, train=self.samples))

    def _recovered(self, made: ModelView, options: Mapping[str, Any]) -> dict[str, float]:
        """Return the relative error that disappears when one layer alone has its own weights again."""
        names = [name for name, each in options.items() if each.density < 1 or each.bits != FLOAT_BITS]
        few = self.samples.select(np.arange(min(len(self.samples), _PROBE_SAMPLES)))
        probe = OutputProbe(
            made, names, few, reference=self.context.reference, threads=self.context.settings.threads
        )
        whole = probe.relative_error({})
        return {name: max(0.0, whole - probe.relative_error({name: self.model.read(name)})) for name in names}


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
