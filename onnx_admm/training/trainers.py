"""Trainers by name. The runtime is imported when one is made, and no earlier."""

from __future__ import annotations

from onnx_admm.contracts import Trainer
from onnx_admm.contracts.training import TRAINERS
from onnx_admm.errors import RecipeError


def make_trainer(name: str = "auto") -> Trainer:
    """Return the trainer of a name.

    Args:
        name: ``graph`` (any ONNX Runtime), ``onnxruntime-training``, or ``auto``: the former.

    Raises:
        RecipeError: an unknown name.
    """
    if name not in TRAINERS:
        raise RecipeError("unknown trainer", got=name, expected=", ".join(TRAINERS))
    if name == "onnxruntime-training":
        from onnx_admm.training.session import OrtTrainer

        return OrtTrainer()
    from onnx_admm.training.graph.trainer import GraphTrainer

    return GraphTrainer()
