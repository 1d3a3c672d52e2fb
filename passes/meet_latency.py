"""MeetLatency: use integers, remove channels and drop blocks until a share of the latency is left."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from onnx_admm.contracts import Edit, Feeds, ModelView, PassContext, PassReport, Skip
from onnx_admm.data.compute_budget import open_extents
from onnx_admm.errors import BudgetExceeded, NothingToDo, PassRefused, TrainingError
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.quantization.integer_latency import IntegerLatency
from onnx_admm.removal.residual_blocks import residual_blocks
from onnx_admm.runtime.turns import ratios_of
from onnx_admm.selection.layers import choose_sites
from onnx_admm.settings.ranges import Epochs, NonNegative, Positive, PositiveShare, Rounds, Samples
from onnx_admm.targeting.drop import accuracy_drop
from onnx_admm.targeting.share_search import Tried, largest_share

from .fine_tune import FineTune
from .quantize_activations import QuantizeActivations
from .remove_blocks import RemoveBlocks
from .remove_channels import ChannelStudy, PricedWidths, RemoveChannels

_logger = logging.getLogger(__name__)

_THREADS = 1
"""Threads of timed runs: processor time is exact on one."""

_MARGIN = 0.98
"""Share of the budget that the search aims at before training, which may lead to another placement."""

_TUNED, _TUNED_RATE = 0.25, 0.1
"""Training with integers in place: shares of the epochs and of the learning rate of the float training."""

_PROBE_SAMPLES = 128

_Quantity: TypeAlias = Literal["latency", "macs"]
"""Quantity by which the widths of layers are chosen: measured kernels, or multiply-accumulates."""

_MOST_BLOCKS = 16
"""Most residual blocks of a model for which they are removed: each is tried with all others in place."""

_MOST_PRICED = 12
"""Most layers for which widths are also chosen by latency: each of some ten widths of each is then timed in a
model, which takes a second or more."""

_SHALLOWER: tuple[Mapping[str, Any], ...] = (
    {"keep": 0.9},
    {"most_blocks": 1, "blocks": ("merged",)},
    {"most_blocks": 1, "blocks": ("dropped",)},
    {"most_blocks": 2},
)
"""Settings of ``remove_blocks`` that are tried, the mildest first: the form of least error that saves a tenth
of the work, then those of least error for the work that they save."""


@dataclass(frozen=True, kw_only=True)
class MeetLatency:
    """Use integers, remove channels and drop blocks until a share of the latency is left.

    All layers that are faster with 8-bit integers, and only those, become integer (``QuantizeActivations``).
    If that is not enough, channels are removed before (``RemoveChannels``), as few as possible: models with
    several shares of the latency and of the multiply-accumulates are built, and each is timed as a whole, in
    turns with the original. If the model has residual blocks, the same is done with one or two of them
    dropped or merged (``RemoveBlocks``). From all models within the budget, the one with the least error of
    the outputs is taken. The smaller model is trained, with the original as its teacher, if it loses more
    than ``PassContext.max_drop``, or if it loses anything and no limit is given. If it still
    loses too much with integers, it is trained further with the integers in place.

    The latency is that of this machine, batch 1, processor time on one thread.

    Attributes:
        share: share of the original's latency that may be left, above 0 and below 1.
        epochs: epochs of training of a smaller model; 0: none.
        learning_rate, end_rate: AdamW's, as in ``fine_tune``.
        samples: calibration samples for the removal, as in ``remove_channels``.
        tries: models that are built and timed with each number of blocks, at most.
        blocks: whether residual blocks may be dropped or merged.
        integers: whether layers may be computed with integers.
        include, exclude: patterns of layer names or operators; other layers stay as they are.
    """

    name: ClassVar[str] = "meet_latency"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    share: PositiveShare = 0.5
    epochs: Epochs = 0
    learning_rate: Positive = 1e-3
    end_rate: NonNegative = 1e-5
    samples: Samples = 512
    tries: Rounds = 7
    blocks: bool = True
    integers: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if not 0 < self.share < 1:
            raise PassRefused("impossible share", where="share", got=self.share, expected="above 0, below 1")
        if context.train is None:
            raise PassRefused("a budget for latency needs samples of the input", hint="Give --data.")
        if self.epochs and context.trainer is not None:
            try:
                FineTune(epochs=self.epochs).requires(model, context)
            except NothingToDo as reason:
                what = f"the budget is not reachable: {reason.what}"
                raise BudgetExceeded(what, hint=reason.hint) from reason
        if context.validation is not None:  # refuse before the work if no drop can be measured
            first = context.validation.select(np.arange(1))
            accuracy_drop(context.reference, replace(context, validation=first))

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        if context.train is None:
            raise PassRefused("a budget for latency needs samples of the input")
        trains = bool(self.epochs) and context.trainer is not None
        feeds = next(context.train.select(np.arange(1)).batches(1)).feeds
        context = replace(context, bindings={**open_extents(model, feeds), **context.bindings})
        work = _Work(self, model, context, feeds)
        candidates = work.candidates(model, self.share * (_MARGIN if trains else 1.0))
        within = [each for each in candidates if each.cost <= self.share]
        if len(within) > 1:
            best = min(within, key=lambda each: work.error(each.made.model))
        else:
            best = min(candidates, key=lambda each: each.cost)
        form, latency, drop = best.made, best.cost, accuracy_drop(best.made.model, context)
        trained = trains and form.smaller is not None and (drop is None or drop > (context.max_drop or 0.0))
        if trained:
            latency, form = work.train(form)
            drop = accuracy_drop(form.model, context)
        has_integers = form.integers is not None and form.integers.changed
        if trains and has_integers and drop is not None and drop > (context.max_drop or 0.0):
            tuned = work.tune_integers(form)
            if (after := accuracy_drop(tuned.model, context)) is not None and after < drop:
                trained, form, drop = True, tuned, after
            elif tuned.model is form.model:
                form = tuned  # with the reason
        figures = {
            "budget": {"latency": {"asked": self.share, "reached": latency, "original": 1.0}},
            "tried": work.tried,
            "trained": trained,
            "drop": drop,
            "blocks": dict(form.blocks),
            "removal": dict(form.removal),
            "integers": {} if form.integers is None else dict(form.integers.figures),
        }
        model.become(form.model)
        edits, unmet = _by_layer(form.all_edits), self._unmet(latency, best.cost, drop, context)
        return PassReport(bool(edits), edits, form.all_skipped, figures, unmet)

    def _unmet(
        self, latency: float, untrained: float, drop: float | None, context: PassContext
    ) -> str | None:
        """Return the sentence about a limit that does not hold."""
        if latency > self.share:
            if untrained <= self.share:
                return f"the trained model takes {latency:.3g}x of the latency; {self.share:g}x was asked for"
            return f"not reachable: the fastest model found takes {latency:.3g}x of the latency"
        if drop is not None and context.max_drop is not None and drop > context.max_drop:
            return (
                f"not reachable: at {latency:.3g}x of the latency the model loses {drop:.2f} points, "
                f"and {context.max_drop:g} are allowed"
            )
        return None


def _by_layer(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Return one edit for each layer, with everything that was done to it."""
    said: dict[str, list[str]] = {}
    for edit in edits:
        said.setdefault(edit.layer, []).append(edit.what)
    return tuple(Edit(layer, "; then ".join(what)) for layer, what in said.items())


