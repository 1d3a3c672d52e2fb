"""Plug-ins by name: entry points of installed packages, loaded on first use."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from onnx_admm.contracts import CostModel, LintRule, Pass
from onnx_admm.errors import STOPS, OnnxAdmmError, RecipeError, UsageError, located
from onnx_admm.settings.tables import build, did_you_mean, merge, parse_toml, read_toml, required_keys

FORMER_NAMES = {"choose_treatments": "auto_quantize", "shorten_names": "minify"}
"""Passes with another name in earlier versions, and their present one."""

FORMER_MEMBERS = {"figures": "quantities"}
"""Attributes of plug-ins with another name in earlier versions, and their present one."""


@dataclass(frozen=True, slots=True)
class PlugIn:
    """One registered class, as ``onnx-admm plugins`` shows it.

    ``problem`` is the error where the class cannot be loaded, else None; ``profiles`` are the tags of the
    profiles shipped with it.
    """

    kind: str
    name: str
    target: str
    distribution: str
    summary: str
    problem: str | None = None
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registry:
    """The classes of one entry-point group, built-in and third-party alike.

    Args:
        group: entry-point group.
        kind: name of its members in messages.
        members: attributes that a class must have.
    """

    group: str
    kind: str
    members: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        """Return the registered names, sorted."""
        return tuple(sorted({entry.name for entry in entry_points(group=self.group)}))

    def get(self, name: str) -> Any:
        """Return the class of that name.

        Raises:
            RecipeError: no package registers the name, or two packages do.
            UsageError: the plug-in cannot be loaded, or lacks members.
        """
        entries = [entry for entry in entry_points(group=self.group) if entry.name == name]
        if not entries:
            known = self.names()
            now = FORMER_NAMES.get(name)
            raise RecipeError(
                f"unknown {self.kind} '{name}'",
                hint=did_you_mean(name, known) if now is None else f"It is called '{now}' now.",
                expected=f"one of {', '.join(known)}",
            )
        if len(entries) > 1:
            owners = " and ".join(_distribution(entry) for entry in entries)
            raise RecipeError(
                f"two packages register a {self.kind} '{name}'", got=owners, hint="Uninstall one."
            )
        return self._load(entries[0])

    def plugins(self) -> tuple[PlugIn, ...]:
        """Return every registered class; a broken one is listed with its problem."""
        return tuple(
            self._describe(entry)
            for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name)
        )

    def _describe(self, entry: EntryPoint) -> PlugIn:
        found = PlugIn(self.kind, entry.name, entry.value, _distribution(entry), "")
        try:
            loaded = self._load(entry)
            with _plugin_code(self._place(entry)):
                return replace(found, summary=_summary(loaded), profiles=tuple(shipped_profiles(loaded)))
        except OnnxAdmmError as error:
            return replace(found, problem=str(error))

    def _place(self, entry: EntryPoint) -> str:
        return f"{self.kind} '{entry.name}' of {_distribution(entry)}"

    def _load(self, entry: EntryPoint) -> Any:
        place = self._place(entry)
        with _plugin_code(place):
            loaded = entry.load()
            missing = [member for member in self.members if not hasattr(loaded, member)]
        if not inspect.isclass(loaded) or missing:
            raise UsageError(
                f"the plug-in is not a {self.kind}",
                where=place,
                got=f"{entry.value} without {', '.join(missing)}" if missing else entry.value,
                expected=f"a class with {', '.join(self.members)}",
                hint=_renamed(loaded, missing),
            )
        return loaded


PASSES = Registry("onnx_admm.passes", "pass", ("name", "idempotent", "exact", "requires", "run"))
LINT_RULES = Registry("onnx_admm.lint_rules", "lint rule", ("name", "level", "fix", "check"))
COST_MODELS = Registry("onnx_admm.cost_models", "cost model", ("name", "assumes", "quantities", "estimate"))


@contextmanager
def _plugin_code(place: str, what: str = "the plug-in cannot be loaded") -> Iterator[None]:
    """Turn any exception from a plug-in's code into an error, exits of the program included.

    Raises:
        UsageError: names the plug-in and what it raised.
    """
    try:
        with located(place):
            yield
    except (OnnxAdmmError, *STOPS):
        raise
    except BaseException as error:
        fault = f"{type(error).__name__}{': ' if str(error) else ''}{error}"
        hint = "Repair or uninstall that package."
        raise UsageError(what, where=place, got=fault, hint=hint) from error


def build_plugin(cls: type, settings: object, place: str) -> Any:
    """Return an object of a plug-in's class, made from a table of settings.

    Raises:
        RecipeError: an unknown or missing key, an impossible value.
        UsageError: the class raises anything else.
    """
    with _plugin_code(place, "the plug-in cannot be made with these settings"):
        return build(cls, settings, place)


def pass_class(name: str) -> type[Pass]:
    """Return the pass registered under ``name``; see `Registry.get`."""
    found: type[Pass] = PASSES.get(name)
    return found


def lint_rules() -> tuple[LintRule, ...]:
    """Return every registered lint rule, by name.

    Raises:
        UsageError: one cannot be loaded or made.
    """
    rules = []
    for name in LINT_RULES.names():
        cls = LINT_RULES.get(name)
        with _plugin_code(f"lint rule '{name}'", "the plug-in cannot be made"):
            rules.append(cls())
    return tuple(rules)


def cost_model(spec: str) -> CostModel:
    """Return a cost model from its spec: ``NAME[:PROFILE][,KEY=VALUE...]``, or a profile's tag alone.

    The profile is a TOML file, or the tag of a shipped one: ``NAME.TAG.toml`` in the folder of the cost
    model's module. Its keys are the fields of the cost model's class; ``KEY=VALUE`` overrides them.

    Raises:
        RecipeError: no such cost model or profile; an unknown or missing key, an impossible value.
    """
    head, *overrides = spec.split(",")
    name, _, profile = head.partition(":")
    if not profile and name.strip() not in COST_MODELS.names():
        name, profile = _by_tag(name.strip())
    cls = COST_MODELS.get(name.strip())
    table = _profile(cls, name, profile.strip()) if profile.strip() else {}
    for override in overrides:
        merge(table, _override(override, spec))
    tags = shipped_profiles(cls)
    if tags and not profile.strip() and not required_keys(cls) <= set(table):
        raise RecipeError(
            f"the cost model '{name}' needs a profile",
            expected=f"a TOML file or one of {', '.join(tags)}",
            hint=f"Such as {name}:{next(iter(tags))}.",
        )
    made: CostModel = build_plugin(cls, table, f"cost model '{spec}'")
    return made


def _by_tag(tag: str) -> tuple[str, str]:
    """Return cost model and profile where the spec is a profile's tag; else the spec as a name.

    Raises:
        RecipeError: several cost models bring a profile of that tag.
    """
    owners = [plugin.name for plugin in COST_MODELS.plugins() if tag in plugin.profiles]
    if len(owners) > 1:
        options = " or ".join(f"{owner}:{tag}" for owner in owners)
        raise RecipeError(f"several cost models bring a profile '{tag}'", expected=options)
    return (owners[0], tag) if owners else (tag, "")


def profile_file(spec: str) -> Path | None:
    """Return the file of the profile in a cost model's spec; None for a shipped one, or none."""
    profile = spec.split(",")[0].partition(":")[2].strip()
    return Path(profile) if profile.endswith(".toml") else None


