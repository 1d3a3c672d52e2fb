"""MeetLatency: narrower layers and integers until a share of the measured latency is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from onnx_admm.contracts import Edit, Feeds, ModelView, PassContext, PassReport, Skip
from onnx_admm.errors import NothingToDo, PassRefused
from onnx_admm.runtime.turns import ratios_of
from onnx_admm.settings.ranges import Epochs, NonNegative, Positive, PositiveShare, Rounds, Samples
from onnx_admm.targeting.drop import accuracy_drop
from onnx_admm.targeting.share_search import Tried, largest_share

from .fine_tune import FineTune
from .quantize_activations import QuantizeActivations
from .remove_channels import RemoveChannels

_THREADS = 1
"""Threads of timed runs: processor time is exact on one."""

_MARGIN = 0.98
"""Share of the budget that the search aims at where training follows: another placement may come of it."""


@dataclass(frozen=True, kw_only=True)
class MeetLatency:
    """Make layers narrower and compute them with integers until a share of the latency is left.

    All layers that are faster with 8-bit integers, and only those, become integer (``QuantizeActivations``).
    Where that is not enough, channels are removed first (``RemoveChannels``), as few as possible: models with
    several shares of the multiply-accumulates are built, and each is timed as a whole, in turns with the
    original. The narrowed model is trained where it loses more than is allowed (``PassContext.max_drop``; any
    loss where no limit is given), with the original as its teacher where there are no labels.

    The latency is that of this machine, batch 1, processor time on one thread.

    Attributes:
        share: share of the original's latency that may be left, above 0 and below 1.
        epochs: epochs of training of a narrowed model; 0: none.
        learning_rate, end_rate: AdamW's, as in ``fine_tune``.
        samples: calibration samples for the removal, as in ``remove_channels``.
        tries: models that are built and timed, at most.
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
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if not 0 < self.share < 1:
            raise PassRefused("impossible share", where="share", got=self.share, expected="above 0, below 1")
        if context.train is None:
            raise PassRefused("a budget for latency needs samples of the input", hint="Give --data.")
        if self.epochs and context.trainer is not None:
            FineTune(epochs=self.epochs).requires(model, context)

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        if context.train is None:
            raise PassRefused("a budget for latency needs samples of the input")
        feeds = next(context.train.select(np.arange(1)).batches(1)).feeds
        work = _Work(self, model, context, context.reference.to_bytes(maps=False), feeds)
        trains = bool(self.epochs) and context.trainer is not None
        aim = self.share * (_MARGIN if trains else 1.0)
        tried = largest_share(work.build, aim, self.tries)
        best = tried[-1]
        form, latency, drop = best.made, best.cost, accuracy_drop(best.made.model, context)
        trained = trains and form.narrowed is not None and (drop is None or drop > (context.max_drop or 0.0))
        if trained:
            latency, form = work.train(form)
            drop = accuracy_drop(form.model, context)
        figures = {
            "budget": {"latency": {"asked": self.share, "reached": latency, "original": 1.0}},
            "tried": [{"macs": each.share, "latency": each.cost} for each in tried],
            "trained": trained,
            "drop": drop,
            "removal": dict(form.removal),
            "integers": dict(form.integers),
        }
        model.become(form.model)
        edits, unmet = _by_layer(form.edits), self._unmet(latency, tried, drop, context)
        return PassReport(bool(edits), edits, form.skipped, figures, unmet)

    def _unmet(
        self, latency: float, tried: tuple[Tried[_Form], ...], drop: float | None, context: PassContext
    ) -> str | None:
        """Return the sentence about a limit that does not hold."""
        if latency > self.share:
            if tried[-1].cost <= self.share:
                return f"the trained model takes {latency:.3g}x of the latency; {self.share:g}x was asked for"
            return f"not reachable: the fastest model found takes {latency:.3g}x of the latency"
        if drop is not None and context.max_drop is not None and drop > context.max_drop:
            return (
                f"not reachable: at {latency:.3g}x of the latency the model loses {drop:.2f} points, "
                f"and {context.max_drop:g} are allowed"
            )
        return None


def _by_layer(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Return one edit for each layer, which says all that was done to it."""
    said: dict[str, list[str]] = {}
    for edit in edits:
        said.setdefault(edit.layer, []).append(edit.what)
    return tuple(Edit(layer, "; then ".join(what)) for layer, what in said.items())


@dataclass(frozen=True)
class _Form:
    """One model that was built, and what was done to it.

    Attributes:
        model: with integers.
        narrowed: the same before integers; None where no channel went.
        removal, integers: figures of the two passes.
    """

    model: ModelView
    narrowed: ModelView | None = None
    edits: tuple[Edit, ...] = ()
    skipped: tuple[Skip, ...] = ()
    removal: Mapping[str, Any] = field(default_factory=dict)
    integers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Work:
    """Builds forms of a model and times them."""

    settings: MeetLatency
    model: ModelView
    context: PassContext
    original: bytes
    feeds: Feeds

    def build(self, share: float) -> tuple[float, _Form]:
        """Return the latency of the model with this share of the multiply-accumulates, and the model."""
        made = self.model.fork()
        if share == 1.0:
            return self._with_integers(_Form(made))
        settings = self.settings
        removal = RemoveChannels(
            keep=share, samples=settings.samples, include=settings.include, exclude=settings.exclude
        )
        try:
            report = removal.run(made, self.context)
        except NothingToDo as reason:
            left = Skip("model", f"no channel is removed: {reason}")
            return self._with_integers(_Form(made, skipped=(left,)))
        narrowed = _Form(made, made.fork(), report.edits, report.skipped, report.figures)
        return self._with_integers(narrowed)

    def train(self, form: _Form) -> tuple[float, _Form]:
        """Return the latency of the narrowed model after training, and the model."""
        settings = self.settings
        made = self.model.fork() if form.narrowed is None else form.narrowed.fork()
        tuning = FineTune(
            epochs=settings.epochs, learning_rate=settings.learning_rate, end_rate=settings.end_rate
        )
        report = tuning.run(made, self.context)
        removed = tuple(edit for edit in form.edits if edit.layer in form.removal.get("groups", {}))
        return self._with_integers(
            _Form(made, made.fork(), (*removed, *report.edits), form.skipped, form.removal)
        )

    def _with_integers(self, form: _Form) -> tuple[float, _Form]:
        """Compute with integers what is faster so, and time the result."""
        settings = self.settings
        integers = QuantizeActivations(against="before", include=settings.include, exclude=settings.exclude)
        made = form.model.fork()
        report = integers.run(made, self.context)
        found = replace(
            form,
            model=made,
            edits=(*form.edits, *report.edits),
            skipped=(*form.skipped, *report.skipped),
            integers=report.figures,
        )
        (latency,) = ratios_of(self.original, [made.to_bytes(maps=False)], self.feeds, _THREADS)
        return latency, found
