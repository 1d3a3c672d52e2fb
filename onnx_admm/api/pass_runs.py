"""Running the passes of a compression, by reconstruction where a model that need not be trained cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx_admm.api.preparing import Plan
from onnx_admm.api.requests import Request
from onnx_admm.errors import NoGradient
from onnx_admm.pipeline import PipelineResult


def run_passes(
    job: Request, plan: Plan, run: Callable[[Plan], tuple[Plan, PipelineResult]]
) -> tuple[Plan, PipelineResult]:
    """Run the passes of a plan, and without training if the training runtime cannot train this model.

    Reconstruction takes its place only where training is a default, stated neither by ``fine_tune`` nor by a
    recipe; a note says so.

    Args:
        job: what was asked for.
        plan: what to run.
        run: runs the passes of a plan; returns the plan with its notes, and the result.

    Returns:
        What ``run`` returned for the plan that was run.

    Raises:
        NoGradient: training was asked for, and the model cannot be trained.
    """
    try:
        return run(plan)
    except NoGradient as error:
        if job.recipe is not None or job.fine_tune is not None or plan.train is None:
            raise
        why = error.what if error.where is None else f"{error.where}: {error.what}"
        note = f"Not fine-tuned: {why}. The layers were rebuilt from the samples instead."
        recipe = replace(job, fine_tune=False).settled_recipe(len(plan.train))
        return run(replace(plan, recipe=recipe, notes=(*plan.notes, note)))
