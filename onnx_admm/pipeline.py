"""Ordered passes, each a transaction: run on a fork, checked, then kept or dropped as a whole."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol

from onnx_admm.contracts import (
    Dataset,
    LayerSetting,
    ModelView,
    PartialProgress,
    Pass,
    PassContext,
    PassReport,
    Skip,
    Task,
)
from onnx_admm.errors import STOPS, NothingToDo, OnnxAdmmError, WorkError, located
from onnx_admm.limits import MUCH_BYTES, collect_garbage
from onnx_admm.measurement.exactness import ExactnessCheck, NotComparable
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.conditions import Conditions
from onnx_admm.model.rewrite.weight_storage import check_model, spill_to_disk, stored_weight_bytes
from onnx_admm.model.runtimes import OldestRuntime, parse_runtime
from onnx_admm.printable import printable
from onnx_admm.selection.layer_settings import SetLayer, find_layers, fixed_by_recipe, present_layers
from onnx_admm.settings.ranges import check_ranges

_logger = logging.getLogger(__name__)

PROVENANCE = "onnx_admm.passes"
"""Key in the model's ``metadata_props``: names of the passes that changed it, in order, comma-separated."""

MODEL = "model"
"""Layer name of a pass's remarks on the model as a whole."""

UNDONE = "undone"
"""Key in the figures of a pass that claims to be ``exact`` and is not; its change was dropped."""

