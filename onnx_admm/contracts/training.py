"""Fine-tuning: the interface of training sessions, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from onnx_admm.contracts.data import Array, Blocks, Dataset
from onnx_admm.errors import RecipeError
from onnx_admm.model import ModelView, WeightSite
from onnx_admm.settings.ranges import NonNegative, Positive, Rounds, Samples, Share

TRAINERS = ("auto", "graph", "onnxruntime-training")
"""Names of trainers; see ``training.trainers``."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of fine-tuning.

    Attributes:
        loss: ``auto`` (cross-entropy and distillation with labels, distillation without), ``cross_entropy``,
            ``distillation`` or ``mse`` (against the original's outputs).
        distillation_weight: share of the distillation term where labels are used too, 0 to 1.
        temperature: softmax temperature of the distillation term (Hinton et al., arXiv 1503.02531).
        batch_size: samples in a step.
        epoch_samples: samples in an epoch, a different random part of the data each time; None: all.
        weight_decay: AdamW's decoupled weight decay.
        max_gradient_norm: norm over all gradients of a step above which they are scaled down to it; None:
            they never are.
        augment: names of augmentations, such as ``shift:2``, ``crop:4``, ``flip``.
        average_epochs: number of last epochs whose mean weights a retraining keeps (Izmailov et al., arXiv
            1803.05407); 1: the weights themselves.
        memory_mb: MiB that the values which one run computes may take: a batch is cut into runs whose
            gradients add up. Only the trainer ``graph`` cuts batches.
        threads: intra-op threads of the runtime; 0 lets the runtime choose.
        trainer: ``graph`` (a step is one graph of ordinary operators, for any ONNX Runtime),
            ``onnxruntime-training``, or ``auto``: the former.

    Raises:
        RecipeError: an impossible setting.

    Example:
        >>> from onnx_admm.contracts import TrainingSettings
        >>> TrainingSettings(batch_size=128, augment=("flip",)).loss
        'auto'
        >>> TrainingSettings(temperature=0)
        Traceback (most recent call last):
            ...
        onnx_admm.errors.RecipeError: temperature: impossible temperature; got 0; expected over 0
    """

    loss: str = "auto"
    distillation_weight: Share = 0.5
    temperature: Positive = 2.0
    batch_size: Samples = 64
    epoch_samples: Samples | None = None
    weight_decay: NonNegative = 0.0
    max_gradient_norm: Positive | None = None
    augment: tuple[str, ...] = ()
    average_epochs: Rounds = 1
    memory_mb: Samples = 1024
    threads: int = 0
    trainer: str = "auto"

    def __post_init__(self) -> None:
        least = {
            "batch_size": 1,
            "epoch_samples": 1,
            "average_epochs": 1,
            "memory_mb": 1,
            "weight_decay": 0,
            "threads": 0,
        }
        for key, bound in least.items():
            if (got := getattr(self, key)) is not None and not got >= bound:
                raise RecipeError("too small", where=key, got=got, expected=f"{bound} or more")
        if self.trainer not in TRAINERS:
            expected = ", ".join(TRAINERS)
            raise RecipeError("unknown trainer", where="trainer", got=self.trainer, expected=expected)
        if not 0 <= (weight := self.distillation_weight) <= 1:
            raise RecipeError("impossible share", where="distillation_weight", got=weight, expected="0 to 1")
        for key in ("temperature", "max_gradient_norm"):
            if (got := getattr(self, key)) is not None and not got > 0:
                what = f"impossible {key.replace('_', ' ')}"
                raise RecipeError(what, where=key, got=got, expected="over 0")


class TrainingRun(Protocol):
    """An open training session over one model; a context manager.

    Example:
        >>> import numpy as np
        >>> class TermAlone:
        ...     '''Training on the added term alone; the other members are left out here.'''
        ...     def __init__(self, weights):
        ...         self.values, self.targets, self.rho = dict(weights), {}, {}
        ...     def weights(self):
        ...         return dict(self.values)
        ...     def pull(self, targets, rho):
        ...         self.targets, self.rho = targets, rho
        ...     def epoch(self, start_rate, end_rate, *, seed):
        ...         loss = 0.0
        ...         for name, target in self.targets.items():
        ...             apart = self.values[name] - target
        ...             loss += self.rho[name] / 2 * float((apart**2).sum())
        ...             self.values[name] = self.values[name] - start_rate * self.rho[name] * apart
        ...         return loss
        >>> run = TermAlone({"w": np.array([1.0, 3.0])})
        >>> run.pull({"w": np.zeros(2)}, {"w": 0.5})
        >>> run.epoch(1.0, 1.0, seed=0), run.weights()["w"].tolist()
        (2.5, [0.5, 1.5])
    """

    def __enter__(self) -> TrainingRun: ...

    def __exit__(self, *exc: object) -> None: ...

    def weights(self) -> Blocks:
        """Return the effective weights of the trained sites: ``W * free + fixed``."""

    def load(self, weights: Blocks) -> None:
        """Set the weights of the sites; the optimizer's state stays."""

    def set_proximal_term(self, targets: Blocks, rho: Mapping[str, float]) -> None:
        """Add ``sum rho/2 ||W - target||^2`` to the loss; a rho of 0 removes a site's term."""

    def freeze(self, free: Blocks, fixed: Blocks) -> None:
        """Train ``W * free + fixed``: where ``free`` is 0 the weight stays at ``fixed``."""

    def epoch(self, start_rate: float, end_rate: float, *, seed: int) -> float:
        """Train for one epoch, with a learning rate that changes linearly; return the mean loss.

        Raises:
            TrainingError: the loss is not finite.
        """

    def tensors(self) -> Mapping[str, Array]:
        """Return every trained tensor by its name in the model: effective weights and biases."""

    def export(self) -> ModelView:
        """Return a fork of the model with ``tensors()`` written into it."""

    def snapshot(self) -> Mapping[str, Array]:
        """Return a copy of every trained tensor by name (before ``freeze`` is applied), for `restore`."""

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """Set the trained tensors to a snapshot."""


@runtime_checkable
class WatchedTraining(Protocol):
    """A `TrainingRun` that tells within an epoch how far it is, so that the time of all can be told early.

    Example:
        >>> from onnx_admm.contracts import WatchedTraining
        >>> class TwoBatches:
        ...     '''An epoch of two batches; the other members of a run are left out here.'''
        ...     def watch(self, told):
        ...         self.told = told
        ...     def epoch(self, start_rate, end_rate, *, seed):
        ...         for batch in (1, 2):
        ...             self.told(batch / 2)
        ...         return 0.0
        >>> run = TwoBatches()
        >>> isinstance(run, WatchedTraining)
        True
        >>> run.watch(print)
        >>> _ = run.epoch(1e-3, 1e-3, seed=0)
        0.5
        1.0
    """

    def watch(self, told: Callable[[float], None]) -> None:
        """Call ``told`` after each batch with the share of the epoch that is done."""


class Trainer(Protocol):
    """Opens training sessions.

    Example:
        >>> from onnx_admm.contracts import PassContext, Trainer, TrainingSettings
        >>> from onnx_admm.errors import TrainingError
        >>> from onnx_admm.testing import model_family
        >>> class NothingTrains:
        ...     '''A trainer for tests of passes: every session is refused.'''
        ...     def open(self, model, sites, data, settings, reference):
        ...         raise TrainingError("no gradients", where=", ".join(site.name for site in sites))
        >>> trainer: Trainer = NothingTrains()
        >>> model = model_family()["tied_weights"]
        >>> context = PassContext(reference=model, trainer=trainer)
        >>> context.trainer.open(model, model.sites(), None, context.settings, model)
        Traceback (most recent call last):
            ...
        onnx_admm.errors.TrainingError: w: no gradients
    """

    def open(
        self,
        model: ModelView,
        sites: Sequence[WeightSite],
        data: Dataset,
        settings: TrainingSettings,
        reference: ModelView,
    ) -> TrainingRun:
        """Build gradients of ``model``'s weights and biases; ``reference`` is the teacher.

        Raises:
            TrainingError: an operator has no gradient; the error names it and its node.
        """