@dataclass(frozen=True)
class _Form:
    """One model that was built, and what was done to it.

    Attributes:
        model: the model; with integers where ``integers`` is given.
        smaller: the same before integers; None where no channel and no block was removed.
        edits, skipped: what was done to which layer before integers, and why not to others.
        blocks, removal: figures of the passes that made it smaller.
        integers: report of the pass that made layers integer.
    """

    model: ModelView
    smaller: ModelView | None = None
    edits: tuple[Edit, ...] = ()
    skipped: tuple[Skip, ...] = ()
    blocks: Mapping[str, Any] = field(default_factory=dict)
    removal: Mapping[str, Any] = field(default_factory=dict)
    integers: PassReport | None = None

    @property
    def all_edits(self) -> tuple[Edit, ...]:
        return self.edits if self.integers is None else (*self.edits, *self.integers.edits)

    @property
    def all_skipped(self) -> tuple[Skip, ...]:
        return self.skipped if self.integers is None else (*self.skipped, *self.integers.skipped)


class _Start:
    """A form before channels go, and what is found out about it: once, for all shares that are tried."""

    def __init__(self, work: _Work, form: _Form) -> None:
        self._work, self.form = work, form
        self._prices: dict[_Quantity, PricedWidths] = {}

    @functools.cached_property
    def whole(self) -> tuple[float, _Form]:
        """Latency with all channels, and the model."""
        return self._work.with_integers(self.form)

    @functools.cached_property
    def study(self) -> ChannelStudy | NothingToDo:
        """What its channels are worth, or the reason why none can be removed."""
        try:
            removal = self._work.removal(self.form.model, 1.0, "macs")
            studied = removal.study(self.form.model, self._work.context)
            self._prices["macs"] = removal.price(studied, self._work.context)
        except (NothingToDo, PassRefused) as reason:
            return NothingToDo(str(reason))
        return studied

    def search(self, by: _Quantity, asked: float, most: int) -> tuple[Tried[_Form], ...]:
        """Return what was tried; the last is the largest share of the quantity within the budget.

        Args:
            by: quantity that widths are chosen by.
            asked: largest latency.
            most: shares that are tried, at most.
        """
        latency, whole = self.whole
        if latency <= asked:
            return (Tried(1.0, latency, whole),)
        studied = self.study
        if isinstance(studied, NothingToDo):
            left = Skip("model", f"no channel is removed: {studied}")
            return (Tried(1.0, latency, replace(whole, skipped=(*whole.skipped, left))),)
        return largest_share(partial(self._narrowed, studied, by), asked, most)

    def _narrowed(self, studied: ChannelStudy, by: _Quantity, share: float) -> tuple[float, _Form]:
        """Return the latency with a share of a quantity left, and the model."""
        if share == 1.0:
            return self.whole
        form, context = self.form, self._context(by)
        removal = self._work.removal(form.model, share, by)
        if by not in self._prices:
            self._prices[by] = removal.price(studied, context)
        made = form.model.fork()
        report = removal.remove(made, studied, self._prices[by], context)
        narrow = replace(
            form,
            model=made,
            smaller=made,
            edits=(*form.edits, *report.edits),
            skipped=(*form.skipped, *report.skipped),
            removal=report.figures,
        )
        return self._work.with_integers(narrow)

    def _context(self, by: _Quantity) -> PassContext:
        """Return a context that prices widths, with the integer kernels that the narrower layers may have."""
        if by == "macs":
            return self._work.context
        integers = self.whole[1].integers
        layers = frozenset(edit.layer for edit in (() if integers is None else integers.edits))
        cost_model = IntegerLatency(layers=layers, feeds=self._work.feeds)
        return replace(self._work.context, cost_model=cost_model)


