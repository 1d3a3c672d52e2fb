"""What a pass promises, what it may use, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from onnx_admm.contracts.costs import CostModel
from onnx_admm.contracts.data import Dataset
from onnx_admm.contracts.progress import Progress, SilentProgress
from onnx_admm.contracts.training import Trainer, TrainingSettings
from onnx_admm.model import ModelView

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Edit:
    """What a pass did to one layer.

    Example:
        >>> from onnx_admm.contracts import Edit
        >>> Edit("conv1.weight", "12 weights set to zero").layer
        'conv1.weight'
    """

    layer: str
    what: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a pass left one layer alone.

    Example:
        >>> from onnx_admm.contracts import Skip
        >>> Skip("conv1.weight", "it has 9 weights").why
        'it has 9 weights'
    """

    layer: str
    why: str


@dataclass(frozen=True, slots=True)
class PassReport:
    """What a pass did. ``changed`` is true to fact; ``figures`` is JSON-ready.

    ``unmet`` is the sentence of a budget the pass could not meet: the best found is in the model, and the run
    ends as one over budget.

    Example:
        >>> from onnx_admm.contracts import Edit, PassReport
        >>> report = PassReport(changed=True, edits=(Edit("w", "rounded"),), figures={"largest_change": 0.01})
        >>> report.unmet is None
        True
    """

    changed: bool
    edits: tuple[Edit, ...] = ()
    skipped: tuple[Skip, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    unmet: str | None = None


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
        cost_model: prices what passes choose between, on the target; None where no target was named.
        bindings: extents of open axes that costs are for, by symbol (``N``) or place (``x[1]``).

    Example:
        >>> from onnx_admm.contracts import PassContext
        >>> from onnx_admm.testing import model_family
        >>> context = PassContext(reference=model_family()["conv_net"], seed=3)
        >>> list(context.map(str.upper, ["a", "b"]))
        ['A', 'B']
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
    cost_model: CostModel | None = None
    bindings: Mapping[str, int] = field(default_factory=dict)

    def map(self, work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """``work`` of each item, in order, on the executor where there is one."""
        return map(work, items) if self.executor is None else self.executor.map(work, items)


@runtime_checkable
class Pass(Protocol):
    """One step of a pipeline: a frozen dataclass whose fields are its recipe keys.

    ``idempotent``: a second run changes nothing. ``exact``: outputs stay equal up to rounding, which the
    pipeline checks by running the model before and after; a property where it depends on the settings.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> from onnx_admm.contracts import Edit, Pass, PassContext, PassReport
        >>> from onnx_admm.testing import model_family
        >>> @dataclass(frozen=True)
        ... class Negate:
        ...     '''Turns the sign of all weights.'''
        ...     name: ClassVar[str] = "negate"
        ...     idempotent: ClassVar[bool] = False
        ...     exact: ClassVar[bool] = False
        ...     def requires(self, model, context):
        ...         pass
        ...     def run(self, model, context):
        ...         sites = [site for site in model.sites() if site.editable]
        ...         for site in sites:
        ...             model.replace(site, -model.read(site))
        ...         return PassReport(bool(sites), tuple(Edit(site.name, "negated") for site in sites))
        >>> isinstance(Negate(), Pass)
        True
        >>> model = model_family()["tied_weights"]
        >>> Negate().run(model, PassContext(reference=model.fork())).edits
        (Edit(layer='w', what='negated'),)
    """

    name: ClassVar[str]
    idempotent: ClassVar[bool]

    @property
    def exact(self) -> bool:
        """See above; a class attribute will do."""

    def requires(self, model: ModelView, context: PassContext) -> None:
        """Refuse early.

        Raises:
            PassRefused: the model is not one for this pass, or the context lacks something.
        """

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Change ``model`` in place; the pipeline hands over a fork."""
