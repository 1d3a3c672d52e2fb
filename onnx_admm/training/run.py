"""What sessions of every trainer share: the written-back model, the progress and the loss of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_admm.contracts import Array, ModelView
from onnx_admm.errors import TrainingError


class EpochRun:
    """Base of training sessions over one model; see ``contracts.TrainingRun``.

    Args:
        model: the model that is trained; it is not changed.
    """

    def __init__(self, model: ModelView) -> None:
        self._model = model
        self._told: Callable[[float], None] = lambda _: None

    def tensors(self) -> Mapping[str, Array]:
        """See ``contracts.TrainingRun.tensors``."""
        raise NotImplementedError

    def export(self) -> ModelView:
        """See ``contracts.TrainingRun.export``."""
        model = self._model.fork()
        model.write_back(self.tensors())
        return model

    def watch(self, told: Callable[[float], None]) -> None:
        """See ``contracts.WatchedTraining.watch``."""
        self._told = told


def mean_loss(losses: Sequence[float]) -> float:
    """Return the mean loss of an epoch.

    Raises:
        TrainingError: it is not finite.
    """
    mean = float(np.mean(losses))
    if not math.isfinite(mean):
        raise TrainingError(
            "the loss is not finite", got=mean, hint="Lower the learning rate or rho, or check the data."
        )
    return mean
