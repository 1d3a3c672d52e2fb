"""Layers that a recipe gives a form: which they are, and how all passes come to leave them.

Patterns are matched once, before the first pass. Later passes may rename a weight; its layer is then found
by the names of the nodes that read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx_admm.contracts import LayerSetting, WeightSite
from onnx_admm.errors import RecipeError
from onnx_admm.model.conditions import FixedByRecipe
from onnx_admm.selection.layers import matched_names, some_of

PLACE = "[layers]"


@dataclass(frozen=True)
class SetLayer:
    """A layer and what is asked for it.

    Attributes:
        setting: the form asked for.
        patterns: the patterns that ask for it.
        users: names of the nodes that read its weight.
        known: names of all weights before the first pass: a weight of such a name was not renamed.
    """

    setting: LayerSetting
    patterns: tuple[str, ...]
    users: frozenset[str]
    known: frozenset[str]

    @property
    def why(self) -> str:
        """Why passes leave it, as a clause."""
        names = " and ".join(f"'{pattern}'" for pattern in self.patterns)
        return f"the recipe asks for {self.setting} ({names} in {PLACE})"

    @property
    def fixed(self) -> FixedByRecipe:
        """What other passes find at its weight."""
        is_float = self.setting.is_float
        return FixedByRecipe(
            self.why, may_be_encoded=not is_float, may_be_integer=self.setting.bits is not None
        )


def find_layers(asked: Mapping[str, LayerSetting], sites: Sequence[WeightSite]) -> dict[str, SetLayer]:
    """Return the layers that patterns ask something for, by site name.

    A pattern that is a layer's exact name takes precedence over others.

    Args:
        asked: settings by pattern, as ``include`` and ``exclude`` take patterns.
        sites: all of the model's.

    Raises:
        RecipeError: a pattern matches no layer, two ask for different things of one layer, or bits or a
            density are asked for a weight that cannot have them.
    """
    matches = {pattern: matched_names(sites, (pattern,)) for pattern in asked}
    for pattern, names in matches.items():
        if not names:
            expected = some_of([site.name for site in sites])
            raise RecipeError("no layer matches the pattern", where=PLACE, got=pattern, expected=expected)
    found: dict[str, SetLayer] = {}
    known = frozenset(site.name for site in sites)
    for site in sites:
        patterns = [pattern for pattern, names in matches.items() if site.name in names]
        patterns = [site.name] if site.name in asked else patterns
        if patterns:
            setting = _joined(site.name, {pattern: asked[pattern] for pattern in patterns})
            _check_possible(site, setting, patterns[0])
            found[site.name] = SetLayer(setting, tuple(patterns), frozenset(site.users), known)
    return found


def fixed_by_recipe(layers: Mapping[str, SetLayer], sites: Sequence[WeightSite]) -> dict[str, FixedByRecipe]:
    """Return the layers whose weights stay, in a model whose weights passes may have renamed.

    Args:
        layers: layers of the model before the first pass, by site name.
        sites: all sites of the present model.
    """
    return {name: layer.fixed for name, layer in present_layers(layers, sites).items()}


def present_layers(layers: Mapping[str, SetLayer], sites: Sequence[WeightSite]) -> dict[str, SetLayer]:
    """Return the layers under the names that they have in the present model; see `fixed_by_recipe`."""
    present = {site.name for site in sites}
    renamed = [layer for name, layer in layers.items() if name not in present]
    found: dict[str, SetLayer] = {}
    for site in sites:
        others = (
            layer
            for layer in renamed
            if site.name not in layer.known and not layer.users.isdisjoint(site.users)
        )
        layer = layers.get(site.name) or next(others, None)
        if layer is not None:
            found[site.name] = layer
    return found


def _joined(name: str, asked: Mapping[str, LayerSetting]) -> LayerSetting:
    """Return one setting from those of all patterns that match a layer.

    Raises:
        RecipeError: two of them contradict one another.
    """
    joined, first = LayerSetting(), ""
    for pattern, setting in asked.items():
        if first and (
            setting.is_float != joined.is_float
            or _differ(setting.bits, joined.bits)
            or _differ(setting.keep, joined.keep)
        ):
            raise RecipeError(
                "two patterns ask for different things of one layer",
                where=f"{PLACE}, layer {name}",
                got=f"{asked[first]} by '{first}' and {setting} by '{pattern}'",
                hint=f"Give the layer a line of its own: '{name}' takes precedence over patterns.",
            )
        first = first or pattern
        bits = joined.bits if setting.bits is None else setting.bits
        keep = joined.keep if setting.keep is None else setting.keep
        joined = LayerSetting(setting.is_float, bits, keep)
    return joined


def _differ(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one != other


def _check_possible(site: WeightSite, setting: LayerSetting, pattern: str) -> None:
    """Refuse bits and densities of weights that cannot get new values."""
    if setting.is_float:
        return
    why = site.fixed or ("is already encoded" if not site.editable else None)
    why = f"is in the subgraph {site.scope}" if why is None and site.scope else why
    if why is not None:
        raise RecipeError(
            f"a layer cannot have the form that '{pattern}' asks for",
            where=f"{PLACE}, layer {site.name}",
            got=f"{setting}, and the weight {why}",
            expected="float, or a pattern that does not match it",
        )