VALIDATION_SHARE = 0.1
"""Part of the training samples set aside for validation where no validation set is given."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One pass of a run: its name, its report, and its wall-clock time in seconds."""

    name: str
    report: PassReport
    seconds: float


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The model after all passes, and the report of each."""

    model: ModelView
    reports: tuple[StepReport, ...]

    @property
    def changed(self) -> bool:
        """Whether any pass changed the model."""
        return any(step.report.changed for step in self.reports)


class Journal(Protocol):
    """Stores the results of passes, so that another run need not repeat them."""

    def recall(self, position: int) -> tuple[ModelView, StepReport] | None:
        """Return the model after the pass at ``position`` and its report; None where it has to be run."""

    def keep(self, position: int, model: ModelView, step: StepReport) -> None:
        """Store the result of the pass at ``position``."""


@dataclass(frozen=True)
class Pipeline:
    """Passes in order.

    ``p2(load(save(p1(m)))) == Pipeline([p1, p2])(m)``: state lives in the model, so a run can be cut at any
    file, given the same reference.

    Args:
        passes: the passes.
        provenance: write the names of the passes that changed the model into its metadata.
        layers: form asked for single layers, by pattern; all passes but ``set_layers`` leave these.
        min_runtime: version of the oldest ONNX Runtime that must load the result; passes write no newer form.
    """

    passes: Sequence[Pass]
    provenance: bool = True
    layers: Mapping[str, LayerSetting] = field(default_factory=dict)
    min_runtime: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes", tuple(self.passes))

    def run(
        self,
        model: ModelView | str | os.PathLike[str],
        data: PassContext | Dataset | str | os.PathLike[str] | None = None,
        journal: Journal | None = None,
    ) -> PipelineResult:
        """Run every pass; the given model is not changed.

        Args:
            model: a model, or the path of one.
            data: training samples (a dataset or a path; a tenth is set aside for validation) or a whole
                context.
            journal: stores results of passes and returns them in a later run.

        Raises:
            RecipeError: a pattern of ``layers`` matches no layer, or two contradict one another.
            PassRefused: a pass refuses the model; names it and those before it. A pass that finds nothing to
                do (NothingToDo) is noted, and the next one runs.
            WorkError: a pass failed, or broke its contract.
        """
        view = model if isinstance(model, ModelView) else ModelView.load(model)
        context = data if isinstance(data, PassContext) else open_context(view, data)
        steps: list[StepReport] = []
        layers = find_layers(self.layers, view.sites()) if self.layers else {}
        runtime = None if self.min_runtime is None else parse_runtime(self.min_runtime, "min_runtime")
        if layers or runtime is not None:  # the caller's models stay without conditions
            reference = _with_conditions(context.reference.fork(), layers, runtime)
            view, context = view.fork(), replace(context, reference=reference)
        exactness = ExactnessCheck(context)
        for position, step in enumerate(self.passes):
            check_ranges(step, self._place(position))
        with ExitStack() as stack:
            bar = _EpochBar(self.passes, context, stack)
            for position, step in enumerate(self.passes):
                place = self._place(position)
                known = None if journal is None else journal.recall(position)
                if known is not None:
                    view, report = known
                    steps.append(report)
                    continue
                given = bar.context(position)
                if layers or runtime is not None:
                    present = present_layers(layers, _with_conditions(view, layers, runtime).sites())
                    given = replace(given, layers={name: each.setting for name, each in present.items()})
                try:
                    with located(place):
                        view, report = self._transaction(view, step, given, exactness)
                except (OnnxAdmmError, *STOPS):
                    raise
                except BaseException as error:
                    fault = f"{type(error).__name__}: {error}"
                    raise WorkError("the pass failed unexpectedly", where=place, got=fault) from error
                _log(place, report)
                bar.finish()
                if journal is not None:
                    journal.keep(position, view, report)
                steps.append(report)
        return PipelineResult(view, tuple(steps))

    def _transaction(
        self, model: ModelView, step: Pass, context: PassContext, exactness: ExactnessCheck
    ) -> tuple[ModelView, StepReport]:
        started = time.perf_counter()
        if stored_weight_bytes(model) >= MUCH_BYTES:
            collect_garbage()
        try:
            step.requires(model, context)
            fork = model.fork()
            report = step.run(fork, context)
        except NothingToDo as reason:
            fork, report = model, PassReport(changed=False, skipped=(Skip(MODEL, str(reason)),))
        altered = not same_model(model, fork)
        if altered != report.changed:
            fact = "another" if altered else "the same"
            claim = f"changed={report.changed} reported for {fact} model"
            raise WorkError("the pass misreports whether it changed the model", got=claim)
        if altered:
            _check_result(model, fork)
            spill_to_disk(fork)
            report = _compared(step, report, exactness, model, fork) if step.exact else report
            altered = report.changed
        if altered and self.provenance:
            earlier = model.metadata.get(PROVENANCE)
            fork.metadata[PROVENANCE] = f"{earlier},{step.name}" if earlier else step.name
        return (fork if altered else model), StepReport(step.name, report, time.perf_counter() - started)

    def _place(self, position: int) -> str:
        names = [step.name for step in self.passes]
        before = ", ".join(names[:position])
        place = f"pass {position + 1} of {len(names)}, {names[position]}"
        return f"{place} (after {before})" if before else place


def _with_conditions(
    model: ModelView, layers: Mapping[str, SetLayer], runtime: OldestRuntime | None
) -> ModelView:
    """Return the model, with the layers fixed that the recipe gives a form, and the oldest runtime."""
    model.conditions = Conditions()  # under which weights show their own names and state
    model.conditions = Conditions(fixed_by_recipe(layers, model.sites()) if layers else {}, runtime)
    return model


class _EpochBar:
    """One bar over the epochs of all passes that train, opened with the first of them that is run.

    It tells the time of all of them from the first batches on. A single pass has a bar of its own already.

    Args:
        passes: of the pipeline.
        context: that they share.
        stack: closes the bar.
    """

    def __init__(self, passes: Sequence[Pass], context: PassContext, stack: ExitStack) -> None:
        trains = context.trainer is not None and context.train is not None
        self._epochs = [_epochs(step) if trains else 0 for step in passes]
        self._context, self._stack = context, stack
        self._whole: Task | None = None
        self._part: PartialProgress | None = None

    def context(self, position: int) -> PassContext:
        """Return the context for a pass that is about to run."""
        rest = self._epochs[position:]
        if self._whole is None and rest[0] and sum(count > 0 for count in rest) > 1:
            whole = self._context.progress.task("epochs of all passes", sum(rest))
            self._whole = self._stack.enter_context(whole)
        if self._whole is None or not rest[0]:
            return self._context
        self._part = PartialProgress(self._context.progress, self._whole, rest[0])
        return replace(self._context, progress=self._part)

    def finish(self) -> None:
        """Note that the pass is done, however many of its epochs it took."""
        if self._part is not None:
            self._part.reach(1.0)
        self._part = None


def _epochs(step: Pass) -> int:
    """Epochs that a pass says it trains; 0 where it does not say."""
    counts = (getattr(step, name, 0) for name in ("epochs", "retrain_epochs"))
    return sum(count for count in counts if isinstance(count, int))


def open_context(
    model: ModelView,
    data: Dataset | str | os.PathLike[str] | None,
    *,
    validation: Dataset | None = None,
    seed: int = 0,
) -> PassContext:
    """Return the context of a plain run: ``model`` is the reference; with data there is a trainer.

    Args:
        model: the original model.
        data: training samples, or their path; None leaves fine-tuning off.
        validation: samples for decisions; None sets a tenth of ``data`` aside.
        seed: seed of every random choice.
    """
    if data is None:
        return PassContext(reference=model, validation=validation, seed=seed)
    from onnx_admm.data import fit_dataset, open_dataset, split_dataset
    from onnx_admm.training.trainers import make_trainer

    train = fit_dataset(data, model) if isinstance(data, Dataset) else open_dataset(data, model)
    if validation is None:
        train, validation = split_dataset(train, VALIDATION_SHARE, seed)
    return PassContext(reference=model, train=train, validation=validation, trainer=make_trainer(), seed=seed)


def _log(place: str, step: StepReport) -> None:
    """Log the report of a pass: a line at INFO, one for each layer at DEBUG."""
    report = step.report
    outcome = "changed the model" if report.changed else "changed nothing"
    counts = f"{len(report.edits)} layers edited, {len(report.skipped)} left"
    _logger.info("%s: %s, %s, %.2f s", place, outcome, counts, step.seconds)
    if _logger.isEnabledFor(logging.DEBUG):
        for edit in report.edits:
            _logger.debug("%s: %s: %s", step.name, printable(edit.layer), printable(edit.what))
        for skip in report.skipped:
            _logger.debug("%s: %s: left: %s", step.name, printable(skip.layer), printable(skip.why))


def _compared(
    step: Pass, report: PassReport, exactness: ExactnessCheck, before: ModelView, after: ModelView
) -> PassReport:
    """Return the report of a pass that claims to be ``exact``; undo it where the outputs differ."""
    try:
        found = exactness.difference(before, after)
    except NotComparable as reason:
        skip = Skip(MODEL, f"not compared with the model before {step.name}: {reason}")
        return replace(report, skipped=(*report.skipped, skip))
    if found is None:
        return report
    why = f"the pass was undone: it changes what the model computes ({found})"
    return PassReport(
        changed=False,
        skipped=(*report.skipped, Skip(found.node or MODEL, why)),
        figures={UNDONE: str(found)},
    )


def _check_result(before: ModelView, after: ModelView) -> None:
    """Check that a changed model is valid and keeps the user's contract."""
    if after.signature() != before.signature():
        raise WorkError(
            "the pass changed the model's inputs or outputs",
            got=after.signature(),
            expected=before.signature(),
        )
    check_model(after, "after the pass")
