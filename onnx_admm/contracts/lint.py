"""Lint rules: their interface, what they are shown, and what they find."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

from onnx_admm.model import ModelView, ValueRef, infer_shapes
from onnx_admm.model.rewrite.for_runtime.match import RewriteContext


class Level(StrEnum):
    """How serious a finding is.

    ``error``: the model computes wrongly somewhere, or will not load. ``slow``: it is slower than it need be.
    ``note``: worth knowing.

    Example:
        >>> from onnx_admm.contracts import Level
        >>> Level.ERROR.reaches(Level.SLOW), Level.NOTE.reaches(Level.SLOW)
        (True, False)
    """

    ERROR = "error"
    SLOW = "slow"
    NOTE = "note"

    def reaches(self, other: Level) -> bool:
        """Return whether it is at least as serious as another level."""
        order = (Level.NOTE, Level.SLOW, Level.ERROR)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Finding:
    """One place of a model where a rule finds something.

    Attributes:
        nodes: names of the nodes, or of the values where it is about none; the first is the place.
        why: what is wrong there, as a sentence without its full stop.
        cure: what to do about it, as a sentence without its full stop.
        slowdown: time of these nodes over their time after the cure; None where it is not known.
        basis: what the slowdown was measured on; empty without one.
        is_mended: whether the rule's ``fix`` mends this place.
        level: level of this finding; None for the rule's.

    Example:
        >>> from onnx_admm.contracts import Finding
        >>> Finding(("conv1",), "nothing reads its result", "remove the node").slowdown is None
        True
    """

    nodes: tuple[str, ...]
    why: str
    cure: str
    slowdown: float | None = None
    basis: str = ""
    is_mended: bool = False
    level: Level | None = None


@dataclass(frozen=True, slots=True)
class RuntimeTarget:
    """A processor as far as rules depend on it.

    Attributes:
        name: its name, such as ``x86-vnni``.
        block: channels of a block in the runtime's layout of float convolutions.
        has_integer_dot: whether it multiplies and adds 8-bit integers in one instruction.
        saturates: whether its products of uint8 and int8 saturate in 16 bits.
        has_fp16: whether the runtime has fp16 kernels for it.

    Example:
        >>> from onnx_admm.contracts import RuntimeTarget
        >>> RuntimeTarget("x86-avx2", block=8, has_integer_dot=False, saturates=True).has_fp16
        False
    """

    name: str
    block: int
    has_integer_dot: bool = True
    saturates: bool = False
    has_fp16: bool = False


@dataclass(frozen=True)
class LintSubject:
    """A model as rules see it.

    Attributes:
        model: the model; rules do not change it.
        target: the processor.
        refusal: why the ONNX checker refuses it; empty where it does not.
        external: bytes of the files that hold its weights, by name; empty where the model file does.

    Example:
        >>> from onnx_admm.contracts import LintSubject, RuntimeTarget
        >>> from onnx_admm.testing import model_family
        >>> subject = LintSubject(model_family()["conv_net"], RuntimeTarget("x86-vnni", block=16))
        >>> sorted(shape for value, shape in subject.shapes.items() if value.name == "scores")
        [(1, 3)]
    """

    model: ModelView
    target: RuntimeTarget
    refusal: str = ""
    external: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> Mapping[ValueRef, tuple[int | None, ...]]:
        """Inferred shapes for one sample; None stands for an unknown extent."""
        return infer_shapes(self.model)

    @cached_property
    def rewrites(self) -> RewriteContext:
        """What rewrites ask about the model, for rules that share their patterns."""
        return RewriteContext(self.model)


@runtime_checkable
class LintRule(Protocol):
    """Interface of a lint rule: a class without settings, registered as ``onnx_admm.lint_rules``.

    Attributes:
        name: its name, in lower case with underscores; part of its document's address.
        level: level of its findings.
        fix: the recipe step that mends findings exactly, such as ``{"name": "fold_batchnorm"}``, or the key
            of a recipe, such as ``{"freeze_defaults": True}``; empty where there is none.

    Example:
        >>> from onnx_admm.contracts import Finding, Level, LintRule
        >>> from onnx_admm.testing import model_family
        >>> class Nameless:
        ...     '''Nodes have no names, so that profiles are hard to read.'''
        ...     name = "nameless"
        ...     level = Level.NOTE
        ...     fix = {}
        ...     def check(self, subject):
        ...         if any(not node.ir_node.name for node in subject.model.nodes()):
        ...             yield Finding((), "nodes have no names", "name them")
        ...     def faulty(self):
        ...         return model_family()["conv_net"]
        ...     def sound(self):
        ...         return model_family()["conv_net"]
        >>> isinstance(Nameless(), LintRule)
        True
    """

    name: ClassVar[str]
    level: ClassVar[Level]
    fix: ClassVar[Mapping[str, Any]]

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """Yield findings in graph order."""

    def faulty(self) -> ModelView | LintSubject:
        """Return a small model in which the rule finds something: its test."""

    def sound(self) -> ModelView | LintSubject:
        """Return the model as it should be, in which the rule finds nothing."""
