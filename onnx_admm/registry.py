"""Plug-ins by name: entry points of installed packages, loaded on first use."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from onnx_admm.contracts import CostModel, Pass
from onnx_admm.errors import OnnxAdmmError, RecipeError, UsageError, located
from onnx_admm.settings import did_you_mean


@dataclass(frozen=True, slots=True)
class PlugIn:
    """One registered class, as ``onnx-admm plugins`` shows it.

    ``problem`` is the sentence to show where the class cannot be loaded, else None.
    """

    kind: str
    name: str
    target: str
    distribution: str
    summary: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """The classes behind one entry-point group; built-in and third-party ones come in by the same door.

    Args:
        group: entry-point group.
        kind: what its members are called in sentences.
        members: attributes a class must have to be one.
    """

    group: str
    kind: str
    members: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        """Registered names, sorted."""
        return tuple(sorted({entry.name for entry in entry_points(group=self.group)}))

    def get(self, name: str) -> Any:
        """The class of that name.

        Raises:
            RecipeError: nobody registers the name, or two packages do.
            UsageError: the plug-in cannot be loaded, or is no such thing.
        """
        entries = [entry for entry in entry_points(group=self.group) if entry.name == name]
        if not entries:
            known = self.names()
            raise RecipeError(
                f"unknown {self.kind} '{name}'",
                hint=did_you_mean(name, known),
                expected=f"one of {', '.join(known)}",
            )
        if len(entries) > 1:
            owners = " and ".join(_distribution(entry) for entry in entries)
            raise RecipeError(
                f"two packages register a {self.kind} '{name}'", got=owners, hint="Uninstall one."
            )
        return self._load(entries[0])

    def plugins(self) -> tuple[PlugIn, ...]:
        """Every registered class; a broken one is listed with its problem."""
        return tuple(
            self._describe(entry)
            for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name)
        )

    def _describe(self, entry: EntryPoint) -> PlugIn:
        try:
            summary, problem = _summary(self._load(entry)), None
        except OnnxAdmmError as error:
            summary, problem = "", str(error)
        return PlugIn(self.kind, entry.name, entry.value, _distribution(entry), summary, problem)

    def _load(self, entry: EntryPoint) -> Any:
        place = f"{self.kind} '{entry.name}' of {_distribution(entry)}"
        try:
            with located(place):
                loaded = entry.load()
        except OnnxAdmmError:
            raise
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            raise UsageError(
                "the plug-in cannot be loaded",
                where=place,
                got=fault,
                hint="Repair or uninstall that package.",
            ) from error
        missing = [member for member in self.members if not hasattr(loaded, member)]
        if not inspect.isclass(loaded) or missing:
            raise UsageError(
                f"the plug-in is no {self.kind}",
                where=place,
                got=f"{entry.value} without {', '.join(missing)}" if missing else entry.value,
                expected=f"a class with {', '.join(self.members)}",
            )
        return loaded


PASSES = Registry("onnx_admm.passes", "pass", ("name", "idempotent", "exact", "requires", "run"))
COST_MODELS = Registry("onnx_admm.cost_models", "cost model", ("name", "assumes", "estimate", "break_even"))


def pass_class(name: str) -> type[Pass]:
    """The pass registered under ``name``; see `Registry.get`."""
    found: type[Pass] = PASSES.get(name)
    return found


def cost_model(name: str) -> CostModel:
    """A cost model of the class registered under ``name``, with its defaults; see `Registry.get`."""
    made: CostModel = COST_MODELS.get(name)()
    return made


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unnamed package"


def _summary(loaded: type) -> str:
    return next(iter((inspect.getdoc(loaded) or "").strip().splitlines()), "")