def shipped_profiles(cls: type) -> dict[str, Path]:
    """Return the profiles shipped with a cost model's class, by tag."""
    prefix = f"{getattr(cls, 'name', '')}."
    files = sorted(Path(inspect.getfile(cls)).parent.glob(f"{prefix}*.toml"))
    return {file.stem.removeprefix(prefix): file for file in files}


def _profile(cls: type, name: str, profile: str) -> dict[str, Any]:
    shipped = shipped_profiles(cls)
    if profile in shipped:
        return read_toml(shipped[profile])
    if profile.endswith(".toml"):
        return read_toml(profile)
    raise RecipeError(
        f"unknown profile '{profile}' of the cost model '{name}'",
        expected=f"a TOML file{''.join(f', {tag}' for tag in shipped)}",
        hint=did_you_mean(profile, shipped),
    )


def _override(text: str, spec: str) -> dict[str, Any]:
    """Return ``key=value`` as a table; a value that is no TOML is a text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError("not a setting", where=f"cost model '{spec}'", got=repr(text), expected="KEY=VALUE")
    try:
        return parse_toml(f"{key} = {value}", spec)
    except RecipeError:
        return parse_toml(f"{key} = {json.dumps(value.strip())}", spec)


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unnamed package"


def _renamed(loaded: Any, missing: Sequence[str]) -> str | None:
    """Return the sentence for a class with missing attributes under their former names, else None."""
    pairs = [pair for pair in FORMER_MEMBERS.items() if pair[1] in missing and hasattr(loaded, pair[0])]
    return " ".join(f"'{former}' is called '{now}' now." for former, now in pairs) or None


def _summary(loaded: type) -> str:
    return next(iter((inspect.getdoc(loaded) or "").strip().splitlines()), "")
