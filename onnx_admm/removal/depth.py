"""Choice of residual blocks to drop or to merge: one by one, by the added output error for the cost saved.

Each form of each block is put into the present model, its new layer and the layers behind it are
fitted, and the relative error of the outputs is measured. The form with the least added error for the cost it
saves is taken. Errors that were measured in an earlier model are measured again before their form is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_admm.calibration.stream import Calibration, LayerTarget
from onnx_admm.contracts import Dataset, ModelView, WeightSite
from onnx_admm.errors import WorkError
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model.rewrite.expose_values import weight_uses
from onnx_admm.removal.block_forms import BlockForm, has_value, put_form
from onnx_admm.removal.readers import Reader, Refitting, whole_layer
from onnx_admm.removal.residual_blocks import ResidualBlock, layers_behind
from onnx_admm.selection.layers import usable_layers

_LEAST = 1e-12
"""Added error below which it counts as this."""

_CLOSE = 1 + 1e-9

_MOST_REFITTED = 16
"""Layers behind a block that are refitted before its effect is measured, the first ones in graph order."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A block, and a form that it may take."""

    block: ResidualBlock
    form: BlockForm


@dataclass(frozen=True, eq=False)
class Depth:
    """A model with some blocks in other forms.

    Attributes:
        model: the model; names of values are those of the original.
        cost: its cost.
        error: relative error of its outputs.
        targets: what its new layers should compute, by site name.
        chosen: the candidates in it, by name of the block, the first chosen first.
    """

    model: ModelView
    cost: float
    error: float = 0.0
    targets: Mapping[str, LayerTarget] = field(default_factory=dict)
    chosen: Mapping[str, Candidate] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DepthSearch:
    """Puts blocks into other forms, and measures the error of the outputs.

    Attributes:
        calibration: samples and the original.
        judged: samples on which the outputs are measured.
        fitted: samples that candidates are fitted to: others than these, so that a good fit to a few samples
            does not count.
        cost: returns the cost of a model.
        memory_bytes: memory for the statistics of one new layer.
    """

    calibration: Calibration
    judged: Dataset
    fitted: Dataset
    cost: Callable[[ModelView], float]
    memory_bytes: int

    def start(self) -> Depth:
        """Return the original."""
        return Depth(self.calibration.original.fork(), self.cost(self.calibration.original))

    def trial(self, present: Depth, candidate: Candidate) -> Depth | str:
        """Return the present model with one more block in another form, or the reason why there is none.

        Its new layer and the first layers behind it are fitted.
        """
        calibration = replace(self.calibration, samples=self.fitted)
        block, form = candidate.block, candidate.form
        if not has_value(present.model, block.output.name):
            return "it is part of a block that was removed"
        model = present.model.fork()
        name = put_form(model, block, form)
        cost = self.cost(model)
        if cost * _CLOSE >= present.cost:
            return f"{form.what} in its place costs no less"
        targets, new = dict(present.targets), list[Reader]()
        if name is not None and form.weights is not None:
            targets[name] = LayerTarget(block.output.name, form.weights)
            layer = whole_layer(model, model.site(name))
            if layer is None:
                return f"the inputs of {form.what} in its place are not available as rows"
            if layer.layer.moment_bytes > self.memory_bytes:
                return (
                    f"the statistics of {form.what} in its place take {layer.layer.moment_bytes >> 20:,} MiB"
                )
            new = [layer]
        refitting = Refitting(calibration, model, targets)
        behind = _readers_behind(model, block.output.name)[:_MOST_REFITTED]
        try:
            for reader in (*new, *behind):
                _refit(refitting, reader)
            error = self._error(model)
        except WorkError as failure:
            return f"with {form.what} in its place the model does not run: {failure.what}"
        others = {name: each for name, each in present.chosen.items() if name != block.name}
        return Depth(model, cost, error, targets, {**others, block.name: candidate})

    def refitted(self, present: Depth, told: Callable[[str], None]) -> Depth:
        """Return the model with all layers behind the changed blocks refitted to all samples, in graph order.

        The model stays as it is where that makes the error of the outputs larger.
        """
        model = present.model.fork()
        refitting = Refitting(self.calibration, model, present.targets)
        for reader in _readers_behind(model, *(each.block.entry.name for each in present.chosen.values())):
            _refit(refitting, reader)
            told(reader.name)
        error = self._error(model)
        return replace(present, model=model, error=error) if error < present.error else present

    def _error(self, model: ModelView) -> float:
        probe = OutputProbe(
            model, (), self.judged, reference=self.calibration.original, threads=self.calibration.threads
        )
        return probe.relative_error({})


