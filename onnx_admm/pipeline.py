"""Ordered passes, each a transaction: run on a fork, checked, then kept whole or dropped whole."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from onnx_admm.contracts import Dataset, ModelView, Pass, PassContext, PassReport, Skip
from onnx_admm.errors import STOPS, NothingToDo, OnnxAdmmError, WorkError, located
from onnx_admm.measurement.exactness import ExactnessCheck, NotComparable
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.rewrite.weight_storage import check_model, settle
from onnx_admm.printable import printable
from onnx_admm.settings.ranges import check_ranges

_logger = logging.getLogger(__name__)

PROVENANCE = "onnx_admm.passes"
"""Key in the model's ``metadata_props``: names of the passes that changed it, in order, comma between."""

MODEL = "model"
"""The layer that a pass names where it says something of the model as a whole."""

UNDONE = "undone"
"""Figure of a pass that says ``exact`` and is not: what it changed. The model before it was kept."""

VALIDATION_SHARE = 0.1
"""Part of the training samples set aside to choose by where no validation set is given."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One pass of a run: its name, what it said, and its wall-clock time."""

    name: str
    report: PassReport
    seconds: float


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The model after all passes, and what each of them did."""

    model: ModelView
    reports: tuple[StepReport, ...]

    @property
    def changed(self) -> bool:
        """Whether any pass changed the model."""
        return any(step.report.changed for step in self.reports)


class Journal(Protocol):
    """Where a run notes what each pass made, so that another need not run it again."""

    def recall(self, position: int) -> tuple[ModelView, StepReport] | None:
        """The model after the pass at ``position`` and what it said; None where it has to be run."""

    def keep(self, position: int, model: ModelView, step: StepReport) -> None:
        """Note what the pass at ``position`` made."""


@dataclass(frozen=True)
class Pipeline:
    """Passes in order.

    ``p2(load(save(p1(m)))) == Pipeline([p1, p2])(m)``: state lives in the model, so a run can be cut at any
    file, given the same reference.

    Args:
        passes: what to run.
        provenance: write the names of the passes that changed the model into its metadata.
    """

    passes: Sequence[Pass]
    provenance: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes", tuple(self.passes))

    def run(
        self,
        model: ModelView | str | os.PathLike[str],
        data: PassContext | Dataset | str | os.PathLike[str] | None = None,
        journal: Journal | None = None,
    ) -> PipelineResult:
        """Run every pass; the given model is left as it was.

        Args:
            model: a model, or the path of one.
            data: training samples (a dataset or a path; a tenth is set aside to choose by) or a context
                that says everything a pass may use.
            journal: where results of passes are kept and found again.

        Raises:
            PassRefused: a pass will not touch the model; names it and those before it. A pass that finds
                nothing to do (NothingToDo) is noted, and the next one runs.
            WorkError: a pass failed, or broke its promise.
        """
        view = model if isinstance(model, ModelView) else ModelView.load(model)
        context = data if isinstance(data, PassContext) else open_context(view, data)
        steps: list[StepReport] = []
        exactness = ExactnessCheck(context)
        for position, step in enumerate(self.passes):
            check_ranges(step, self._place(position))
        for position, step in enumerate(self.passes):
            place = self._place(position)
            known = None if journal is None else journal.recall(position)
            if known is not None:
                view, report = known
                steps.append(report)
                continue
            try:
                with located(place):
                    view, report = self._transaction(view, step, context, exactness)
            except (OnnxAdmmError, *STOPS):
                raise
            except BaseException as error:
                fault = f"{type(error).__name__}: {error}"
                raise WorkError("the pass failed unexpectedly", where=place, got=fault) from error
            _log(place, report)
            if journal is not None:
                journal.keep(position, view, report)
            steps.append(report)
        return PipelineResult(view, tuple(steps))

    def _transaction(
        self, model: ModelView, step: Pass, context: PassContext, exactness: ExactnessCheck
    ) -> tuple[ModelView, StepReport]:
        started = time.perf_counter()
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
            raise WorkError("the pass is wrong about what it did", got=claim)
        if altered:
            _check_result(model, fork)
            settle(fork)
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


def open_context(
    model: ModelView,
    data: Dataset | str | os.PathLike[str] | None,
    *,
    validation: Dataset | None = None,
    seed: int = 0,
) -> PassContext:
    """The context of a plain run: ``model`` is the reference; with data there is a trainer.

    Args:
        data: training samples, or their path; None leaves fine-tuning off.
        validation: samples to choose by; None sets a tenth of ``data`` aside.
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
    """Log what a pass did: a line at INFO, one for each layer at DEBUG."""
    said = step.report
    outcome = "changed the model" if said.changed else "changed nothing"
    counts = f"{len(said.edits)} layers edited, {len(said.skipped)} left"
    _logger.info("%s: %s, %s, %.2f s", place, outcome, counts, step.seconds)
    if _logger.isEnabledFor(logging.DEBUG):
        for edit in said.edits:
            _logger.debug("%s: %s: %s", step.name, printable(edit.layer), printable(edit.what))
        for skip in said.skipped:
            _logger.debug("%s: %s: left: %s", step.name, printable(skip.layer), printable(skip.why))


def _compared(
    step: Pass, report: PassReport, exactness: ExactnessCheck, before: ModelView, after: ModelView
) -> PassReport:
    """The report of a pass that says ``exact``: it is undone where the outputs differ."""
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
    """A changed model must be valid and keep the user's contract."""
    if after.signature() != before.signature():
        raise WorkError(
            "the pass changed the model's inputs or outputs",
            got=after.signature(),
            expected=before.signature(),
        )
    check_model(after, "after the pass")
