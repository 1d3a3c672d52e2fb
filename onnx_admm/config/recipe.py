"""Recipes: a pipeline and its settings as TOML, the same object from a file, from flags and from Python.

fine_tune = true           # optional: train where there is data
provenance = true          # optional: write the passes' names into the model
freeze_defaults = true     # optional: initializers that are listed as inputs become constants, or stay
keep_docs = true           # optional: keep doc strings and exporters' notes, which no runtime reads
cost_model = "storage"     # optional: prices the layers, as --cost-model takes it

[bind]                     # optional: extents of open axes for costs
N = 1

[preprocessing]            # optional: from stored samples to model inputs
scale = 0.00392156862745098

[training]                 # optional: settings of fine-tuning
batch_size = 64

[[pass]]                   # in order; every other key is a field of the pass
name = "admm_prune"
ratio = 85.0
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any

import tomli_w

from onnx_admm.config.registry import build_plugin, cost_model, pass_class
from onnx_admm.contracts import Pass, TrainingSettings
from onnx_admm.errors import RecipeError, UsageError, located
from onnx_admm.pipeline import Pipeline
from onnx_admm.settings.amounts import number_before_x, parse_share
from onnx_admm.settings.ranges import MOST_EPOCHS, MOST_EXTENT, parse_pattern
from onnx_admm.settings.tables import build, check_keys, parse_toml, read_toml, unbuild

if TYPE_CHECKING:
    from onnx_admm.data import Preprocessing

_STEPS, _MOST_EPOCHS = 4000, 60

_REMOVED = ("macs", "latency", "energy", "size")
"""Quantities that the removal of channels can be asked for."""

_MOSTLY_GRAPH = 0.5
"""Share of nodes, names and shapes in a result from which on they outweigh the weights."""

_BEHIND_DEQUANTIZE = ("transposed_weight", "relu_after_weight", "unfused_weight")
"""Rewrites without which a layer with a dequantised weight is slower than it was with floats."""

_BEHIND_ENCODING = ("function_of_rows",)
"""Rewrites that would hide a weight from the coders."""

_SWITCHES = ("fine_tune", "provenance", "freeze_defaults", "keep_docs")
_TOP_LEVEL = ("pass", "training", "preprocessing", "cost_model", "bind", *_SWITCHES)


@dataclass(frozen=True)
class Recipe:
    """A pipeline and its settings: ``Recipe.parse(r.dump()) == r``.

    Attributes:
        passes: the pipeline, in order.
        training: settings of fine-tuning.
        preprocessing: from stored samples to model inputs; None leaves them unchanged.
        fine_tune: train where there is data; without it passes take the nearest feasible weights.
        provenance: write the names of the passes into the model's metadata.
        freeze_defaults: whether initializers that are listed as inputs (IR version 4 and newer) become
            constants; None: where nine tenths of them are listed or more.
        keep_docs: keep doc strings and exporters' notes on nodes, which no runtime reads.
        cost_model: cost model of the target, as `registry.cost_model` reads it; None: no target.
        bind: extents of open axes for costs, by symbol or place.
    """

    passes: tuple[Pass, ...]
    training: TrainingSettings = field(default_factory=TrainingSettings)
    preprocessing: Preprocessing | None = None
    fine_tune: bool = True
    provenance: bool = True
    freeze_defaults: bool | None = None
    keep_docs: bool = True
    cost_model: str | None = None
    bind: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe file.

        Raises:
            RecipeError: no such file, not TOML, an unknown pass or key, a value of the wrong type.
        """
        return cls.parse(read_toml(path), source=str(path))

    @classmethod
    def parse(cls, content: str | Mapping[str, Any], *, source: str = "recipe") -> Recipe:
        """Return a recipe from TOML text, or from its table; raises as `load`."""
        table = parse_toml(content, source) if isinstance(content, str) else content
        check_keys(table, _TOP_LEVEL, source)
        steps = table.get("pass", [])
        if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
            raise RecipeError("passes are an array of tables", where=source, expected="[[pass]] before each")
        switches = {key: table[key] for key in _SWITCHES if key in table}
        for key, value in switches.items():
            if not isinstance(value, bool):
                raise RecipeError("not true or false", where=f"{source}, key '{key}'", got=repr(value))
        return cls(
            passes=tuple(_parse_step(step, f"{source}, pass {i}") for i, step in enumerate(steps, 1)),
            training=build(TrainingSettings, table.get("training", {}), f"{source}, [training]"),
            preprocessing=_parse_preprocessing(table.get("preprocessing"), f"{source}, [preprocessing]"),
            cost_model=_parse_cost_model(table.get("cost_model"), f"{source}, key 'cost_model'"),
            bind=_parse_bindings(table.get("bind", {}), f"{source}, [bind]"),
            **switches,
        )

    def table(self) -> dict[str, Any]:
        """Return the recipe as plain values, with all defaults, so that later defaults cannot change it."""
        switches = {key: getattr(self, key) for key in _SWITCHES}
        tables: dict[str, Any] = {key: value for key, value in switches.items() if value is not None}
        if self.cost_model is not None:
            tables["cost_model"] = self.cost_model
        if self.bind:
            tables["bind"] = dict(self.bind)
        if self.preprocessing is not None:
            tables["preprocessing"] = unbuild(self.preprocessing)
        tables["training"] = unbuild(self.training)
        tables["pass"] = [{"name": step.name, **unbuild(step)} for step in self.passes]
        return tables

    def dump(self) -> str:
        """Return the recipe as TOML."""
        return tomli_w.dumps(self.table())

    def pipeline(self) -> Pipeline:
        """Return the passes, ready to run."""
        return Pipeline(self.passes, self.provenance)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Settings of the command line without a recipe.

    Attributes:
        remove: ``0.5x`` (share of the multiply-accumulates that may be left when channels are removed),
            ``latency=0.5x`` (of another quantity), or None.
        prune: ``85x`` (weights over nonzeros), ``0.9`` (share of zeros), ``2:4`` (2 kept of every 4) or None.
        bits: bits of a weight, 1 to 8; None: not quantised (chosen by measurement where ``prune`` is None
            too).
        budget: limits on the target, such as ``latency=0.5x``; in place of ``prune`` and ``bits``.
        format: form in which weights are stored.
        epochs: ADMM epochs of each pass (pruning retrains half as many); None: see `default_epochs`.
        samples: number of training samples, where known; `default_epochs` depends on it.
        fine_tune: whether to train.
        include, exclude: patterns of layer names or operators; other layers are left unchanged.
        keep_docs: keep doc strings and exporters' notes.
    """

    remove: str | None = None
    prune: str | None = None
    bits: int | None = None
    budget: tuple[str, ...] = ()
    format: str = "auto"
    epochs: int | None = None
    samples: int | None = None
    fine_tune: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep_docs: bool = False


def recipe_from_flags(flags: Flags) -> Recipe:
    """Return the recipe for the flags: remove channels, prune, quantise, drop dead channels, rewrite, encode.

    Without fine-tuning, layers are pruned and quantised together by reconstruction. With neither ``prune``
    nor ``bits``: for each layer the strongest rounding that the outputs tolerate, no training; with ``prune``
    alone the remaining weights are rounded so, compared with the pruned model. With a budget: density and
    bits of each layer by their cost on the target; trained only where ``epochs`` is given.

    Raises:
        RecipeError: an impossible value; names the flag.
    """
    prune = None if flags.prune is None else parse_prune(flags.prune)
    if flags.bits is not None and not 1 <= flags.bits <= 8:
        raise RecipeError("impossible number of bits", where="--bits", got=flags.bits, expected="1 to 8")
    if flags.epochs is not None and not 0 <= flags.epochs <= MOST_EPOCHS:
        raise RecipeError(
            "impossible number of epochs",
            where="--epochs",
            got=flags.epochs,
            expected=f"0 to {MOST_EPOCHS}",
        )
    removal = [] if flags.remove is None else _removal(flags.remove, flags)
    plain = prune is None and flags.bits is None and not flags.budget
    steps: list[dict[str, Any]] = [
        {"name": "share_constants"},
        {"name": "fold_batchnorm"},
        {"name": "fold_bias"},
    ]
    if plain:
        against = {"against": "before"} if removal else {}
        compressing: list[dict[str, Any]] = [{"name": "auto_quantize", **against}]
    elif flags.budget:
        epochs = {"epochs": flags.epochs} if flags.epochs and flags.fine_tune else {}
        compressing = [{"name": "meet_budget", "budget": list(flags.budget), **epochs}]
    elif flags.fine_tune:
        compressing = _trained(prune, flags)
    else:
        bits = {} if flags.bits is None else {"bits": flags.bits}
        compressing = [{"name": "reconstruct_layers", **(prune or {}), **bits}]
    if prune is not None and flags.bits is None:
        compressing.append({"name": "auto_quantize", "against": "before"})
    chosen = {"include": list(flags.include), "exclude": list(flags.exclude)}
    steps += [
        {**step, **{key: patterns for key, patterns in chosen.items() if patterns}}
        for step in (*removal, *compressing)
    ]
    if prune is not None or flags.budget or removal:
        steps.append({"name": "drop_dead_channels"})
    steps.append({"name": "rewrite_for_runtime"})
    steps.append({"name": "encode", "format": flags.format})
    behind = (*(_BEHIND_DEQUANTIZE if flags.format == "qdq" else ()), *_BEHIND_ENCODING)
    steps.append({"name": "rewrite_for_runtime", "rules": list(behind)})
    if not flags.keep_docs:
        steps.append({"name": "minify", "least_share": _MOSTLY_GRAPH})
    trains = flags.fine_tune and (not plain or bool(removal))
    switches = {"fine_tune": trains, "keep_docs": flags.keep_docs}
    return Recipe.parse({"pass": steps, **switches}, source="flags")


def _removal(text: str, flags: Flags) -> list[dict[str, Any]]:
    """Return the passes for ``--remove``: the removal, and fine-tuning where nothing behind it trains."""
    quantity, share = parse_remove(text)
    steps: list[dict[str, Any]] = [{"name": "remove_channels", "keep": share, "quantity": quantity}]
    if flags.fine_tune and flags.prune is None and flags.bits is None and not flags.budget:
        epochs = {} if flags.epochs is None else {"epochs": flags.epochs}
        steps.append({"name": "fine_tune", **epochs})
    return steps


def parse_remove(text: str) -> tuple[str, float]:
    """Return ``--remove`` as a quantity and the share of it that may be left.

    Raises:
        RecipeError: no such quantity, or no share above 0 and below 1.
    """
    quantity, _, share = text.rpartition("=")
    quantity = quantity.strip() or "macs"
    expected = "what may be left, such as 0.5x or 50% (of the multiply-accumulates), or latency=0.5x"
    if quantity not in _REMOVED:
        raise RecipeError("unknown quantity", where="--remove", got=repr(text), expected=expected)
    try:
        number = parse_share(share, "--remove")
    except UsageError:
        number = 0.0
    if not 0 < number < 1:
        raise RecipeError("impossible share", where="--remove", got=repr(text), expected=expected)
    return quantity, number


def _trained(prune: dict[str, Any] | None, flags: Flags) -> list[dict[str, Any]]:
    """Return the passes that prune and quantise by fine-tuning."""
    steps: list[dict[str, Any]] = []
    if prune is not None:
        tuned = _tuned("admm_prune", flags)
        retrained = {"retrain_epochs": (tuned["epochs"] + 1) // 2} if tuned else {}
        steps.append({"name": "admm_prune", **prune, **tuned, **retrained})
    if flags.bits is not None:
        steps.append({"name": "admm_quantize", "bits": flags.bits, **_tuned("admm_quantize", flags)})
    return steps


def default_epochs(samples: int, least: int) -> int:
    """Return the default of ADMM epochs of a pass: as many as take about 4,000 optimizer steps.

    ``ceil(4000 / ceil(samples / batch size))``, no fewer than ``least`` and no more than 60.

    Args:
        samples: number of training samples.
        least: the pass's own default.
    """
    steps_per_epoch = max(1, ceil(samples / TrainingSettings().batch_size))
    return max(least, min(_MOST_EPOCHS, ceil(_STEPS / steps_per_epoch)))


def _tuned(name: str, flags: Flags) -> dict[str, int]:
    """Return the pass's key ``epochs``; nothing where the pass decides."""
    if flags.epochs is not None:
        return {"epochs": flags.epochs}
    if flags.samples is None or not flags.fine_tune:
        return {}
    return {"epochs": default_epochs(flags.samples, getattr(pass_class(name), "epochs", 0))}