@dataclass(frozen=True, eq=False)
class DepthChoice:
    """The chosen model, each step to it, and why other candidates were not taken, by block and kind."""

    depth: Depth
    steps: tuple[Depth, ...]
    left: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Goal:
    """When a choice is complete.

    Attributes:
        cost: cost that is low enough; None: no limit.
        blocks: number of changed blocks that is enough; None: no limit.
    """

    cost: float | None = None
    blocks: int | None = None

    def is_cheap(self, depth: Depth) -> bool:
        """Return whether the cost is low enough."""
        return self.cost is not None and depth.cost <= self.cost

    def is_met(self, depth: Depth) -> bool:
        """Return whether no further step is needed."""
        return self.is_cheap(depth) or (self.blocks is not None and len(depth.chosen) >= self.blocks)


def choose(
    search: DepthSearch, candidates: Sequence[Candidate], goal: Goal, told: Callable[[str], None]
) -> DepthChoice:
    """Put blocks into other forms one by one until the goal is met or no candidate is left.

    Each step takes the candidate that adds the least error for the cost it saves. The last step takes the
    one of least error among those that make the model cheap enough.

    Args:
        search: measures candidates.
        candidates: blocks with their forms.
        goal: when to end.
        told: receives the name of each block that is tried.
    """
    present, steps = search.start(), list[Depth]()
    trials = _Trials(search, dict.fromkeys(candidates), told)
    while not goal.is_met(present):
        found = trials.best(present)
        if found is None:
            break
        candidate, trial = found
        if goal.is_cheap(trial):
            cheap = [each for each in trials.all(present) if goal.is_cheap(each[1])]
            candidate, trial = min(cheap, key=lambda each: each[1].error)
        trials.take(candidate)
        present = trial
        steps.append(present)
    left = {name: why for name, why in trials.reasons.items() if name not in present.chosen}
    return DepthChoice(present, tuple(steps), left)


class _Trials:
    """Candidates that are left, with their last measured added error for the cost saved."""

    def __init__(
        self, search: DepthSearch, candidates: Iterable[Candidate], told: Callable[[str], None]
    ) -> None:
        self._search, self._told = search, told
        self._ratios = dict.fromkeys(candidates, -1.0)
        self._measured: dict[Candidate, Depth] = {}  # in the present model
        self.reasons: dict[str, dict[str, str]] = {}

    def best(self, present: Depth) -> tuple[Candidate, Depth] | None:
        """Return the candidate with the least ratio; earlier ratios are measured again on the way."""
        while self._ratios:
            first = min(self._ratios, key=self._ratios.__getitem__)
            if first in self._measured:
                return first, self._measured[first]
            self._measure(present, first)
        return None

    def all(self, present: Depth) -> list[tuple[Candidate, Depth]]:
        """Return all candidates, measured in the present model."""
        for candidate in [each for each in self._ratios if each not in self._measured]:
            self._measure(present, candidate)
        return list(self._measured.items())

    def take(self, candidate: Candidate) -> None:
        """Remove a candidate, and keep the ratios of the others as estimates."""
        del self._ratios[candidate]
        self._measured.clear()

    def _measure(self, present: Depth, candidate: Candidate) -> None:
        what = candidate.form.what
        reasons = self.reasons.setdefault(candidate.block.name, {})
        self._told(candidate.block.name)
        found = self._search.trial(present, candidate)
        if isinstance(found, str):
            del self._ratios[candidate]
            reasons[what] = found
            return
        lost, saved = found.error - present.error, (present.cost - found.cost) / present.cost
        reasons[what] = (
            f"{what} adds {lost:.2g} to the error of the outputs and saves {saved:.2g} of the cost"
        )
        ratio = max(lost, _LEAST) / saved
        if np.isfinite(ratio):
            self._ratios[candidate], self._measured[candidate] = ratio, found
        else:
            del self._ratios[candidate]


# -- refits ----------------------------------------------------------------------------------


def _readers_behind(model: ModelView, *names: str) -> list[Reader]:
    """Return the layers behind some values that can be refitted, in graph order."""
    sites = {site.name: site for site in _refitted_sites(model)}
    uses = {use.node: name for name, site in sites.items() for use in weight_uses(model, site)}
    values = {
        value.name: value
        for node in model.nodes()
        for value in (*node.inputs, *node.outputs)
        if value is not None and value.name in names
    }
    found: set[str] = set()
    for value in values.values():
        found |= layers_behind(model, value, uses)
    readers = (whole_layer(model, site) for name, site in sites.items() if name in found)
    return [reader for reader in readers if reader is not None]


def _refitted_sites(model: ModelView) -> Sequence[WeightSite]:
    plain = [site for site in model.sites() if site.editable and not site.scope]
    return usable_layers(model, plain)[0]


def _refit(refitting: Refitting, reader: Reader) -> None:
    """Refit one layer to its target."""
    problems, moments = refitting.problems([reader])
    refitting.refit([reader], problems, moments, np.zeros(0, np.int64))