class _Work:
    """Builds forms of a model, times them, and records what was tried."""

    def __init__(self, settings: MeetLatency, model: ModelView, context: PassContext, feeds: Feeds) -> None:
        self._settings, self.context, self.feeds = settings, context, feeds
        self._original = context.reference.to_bytes(maps=False)
        self._named: frozenset[str] | None = None
        if settings.include or settings.exclude:
            chosen, _ = choose_sites(model.sites(), settings.include, settings.exclude)
            self._named = frozenset(site.name for site in chosen)
        self.tried: list[dict[str, Any]] = []

    def candidates(self, model: ModelView, asked: float) -> list[Tried[_Form]]:
        """Return the best model with all residual blocks, and with fewer if integers are not enough."""
        found: list[Tried[_Form]] = []
        for start in (_Start(self, form) for form in self._forms(model)):
            blocks = len(start.form.blocks)
            for by in self._quantities(start.form.model):
                tried = start.search(by, asked, self._settings.tries)
                self.tried += [
                    {"blocks": blocks, "widths": by, "share": each.share, "latency": each.cost}
                    for each in tried
                ]
                found.append(tried[-1])
                if len(tried) == 1:  # no channel need go, or none can
                    break
            if not blocks and start.whole[0] <= asked:
                break
        return found

    def patterns(self, model: ModelView) -> dict[str, Any]:
        """Return what passes are to work on: the layers named at first that the model still has.

        Raises:
            NothingToDo: none of them is left.
        """
        if self._named is None:
            return {}
        left = tuple(site.name for site in model.sites() if site.name in self._named)
        if not left:
            raise NothingToDo("none of the layers named is left")
        if self._settings.include:
            return {"include": left}
        others = tuple(site.name for site in model.sites() if site.name not in self._named)
        return {"exclude": others} if others else {}

    def removal(self, model: ModelView, share: float, by: _Quantity) -> RemoveChannels:
        """Return the pass that removes channels of a model."""
        settings = {"samples": self._settings.samples, **self.patterns(model)}
        return RemoveChannels(keep=share, quantity=by, **settings)

    def _quantities(self, model: ModelView) -> tuple[_Quantity, ...]:
        """Return the quantities to choose widths by: neither knows which narrower layers will be integer."""
        return ("latency", "macs") if len(model.sites()) <= _MOST_PRICED else ("macs",)

    def _forms(self, model: ModelView) -> Iterator[_Form]:
        """Yield the model as it is, and with fewer residual blocks."""
        yield _Form(model)
        if not self._settings.blocks or not 0 < len(residual_blocks(model)[0]) <= _MOST_BLOCKS:
            return
        for settings in _SHALLOWER:
            made = model.fork()
            step = RemoveBlocks(samples=self._settings.samples, **settings, **self.patterns(model))
            try:
                report = step.run(made, self.context)
            except (NothingToDo, PassRefused) as reason:
                _logger.info("blocks stay: %s", reason)
                continue
            if report.changed:
                yield _Form(made, made, report.edits, blocks=report.figures["blocks"])

    def train(self, form: _Form) -> tuple[float, _Form]:
        """Return the latency of the smaller model after training, and the model."""
        made = (form.model if form.smaller is None else form.smaller).fork()
        settings = self._settings
        report = self._fine_tune(made, settings.epochs, settings.learning_rate)
        return self.with_integers(replace(form, model=made, edits=(*form.edits, *report.edits)))

    def tune_integers(self, form: _Form) -> _Form:
        """Return the model trained with its integers in place; the kernels, and so the latency, stay."""
        made = form.model.fork()
        epochs = max(1, round(self._settings.epochs * _TUNED))
        try:
            report = self._fine_tune(made, epochs, self._settings.learning_rate * _TUNED_RATE)
        except (NothingToDo, TrainingError) as reason:
            left = Skip("model", f"its integers are not trained: {reason}")
            return replace(form, skipped=(*form.skipped, left))
        return replace(form, model=made, edits=(*form.edits, *report.edits))

    def _fine_tune(self, model: ModelView, epochs: int, rate: float) -> PassReport:
        end = min(rate, self._settings.end_rate)
        step = FineTune(epochs=epochs, learning_rate=rate, end_rate=end, **self.patterns(model))
        return step.run(model, self.context)

    def error(self, model: ModelView) -> float:
        """Return the relative error of a model's outputs against the original's."""
        context = self.context
        data = context.train if context.validation is None else context.validation
        if data is None:
            return 0.0
        few = data.select(np.arange(min(len(data), _PROBE_SAMPLES)))
        threads = context.settings.threads
        probe = OutputProbe(model, (), few, reference=context.reference, threads=threads)
        return probe.relative_error({})

    def with_integers(self, form: _Form) -> tuple[float, _Form]:
        """Make layers integer that are faster with integers, and time the result."""
        made, found = form.model.fork(), form
        if self._settings.integers:
            try:
                step = QuantizeActivations(against="before", **self.patterns(made))
                found = replace(form, model=made, integers=step.run(made, self.context))
            except NothingToDo as reason:  # no layer is left
                found = replace(form, model=made, skipped=(*form.skipped, Skip("model", str(reason))))
        (latency,) = ratios_of(self._original, [made.to_bytes(maps=False)], self.feeds, _THREADS)
        return latency, found
