"""Layers that a pass works on, and a number for each: by name pattern or in graph order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx_admm.contracts import ModelView, Skip, WeightSite
from onnx_admm.errors import NoSuchLayer, NothingToDo, PassRefused
from onnx_admm.model.analysis.unsupported_weights import unsupported_weights
from onnx_admm.selection.fixed_transforms import pattern_in
from onnx_admm.selection.name_patterns import matching
from onnx_admm.selection.weight_values import why_left, why_unusable

PerLayer = float | tuple[float, ...] | dict[str, float]
"""One number for all layers, one for each in graph order, or one for each name pattern."""

_NAMES_SHOWN = 8


def choose_layers(
    model: ModelView,
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    subgraphs: bool = False,
    also: Mapping[str, WeightSite] | None = None,
) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
    """Return the layers that a pass works on, and the reasons for the others.

    In addition to those of ``choose_sites``, weights with values that no pass can work on are left, and
    constants that were not learned (see ``weight_values``); a transform that ``include`` names is worked on.
    Large constants of operators that are no layers have a line too (see
    ``model.analysis.unsupported_weights``).

    Args:
        model: the model.
        include: as in ``choose_sites``.
        exclude: as in ``choose_sites``.
        subgraphs: as in ``choose_sites``.
        also: encoded weights that this pass can work on, by name, as sites that can be edited.

    Raises:
        PassRefused: as ``choose_sites``, or no layer is left.
    """
    sites = [(also or {}).get(site.name, site) for site in model.sites()]
    chosen, skipped = choose_sites(sites, include, exclude, subgraphs=subgraphs)
    layers, left = usable_layers(model, chosen, are_named=bool(include))
    if not layers:
        first = left[0]
        raise NothingToDo("no weight is left to compress", got=f"{first.layer}: {first.why}")
    others = () if include else unsupported_weights(model)
    return layers, (*skipped, *left, *(Skip(each.name, each.line()) for each in others))


def usable_layers(
    model: ModelView, sites: Sequence[WeightSite], *, are_named: bool = False
) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
    """Return the sites whose values a pass can work on, and the reasons for the others.

    Args:
        model: the model.
        sites: candidate sites.
        are_named: whether the user named them; then transforms are worked on too.
    """
    functions, left = model.function_scopes(), dict[str, str]()
    for site in sites:
        if site.scope in functions:  # a function sees nothing outside itself, so no decoder could reach it
            left[site.name] = f"is in the function {site.scope}, where it has no smaller form"
        elif (why := _why_left(model, site, is_named=are_named)) is not None:
            left[site.name] = why
    layers = tuple(site for site in sites if site.name not in left)
    return layers, tuple(Skip(name, why) for name, why in left.items())


_EXACT = "a fixed transform is not computed with 8-bit integers: quiet inputs would be lost"


def transforms_among(model: ModelView, sites: Sequence[WeightSite]) -> tuple[WeightSite, ...]:
    """Return the sites that ``usable_layers`` leaves only because they hold a transform or pattern."""
    functions = model.function_scopes()
    return tuple(
        site
        for site in sites
        if site.scope not in functions
        and site.editable
        and why_unusable(model.read(site)) is None
        and _why_left(model, site, is_named=False) is not None
    )


def without_transforms(
    sites: Sequence[WeightSite], original: ModelView
) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
    """Return the sites that hold no transform or pattern in the original, and the reasons for the others.

    Args:
        sites: candidates, of a model whose weights may have been rounded.
        original: the model before.
    """
    fixed = {site.name for site in transforms_among(original, original.sites())}
    kept = tuple(site for site in sites if site.name not in fixed)
    return kept, tuple(Skip(site.name, _EXACT) for site in sites if site.name in fixed)


def _why_left(model: ModelView, site: WeightSite, *, is_named: bool) -> str | None:
    values = model.read(site)
    why = why_left(values, is_named=is_named)
    return pattern_in(values) if why is None and site.is_table and not is_named else why


def choose_sites(
    sites: Sequence[WeightSite],
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    subgraphs: bool = False,
    keeps_values: bool = False,
) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
    """Return the sites to work on, and the reasons for the others.

    A layer that the recipe gives a form (``[layers]``) is left: see ``model.conditions``.

    Args:
        sites: all of the model's.
        include: name or operator patterns (``*`` and ``?``); empty means all. A pattern that is the exact
            name of a layer or operator means that alone.
        exclude: patterns that override ``include``.
        subgraphs: weights inside subgraphs and functions count too; training does not reach them.
        keeps_values: the pass computes with integers that weights lie on, and changes no value: then a layer
            that the recipe gives bits is worked on too.

    Raises:
        PassRefused: a pattern matches no layer at all, or nothing is left.
        NothingToDo: the model has no weight that could be worked on, whatever the patterns.
    """
    _check_patterns(sites, (*include, *exclude))
    included, excluded = matched_names(sites, include), matched_names(sites, exclude)
    chosen, skipped = [], []
    for site in sites:
        is_open = keeps_values and site.fixed_by_recipe is not None and site.fixed_by_recipe.may_be_integer
        if site.fixed is not None and not is_open:
            skipped.append(Skip(site.name, site.fixed))
        elif not site.editable and not is_open:
            skipped.append(Skip(site.name, "already encoded"))
        elif site.scope and not subgraphs:
            skipped.append(Skip(site.name, f"is in the subgraph {site.scope}"))
        elif include and site.name not in included:
            skipped.append(Skip(site.name, "not included"))
        elif site.name in excluded:
            skipped.append(Skip(site.name, "excluded"))
        else:
            chosen.append(site)
    if not chosen:
        raise _nothing_left(sites, include, exclude)
    return tuple(chosen), tuple(skipped)


def _check_patterns(sites: Sequence[WeightSite], patterns: Sequence[str]) -> None:
    idle = [pattern for pattern in patterns if not matched_names(sites, (pattern,))]
    if idle and sites:
        names = [site.name for site in sites]
        raise NoSuchLayer("no layer matches", got=", ".join(idle), expected=some_of(names))


def some_of(names: Sequence[str]) -> str:
    """Return what is expected where a pattern matches no layer: some of their names."""
    shown, more = ", ".join(names[:_NAMES_SHOWN]), len(names) - _NAMES_SHOWN
    return f"some of {shown} and {more} more" if more > 0 else f"some of {shown}"


def _nothing_left(sites: Sequence[WeightSite], include: Sequence[str], exclude: Sequence[str]) -> PassRefused:
    """Return the error where no site is left, with advice."""
    within_reach = [site.name for site in sites if site.editable and not site.scope]
    if within_reach:
        return NoSuchLayer(
            "no layer matches",
            got=f"include {list(include)}, exclude {list(exclude)}",
            expected=some_of(within_reach),
        )
    if not sites:
        return NothingToDo("the model has no weights to compress")
    fixed = sorted({site.fixed for site in sites if site.fixed is not None})
    encoded = sum(not site.editable and site.fixed is None for site in sites)
    if not any(site.editable for site in sites):
        why = [*(["is already encoded"] if encoded else []), *fixed]
        hint = "Start from the model as it was before encoding." if encoded else None
        return NothingToDo(f"every weight {' or '.join(why)}", hint=hint)
    inner = sum(site.editable for site in sites)
    others = f", {encoded} are already encoded" if encoded else ""
    return PassRefused(
        f"no weight to compress in the main graph: {inner} are in subgraphs{others}",
        hint="Export the model without control flow: for an If, each branch as a model of its own.",
    )


def spread(figure: PerLayer, sites: Sequence[WeightSite], key: str) -> dict[str, float]:
    """Return the number of each site; in a table the exact name, else the first matching pattern counts.

    Raises:
        PassRefused: a list of another length than there are layers, a pattern that matches no layer, or a
            layer no pattern matches.
    """
    names = [site.name for site in sites]
    if isinstance(figure, Mapping):
        return _by_pattern(figure, names, key)
    if isinstance(figure, (int, float)):
        return dict.fromkeys(names, float(figure))
    if len(figure) != len(names):
        expected = f"{len(names)}: {', '.join(names)}"
        raise PassRefused(
            "the number of values is not the number of layers", where=key, got=len(figure), expected=expected
        )
    return dict(zip(names, map(float, figure), strict=True))


def matched_names(sites: Sequence[WeightSite], patterns: Sequence[str]) -> set[str]:
    """Return the names of the sites that a pattern matches: the exact name, else by name or operator."""
    found: set[str] = set()
    for pattern in patterns:
        if any(site.name == pattern for site in sites):
            found.add(pattern)
            continue
        words = matching(pattern, [word for site in sites for word in (site.name, site.op_type)])
        found |= {site.name for site in sites if site.name in words or site.op_type in words}
    return found


def _by_pattern(figures: Mapping[str, float], names: Sequence[str], key: str) -> dict[str, float]:
    matched = {pattern: matching(pattern, names) for pattern in figures}
    idle = [pattern for pattern, found in matched.items() if not found]
    if idle:
        raise NoSuchLayer("a pattern matches no layer", where=key, got=idle, expected=", ".join(names))
    found = {name: float(figures[name]) for name in names if name in figures}
    for pattern, figure in figures.items():
        for name in matched[pattern] - found.keys():
            found[name] = float(figure)
    left = [name for name in names if name not in found]
    if left:
        raise PassRefused("no pattern matches the layer", where=key, got=left[0], expected=", ".join(figures))
    return {name: found[name] for name in names}
