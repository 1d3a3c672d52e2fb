"""The doors: what a pass, cost model, trainer and dataset promise, and the frozen data between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from onnx_admm.model import LayerProfile, ModelView, PortSpec, WeightSite

Array = npt.NDArray[Any]
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Feeds = dict[str, Array]
Blocks = dict[str, npt.NDArray[np.floating[Any]]]
"""Weights by site name."""


# -- data ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples: one array per graph input, first axis the sample, and their labels if known."""

    feeds: Feeds
    labels: Array | None = None  # int64, shape (n,)

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))


@runtime_checkable
class Dataset(Protocol):
    """Samples for a model, streamed; never all in memory unless they are few."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Graph inputs the data feeds."""

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""

    def __len__(self) -> int:
        """Number of samples."""

    def batches(self, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """All samples once, ``size`` at a time (the last may be short); shuffled when a seed is given."""

    def select(self, indices: Array) -> Dataset:
        """The samples at ``indices``, in that order."""


# -- progress --------------------------------------------------------------------------------


class Task(Protocol):
    """One bar."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by ``steps``; ``note`` is shown beside the bar."""


class Progress(Protocol):
    """Where long work tells how far it is."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Open a bar of ``total`` steps."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        return None


class SilentProgress:
    """Says nothing."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """A bar nobody sees."""
        return nullcontext(_SilentTask())


# -- training --------------------------------------------------------------------------------


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
        threads: intra-op threads; 0 lets the runtime choose.
    """

    loss: str = "auto"
    distillation_weight: float = 0.5
    temperature: float = 2.0
    batch_size: int = 64
    epoch_samples: int | None = None
    weight_decay: float = 0.0
    augment: tuple[str, ...] = ()
    threads: int = 0


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


# -- passes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Edit:
    """What a pass did to one layer."""

    layer: str
    what: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a pass left one layer alone."""

    layer: str
    why: str


@dataclass(frozen=True, slots=True)
class PassReport:
    """What a pass did. ``changed`` is true to fact; ``figures`` is JSON-ready."""

    changed: bool
    edits: tuple[Edit, ...] = ()
    skipped: tuple[Skip, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """Everything a pass may use beside the model.

    Attributes:
        reference: the user's original: teacher of a distillation, target of a reconstruction.
        train: samples to tune on.
        validation: samples to choose by; disjoint from ``train``.
        trainer: opens fine-tuning sessions; None when fine-tuning is off.
        settings: how fine-tuning runs.
        seed: seeds every random choice.
        progress: where long work tells how far it is.
        max_drop: accuracy the result may lose against ``reference``, in percentage points.
        memory_bytes: what statistics of layers looked at together may take.
        executor: where layers that do not depend on one another are worked on; None: one after another.
    """

    reference: ModelView
    train: Dataset | None = None
    validation: Dataset | None = None
    trainer: Trainer | None = None
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = 0
    progress: Progress = field(default_factory=SilentProgress)
    max_drop: float | None = None
    memory_bytes: int = 1 << 30
    executor: Executor | None = None

    def map(self, work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """``work`` of each item, in order, on the executor where there is one."""
        return map(work, items) if self.executor is None else self.executor.map(work, items)


@runtime_checkable
class Pass(Protocol):
    """One step of a pipeline: a frozen dataclass whose fields are its recipe keys.

    ``idempotent``: a second run changes nothing. ``exact``: outputs stay equal up to rounding.
    """

    name: ClassVar[str]
    idempotent: ClassVar[bool]
    exact: ClassVar[bool]

    def requires(self, model: ModelView, context: PassContext) -> None:
        """Refuse early.

        Raises:
            PassRefused: the model is not one for this pass, or the context lacks something.
        """

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Change ``model`` in place; the pipeline hands over a fork."""


# -- cost models -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a layer is stored: density (nonzeros / parameters), bits of a weight, structure."""

    density: float = 1.0
    bits: int = 32
    structure: str = "unstructured"


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one node; None where the model does not say."""

    bytes: float | None = None
    macs: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None


@runtime_checkable
class CostModel(Protocol):
    """Prices a layer under a treatment; the total is the sum of the rows."""

    name: ClassVar[str]
    assumes: ClassVar[str]

    def estimate(self, layer: LayerProfile, treatment: Treatment) -> Cost:
        """The layer's cost, treated so."""

    def break_even(self, layer: LayerProfile, bits: int) -> float:
        """Least pruning ratio at which the treated layer costs no more than the dense one; inf if never."""


__all__ = [
    "Array",
    "Batch",
    "Blocks",
    "Cost",
    "CostModel",
    "Dataset",
    "Edit",
    "Feeds",
    "LayerProfile",
    "ModelView",
    "Pass",
    "PassContext",
    "PassReport",
    "PortSpec",
    "Progress",
    "SilentProgress",
    "Skip",
    "Task",
    "Trainer",
    "TrainingRun",
    "TrainingSettings",
    "Treatment",
    "WeightSite",
]
