"""Conditions that a recipe sets on a model, which forks keep: fixed layers, the oldest runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from onnx_admm.model.runtimes import OldestRuntime


@dataclass(frozen=True, slots=True)
class FixedByRecipe:
    """Why no pass may change the weights of a layer, and what may be done with them all the same.

    Attributes:
        why: the reason, for reports.
        may_be_encoded: whether the same values may be stored in another form.
        may_be_integer: whether the layer may be computed with integers.
    """

    why: str
    may_be_encoded: bool = False
    may_be_integer: bool = False


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions on one model.

    Attributes:
        fixed: layers whose weights stay, by site name.
        runtime: oldest ONNX Runtime that must load the model; None: any that loads its forms will do.
    """

    fixed: Mapping[str, FixedByRecipe] = field(default_factory=lambda: MappingProxyType({}))
    runtime: OldestRuntime | None = None

    def why_not(self, form: str) -> str | None:
        """Return why the oldest runtime does not load a form of `runtimes.FORMS`; None where it does."""
        return None if self.runtime is None else self.runtime.why_not(form)
