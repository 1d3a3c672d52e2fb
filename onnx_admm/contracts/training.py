"""What fine-tuning promises: sessions over one model, and how they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from onnx_admm.contracts.data import Array, Blocks, Dataset
from onnx_admm.errors import RecipeError
from onnx_admm.model import ModelView, WeightSite
from onnx_admm.settings.ranges import NonNegative, Positive, Rounds, Samples, Share

TRAINERS = ("auto", "graph", "onnxruntime-training")
"""Names of trainers; see ``training.trainers``."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How fine-tuning runs.

    Attributes:
        loss: ``auto`` (cross-entropy and distillation with labels, distillation without),
            ``cross_entropy``, ``distillation`` or ``mse`` (against the original's outputs).
        distillation_weight: share of the distillation term where labels are used too, 0 to 1.
        temperature: softmax temperature of the distillation term (Hinton et al., arXiv 1503.02531).
        batch_size: samples per step.
        epoch_samples: samples an epoch draws, another random part of the data each time; None: all.
        weight_decay: AdamW's decoupled weight decay.
        augment: names of augmentations, such as ``shift:2``, ``crop:4``, ``flip``.
        average_epochs: a retraining keeps the mean of the weights after so many epochs, the last ones
            (Izmailov et al., arXiv 1803.05407); 1: the weights themselves.
        threads: intra-op threads; 0 lets the runtime choose.
        trainer: ``graph`` (a step is one graph of ordinary operators, for any ONNX Runtime),
            ``onnxruntime-training``, or ``auto``: the former.

    Raises:
        RecipeError: a setting that no training can run with.
    """

    loss: str = "auto"
    distillation_weight: Share = 0.5
    temperature: Positive = 2.0
    batch_size: Samples = 64
    epoch_samples: Samples | None = None
    weight_decay: NonNegative = 0.0
    augment: tuple[str, ...] = ()
    average_epochs: Rounds = 1
    threads: int = 0
    trainer: str = "auto"

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "epoch_samples": 1, "average_epochs": 1, "weight_decay": 0, "threads": 0}
        for key, bound in least.items():
            if (got := getattr(self, key)) is not None and not got >= bound:
                raise RecipeError("too small", where=key, got=got, expected=f"{bound} or more")
        if self.trainer not in TRAINERS:
            expected = ", ".join(TRAINERS)
            raise RecipeError("unknown trainer", where="trainer", got=self.trainer, expected=expected)
        if not 0 <= (weight := self.distillation_weight) <= 1:
            raise RecipeError("impossible share", where="distillation_weight", got=weight, expected="0 to 1")
        if not self.temperature > 0:
            raise RecipeError(
                "impossible temperature", where="temperature", got=self.temperature, expected="over 0"
            )


class TrainingRun(Protocol):
    """One open training session over one model; a context manager."""

    def __enter__(self) -> TrainingRun: ...

    def __exit__(self, *exc: object) -> None: ...

    def weights(self) -> Blocks:
        """Effective weights of the trained sites: ``W * free + fixed``."""

    def load(self, weights: Blocks) -> None:
        """Set the sites' weights; the optimizer's state stays."""

    def pull(self, targets: Blocks, rho: Mapping[str, float]) -> None:
        """Add ``sum rho/2 ||W - target||^2`` to the loss; rho 0 switches a site's term off."""

    def freeze(self, free: Blocks, fixed: Blocks) -> None:
        """Train ``W * free + fixed``: where ``free`` is 0 the weight stays at ``fixed``."""

    def epoch(self, start_rate: float, end_rate: float, *, seed: int) -> float:
        """One pass over the data, learning rate moving linearly; the mean loss.

        Raises:
            TrainingError: the loss is not finite.
        """

    def tensors(self) -> Mapping[str, Array]:
        """Every trained tensor, weights (effective) and biases, by its name in the model."""

    def export(self) -> ModelView:
        """A fork of the model with ``tensors()`` written back."""

    def snapshot(self) -> Mapping[str, Array]:
        """Every trained tensor by name (raw, before freeze), to go back to."""

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """Go back to a snapshot."""


class Trainer(Protocol):
    """Opens training sessions."""

    def open(
        self,
        model: ModelView,
        sites: Sequence[WeightSite],
        data: Dataset,
        settings: TrainingSettings,
        reference: ModelView,
    ) -> TrainingRun:
        """Prepare gradients of ``model``'s weights and biases; ``reference`` is the teacher.

        Raises:
            TrainingError: an operator has no gradient; names it and its node.
        """
