"""Terms of the loss: labels, the original's classes, or the original's outputs."""

from __future__ import annotations

from dataclasses import replace

from onnx_admm.contracts import IGNORED, TrainingSettings
from onnx_admm.errors import RecipeError, TrainingError
from onnx_admm.model.rewrite.training_graph import LossSpec
from onnx_admm.training.logits import Logits

_WITH_LABELS = ("blend", "cross_entropy")


def loss_spec(settings: TrainingSettings, logits: Logits, *, has_labels: bool) -> LossSpec:
    """Return the factors of the loss terms for ``settings.loss``, this data and model.

    ``auto`` blends cross-entropy with distillation where there are labels for the model's predictions.
    Without labels it distils: by divergence along the class axis where the model ends in a classifier's head,
    by squared error where it does not.

    Args:
        settings: the loss and its factors.
        logits: properties of the model's output.
        has_labels: whether the data has labels.

    Raises:
        TrainingError: a loss that needs labels or classes, and there are none.
        RecipeError: an unknown loss.
    """
    name, share = settings.loss, settings.distillation_weight
    if name == "auto":
        name = _chosen(logits)
    if name in _WITH_LABELS and not has_labels:
        hint = "Add `labels` to the data, or use the loss `distillation`."
        raise TrainingError(f"loss {name!r} needs labels, and the data has none", hint=hint)
    if name in (*_WITH_LABELS, "distillation") and logits.classes < 2:
        got, hint = f"an output of shape {list(logits.shape)}", "Use the loss `mse`."
        raise TrainingError(f"loss {name!r} needs an output with an axis of classes", got=got, hint=hint)
    if name in _WITH_LABELS and not logits.fits_labels:
        got, hint = f"an output of shape {list(logits.shape)}", "Use the loss `mse` or `distillation`."
        raise TrainingError(f"loss {name!r} needs labels for what the model predicts", got=got, hint=hint)
    spec = LossSpec(class_axis=logits.class_axis, rank=len(logits.shape), ignored_label=IGNORED)
    match name:
        case "blend":
            spec = replace(spec, label_weight=1.0 - share, divergence_weight=share)
            return replace(spec, temperature=settings.temperature)
        case "cross_entropy":
            return replace(spec, label_weight=1.0)
        case "distillation":
            return replace(spec, divergence_weight=1.0, temperature=settings.temperature)
        case "mse":
            return replace(spec, squared_weight=1.0)
        case _:
            known = "auto, blend, cross_entropy, distillation, mse"
            raise RecipeError("unknown loss", got=name, expected=known)


def _chosen(logits: Logits) -> str:
    if logits.classes < 2:
        return "mse"
    if logits.fits_labels:
        return "blend"
    return "distillation" if logits.is_classifier else "mse"
