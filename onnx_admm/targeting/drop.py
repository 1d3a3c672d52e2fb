"""Accuracy that a model loses against the original on the validation samples."""

from __future__ import annotations

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.errors import PassRefused
from onnx_admm.model.rewrite.expose_logits import output_roles
from onnx_admm.runtime.evaluation import evaluate


def accuracy_drop(model: ModelView, context: PassContext) -> float | None:
    """Return the accuracy lost on validation samples, in points; without labels, changed predictions.

    Returns None if no limit or no samples are given.

    Raises:
        PassRefused: neither labels nor predictions show a drop.
    """
    if context.max_drop is None or context.validation is None:
        return None
    threads, data = context.settings.threads, context.validation
    reference = context.reference
    roles = output_roles(reference)
    after = evaluate(model, data, reference=reference, roles=roles, threads=threads)
    if after.accuracy is not None:
        before = evaluate(reference, data, roles=roles, threads=threads)
        return 100.0 * ((before.accuracy or 0.0) - after.accuracy)
    if after.agreement is None:
        raise PassRefused(
            "the data cannot show a drop",
            where="--max-drop",
            expected="a classifier's outputs, or data with labels",
            hint="Give labels, or leave it out.",
        )
    return 100.0 * (1.0 - after.agreement)
