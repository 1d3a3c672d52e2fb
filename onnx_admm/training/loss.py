"""Which terms the loss has: labels, the original's classes, or the original's outputs."""

from __future__ import annotations

from onnx_admm.contracts import TrainingSettings
from onnx_admm.errors import RecipeError, TrainingError
from onnx_admm.model.training_form import LossSpec


def loss_spec(settings: TrainingSettings, *, has_labels: bool, classifier: bool) -> LossSpec:
    """Factors of the loss terms that ``settings.loss`` names for this data and model.

    ``auto`` blends cross-entropy with distillation where there are labels; without labels it distils: by
    divergence where the model ends in a classifier's head, by squared error where it does not.

    Raises:
        TrainingError: a loss that needs labels, and there are none; or an unknown loss.
    """
    name, share = settings.loss, settings.distillation_weight
    if name == "auto":
        name = "blend" if has_labels else "distillation" if classifier else "mse"
    if name in ("blend", "cross_entropy") and not has_labels:
        hint = "Add `labels` to the data, or use the loss `distillation`."
        raise TrainingError(f"loss {name!r} needs labels, and the data has none", hint=hint)
    match name:
        case "blend":
            return LossSpec(
                label_weight=1.0 - share, divergence_weight=share, temperature=settings.temperature
            )
        case "cross_entropy":
            return LossSpec(label_weight=1.0)
        case "distillation":
            return LossSpec(divergence_weight=1.0, temperature=settings.temperature)
        case "mse":
            return LossSpec(squared_weight=1.0)
        case _:
            known = "auto, blend, cross_entropy, distillation, mse"
            raise RecipeError("unknown loss", got=name, expected=known)
