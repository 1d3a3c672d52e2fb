"""Passes: their interface, their context and their report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from onnx_admm.contracts.costs import CostModel
from onnx_admm.contracts.data import Dataset
from onnx_admm.contracts.layers import LayerSetting
from onnx_admm.contracts.lint import RuntimeTarget
from onnx_admm.contracts.progress import Progress, SilentProgress
from onnx_admm.contracts.training import Trainer, TrainingSettings
from onnx_admm.model import ModelView

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Edit:
    """What a pass changed in one layer.

    Example:
        >>> from onnx_admm.contracts import Edit
        >>> Edit("conv1.weight", "12 weights set to zero").layer
        'conv1.weight'
    """

    layer: str
    what: str


@dataclass(frozen=True, slots=True)
class Skip:
    """The reason why a pass left one layer unchanged.

    Example:
        >>> from onnx_admm.contracts import Skip
        >>> Skip("conv1.weight", "it has 9 weights").why
        'it has 9 weights'
    """

    layer: str
    why: str


@dataclass(frozen=True, slots=True)
class PassReport:
    """Result of a pass. ``changed`` is true to fact; ``figures`` can be written as JSON.

    ``unmet`` is the sentence for a budget that the pass could not meet: the model then holds the best result
    found, and the run ends as over budget.

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
    """All that a pass may use in addition to the model.

    Attributes:
        reference: the user's original model: target of a reconstruction, and what results are compared with.
        teacher: the model whose outputs training learns; None: the reference.
        train: samples to tune on.
        validation: samples for decisions; disjoint from ``train``.
        trainer: opens fine-tuning sessions; None when fine-tuning is off.
        settings: settings of fine-tuning.
        seed: seeds every random choice.
        progress: receives the progress of long work.
        max_drop: accuracy that the result may lose against ``reference``, in percentage points.
        memory_bytes: memory that statistics of layers computed together may take, in bytes.
        executor: runs work on independent layers; None: one after another.
        cost_model: prices the options that passes choose from; None where no target was named.
        bindings: extents of open axes for costs, by symbol (``N``) or place (``x[1]``).
        layers: form that the recipe asks for single layers, by the names of their weights in the model.

    Example:
        >>> from onnx_admm.contracts import PassContext
        >>> from onnx_admm.testing import model_family
        >>> context = PassContext(reference=model_family()["conv_net"], seed=3)
        >>> list(context.map(str.upper, ["a", "b"]))
        ['A', 'B']
    """

    reference: ModelView
    teacher: ModelView | None = None
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
    layers: Mapping[str, LayerSetting] = field(default_factory=dict)

    @property
    def processor(self) -> RuntimeTarget | None:
        """The target's processor; None where the cost model names none, so that it is this machine's."""
        found: RuntimeTarget | None = getattr(self.cost_model, "target", None)
        return found

    @property
    def is_timed_here(self) -> bool:
        """Whether latencies of this machine are those of the target; else they only predict them."""
        return self.processor is None or bool(getattr(self.cost_model, "is_this_machine", False))

    @property
    def taught_by(self) -> ModelView:
        """The model whose outputs training learns."""
        return self.reference if self.teacher is None else self.teacher

    def map(self, work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """Yield ``work`` of each item, in order, on the executor where there is one."""
        return map(work, items) if self.executor is None else self.executor.map(work, items)


@runtime_checkable
class Pass(Protocol):
    """Interface of one step of a pipeline: a frozen dataclass whose fields are its recipe keys.

    ``idempotent``: a second run changes nothing. ``exact``: outputs stay equal up to rounding; the pipeline
    checks this by running the model before and after. It is a property where it depends on the settings.

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
        """Whether outputs stay equal up to rounding; a class attribute is enough."""

    def requires(self, model: ModelView, context: PassContext) -> None:
        """Refuse a model or context that the pass cannot work with, before anything is changed.

        Raises:
            PassRefused: the model is not one for this pass, or the context lacks something.
        """

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Change ``model`` in place; the pipeline passes a fork."""
