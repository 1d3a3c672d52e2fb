"""Recipes: a pipeline and its settings as TOML, the same object from a file, from flags and from Python.

fine_tune = true           # optional: train where there is data
provenance = true          # optional: write the passes' names into the model
freeze_defaults = true     # optional: initializers that are listed as inputs become constants, or stay
keep_docs = true           # optional: keep doc strings and exporters' notes, which no runtime reads
min_runtime = "1.17"       # optional: oldest ONNX Runtime that must load the result
cost_model = "storage"     # optional: prices the layers, as --cost-model takes it

[layers]                   # optional: form of single layers, which all other passes then leave
"head*" = {bits = 8}

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
from typing import TYPE_CHECKING, Any

import tomli_w

from onnx_admm.config.layer_table import layers_table, parse_layers
from onnx_admm.config.registry import build_plugin, cost_model, pass_class
from onnx_admm.contracts import LayerSetting, Pass, TrainingSettings
from onnx_admm.errors import RecipeError, located
from onnx_admm.model.runtimes import parse_runtime
from onnx_admm.pipeline import Pipeline
from onnx_admm.settings.ranges import MOST_EXTENT
from onnx_admm.settings.tables import build, check_keys, parse_toml, read_toml, unbuild

if TYPE_CHECKING:
    from onnx_admm.data import Preprocessing

_SWITCHES = ("fine_tune", "provenance", "freeze_defaults", "keep_docs")
_TOP_LEVEL = ("pass", "training", "preprocessing", "cost_model", "bind", "layers", "min_runtime", *_SWITCHES)

_SETS_LAYERS, _ENCODES = "set_layers", "encode"
"""The pass that gives layers the form of ``[layers]``, and the one that must come behind it."""


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
        layers: form of single layers, by pattern. Where one has bits or a density, the pass ``set_layers`` is
            added before the first pass that changes what the model computes, unless it is there.
        min_runtime: version of the oldest ONNX Runtime that must load the result; see ``model.runtimes``.
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
    layers: Mapping[str, LayerSetting] = field(default_factory=dict)
    min_runtime: str | None = None

    def __post_init__(self) -> None:
        is_set = any(step.name == _SETS_LAYERS for step in self.passes)
        if is_set or all(setting.is_float for setting in self.layers.values()):
            return
        places = (i for i, step in enumerate(self.passes) if not step.exact or step.name == _ENCODES)
        place = next(places, len(self.passes))
        step = build_plugin(pass_class(_SETS_LAYERS), {}, _SETS_LAYERS)
        object.__setattr__(self, "passes", (*self.passes[:place], step, *self.passes[place:]))

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
            layers=parse_layers(table.get("layers", {}), f"{source}, [layers]"),
            min_runtime=_parse_runtime(table.get("min_runtime"), f"{source}, key 'min_runtime'"),
            **switches,
        )

    def table(self) -> dict[str, Any]:
        """Return the recipe as plain values, with all defaults, so that later defaults cannot change it."""
        switches = {key: getattr(self, key) for key in _SWITCHES}
        tables: dict[str, Any] = {key: value for key, value in switches.items() if value is not None}
        if self.cost_model is not None:
            tables["cost_model"] = self.cost_model
        if self.min_runtime is not None:
            tables["min_runtime"] = self.min_runtime
        if self.bind:
            tables["bind"] = dict(self.bind)
        if self.layers:
            tables["layers"] = layers_table(self.layers)
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
        return Pipeline(self.passes, self.provenance, self.layers, self.min_runtime)


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


def _parse_runtime(version: object, place: str) -> str | None:
    if version is None:
        return None
    if not isinstance(version, str):
        raise RecipeError("not a version", where=place, got=repr(version), expected='such as "1.17"')
    return parse_runtime(version, place).text


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
