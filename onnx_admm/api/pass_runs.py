"""Runs the passes of a compression: by ADMM, by reconstruction, or in the better of two ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from onnx_admm.api.preparing import Plan
from onnx_admm.api.requests import Request
from onnx_admm.contracts import PassContext
from onnx_admm.errors import NoGradient, PassRefused, TrainingError
from onnx_admm.pipeline import PipelineResult, StepReport
from onnx_admm.report import StepFacts


def run_passes(
    job: Request, plan: Plan, run: Callable[[Plan], tuple[Plan, PipelineResult]]
) -> tuple[Plan, PipelineResult]:
    """Run the passes of a plan; take another way where fine-tuning fails or scores lower.

    Another way replaces fine-tuning only where training is a default, stated neither by ``fine_tune`` nor
    by a recipe: if the training runtime cannot train this model, or if the reconstructed model scores higher
    on the validation samples. A note reports it. A budget is met by fine-tuning alone: models of two sizes
    are not comparable.

    Args:
        job: the request.
        plan: the plan to run.
        run: runs the passes of a plan; returns the plan with its notes, and the result.

    Returns:
        What ``run`` returned for the plan that was run.

    Raises:
        NoGradient: training was requested, and the model cannot be trained.
    """
    is_default = job.recipe is None and job.fine_tune is None and plan.train is not None
    try:
        tuned = run(plan)
    except NoGradient as error:
        if not is_default:
            raise
        why = error.what if error.where is None else f"{error.where}: {error.what}"
        note = f"Not fine-tuned: {why}. The layers were rebuilt from the samples instead."
        return run(_without_training(job, plan, note))
    asks = job.prune is not None or job.bits is not None
    if not is_default or not asks or job.budget:
        return tuned
    return _better(job, plan, tuned, run)


def _better(
    job: Request,
    plan: Plan,
    tuned: tuple[Plan, PipelineResult],
    run: Callable[[Plan], tuple[Plan, PipelineResult]],
) -> tuple[Plan, PipelineResult]:
    """Return the fine-tuned result, or another where its validation score is higher.

    The other is pruned by reconstruction and then trained, where weights are pruned; where they are only
    quantised, reconstruction does that alone.
    """
    from onnx_admm.training.phases import validation_score

    threads = job.threads or plan.recipe.training.threads
    settings = replace(plan.recipe.training, threads=threads)
    score = validation_score(PassContext(reference=plan.model, validation=plan.validation, settings=settings))
    if score is None:
        return tuned
    try:
        other = run(_without_training(job, plan) if job.prune is None else _rebuilt_first(job, plan))
    except (PassRefused, TrainingError) as error:
        note = f"The other way, to rebuild the layers from the samples, failed: {error}"
        return replace(tuned[0], notes=(*tuned[0].notes, note)), tuned[1]
    got, least = score(other[1].model).value, score(tuned[1].model).value
    if least >= got:
        return tuned
    return replace(other[0], notes=(*other[0].notes, _better_note(job, got, least))), other[1]


def _better_note(job: Request, got: float, least: float) -> str:
    """Return the note that another way than ADMM over the whole model scored higher."""
    scores = f"{least:.4g} against {got:.4g} on the validation samples"
    if job.prune is None:
        return (
            f"Fine-tuning did worse than rebuilding the layers from the samples: {scores}. "
            "The rebuilt model is written; more epochs or samples may help."
        )
    trained = "" if job.epochs == 0 else ", and then trained"
    return (
        f"The layers were pruned one after another from the samples{trained}: "
        f"ADMM over the whole model did worse, {scores}."
    )


def _rebuilt_first(job: Request, plan: Plan) -> Plan:
    samples = None if plan.train is None else len(plan.train)
    return replace(plan, recipe=job.complete_recipe(samples, rebuild_first=True))


def _without_training(job: Request, plan: Plan, *notes: str) -> Plan:
    samples = None if plan.train is None else len(plan.train)
    recipe = replace(job, fine_tune=False).complete_recipe(samples)
    return replace(plan, recipe=recipe, notes=(*plan.notes, *notes))


def step_facts(step: StepReport) -> StepFacts:
    """Return the report of a pass as facts."""
    figures: Mapping[str, Any] = dict(step.report.figures)
    return StepFacts(
        name=step.name,
        changed=step.report.changed,
        seconds=step.seconds,
        edits={edit.layer: edit.what for edit in step.report.edits},
        skipped={skip.layer: skip.why for skip in step.report.skipped},
        figures=figures,
    )
