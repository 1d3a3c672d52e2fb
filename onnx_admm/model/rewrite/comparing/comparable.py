"""The form in which a model's outputs are compared with another's."""

from __future__ import annotations

from onnx_admm.model.rewrite.comparing.fixed_choices import with_fixed_choices
from onnx_admm.model.rewrite.expose_logits import with_scores
from onnx_admm.model.view import ModelView


def comparable(view: ModelView, *others: ModelView) -> ModelView:
    """Return a fork that has what is judged as outputs, and chooses the same rows in every run.

    Args:
        view: the model.
        others: models that it is compared with; where they do not choose as it does, it chooses itself.
    """
    return with_scores(with_fixed_choices(view, *others))