def parse_prune(text: str) -> dict[str, Any]:
    """Return ``--prune`` as keys of a pruning pass: ``ratio``, ``keep`` or ``pattern``.

    Raises:
        RecipeError: not a ratio above 1x, a share strictly between 0 and 1, or N:M with 0 < N < M.
    """
    impossible = RecipeError(
        "impossible pruning target",
        where="--prune",
        got=repr(text),
        expected="a ratio such as 85x (weights over nonzeros, above 1x), a share of zeros such as 0.9 "
        "or 90% (between 0 and 1) or a pattern such as 2:4 (2 kept of every 4)",
    )
    text = text.strip()
    if ":" in text:
        if (pattern := parse_pattern(text)) is None:
            raise impossible
        return {"pattern": f"{pattern[0]}:{pattern[1]}"}
    try:
        factor, percent = number_before_x(text), text.endswith("%")
        number = Decimal(factor or text.removesuffix("%")) / (100 if percent else 1)
    except ArithmeticError:
        raise impossible from None
    if factor is not None:
        if not (number.is_finite() and number > 1 and isfinite(float(number))):
            raise impossible
        return {"ratio": float(number)}
    if not (number.is_finite() and 0 < number < 1):
        raise impossible
    return {"keep": float(1 - number)}


def _parse_step(table: Mapping[str, Any], place: str) -> Pass:
    name = table.get("name")
    if not isinstance(name, str):
        raise RecipeError(
            "a pass needs a name", where=place, got=repr(name), expected='such as name = "encode"'
        )
    with located(place):
        cls = pass_class(name)
    settings = {key: value for key, value in table.items() if key != "name"}
    made: Pass = build_plugin(cls, settings, f"{place} ({name})")
    return made


def _parse_preprocessing(table: object, place: str) -> Preprocessing | None:
    if table is None:
        return None
    from onnx_admm.data import Preprocessing

    return build(Preprocessing, table, place)


def _parse_cost_model(spec: object, place: str) -> str | None:
    if spec is None:
        return None
    if not isinstance(spec, str):
        raise RecipeError("not the name of a cost model", where=place, got=repr(spec))
    with located(place):
        cost_model(spec)
    return spec


def _parse_bindings(table: object, place: str) -> dict[str, int]:
    if not isinstance(table, Mapping):
        raise RecipeError("not a table of extents", where=place, got=repr(table), expected="such as N = 1")
    for axis, extent in table.items():
        if not isinstance(extent, int) or isinstance(extent, bool) or not 1 <= extent <= MOST_EXTENT:
            raise RecipeError(
                "not an extent",
                where=f"{place}, key '{axis}'",
                got=repr(extent),
                expected=f"a whole number from 1 to {MOST_EXTENT}",
            )
    return dict(table)
