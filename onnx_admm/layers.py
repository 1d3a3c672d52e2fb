"""Which layers a pass works on, and a figure for each: by name pattern or in graph order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from onnx_admm.contracts import ModelView, Skip, WeightSite
from onnx_admm.errors import NothingToDo, PassRefused
from onnx_admm.transforms import transform_in

PerLayer = float | tuple[float, ...] | dict[str, float]
"""One figure for all layers, one for each in graph order, or one for each name pattern."""

_NAMES_SHOWN = 8


def choose_layers(
    model: ModelView, include: Sequence[str], exclude: Sequence[str], *, subgraphs: bool = False
) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
    """As ``choose_sites``, of a model's weights alone: constants that nobody learned are left alone too.

    They are told by their values (see ``transforms``). What ``include`` names is worked on whatever it is.

    Raises:
        PassRefused: as ``choose_sites``.
    """
    chosen, skipped = choose_sites(model.sites(), include, exclude, subgraphs=subgraphs)
    if include:
        return chosen, skipped
    weights, transforms = without_transforms(model, chosen)
    if not weights:
        raise NothingToDo("no constant that is left is a learned weight", got=transforms[0].why)
    return weights, (*skipped, *transforms)


def without_transforms(
    model: ModelView, sites: Sequence[WeightSite]
) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
    """The sites that may be learned weights, and why the others are not."""
    found = {site.name: what for site in sites if (what := transform_in(model.read(site))) is not None}
    weights = tuple(site for site in sites if site.name not in found)
    return weights, tuple(Skip(name, what) for name, what in found.items())


def choose_sites(
    sites: Sequence[WeightSite], include: Sequence[str], exclude: Sequence[str], *, subgraphs: bool = False
) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
    """The sites to work on, and why the others are left alone.

    Args:
        sites: all of the model's.
        include: name or operator patterns (``*`` and ``?``); empty means all.
        exclude: patterns that win over ``include``.
        subgraphs: weights inside subgraphs and functions count too; training does not reach them.

    Raises:
        PassRefused: a pattern matches no layer at all, or nothing is left.
        NothingToDo: the model has no weight that could be worked on, whatever the patterns.
    """
    _check_patterns(sites, (*include, *exclude))
    chosen, skipped = [], []
    for site in sites:
        if site.fixed is not None:
            skipped.append(Skip(site.name, site.fixed))
        elif not site.editable:
            skipped.append(Skip(site.name, "already encoded"))
        elif site.scope and not subgraphs:
            skipped.append(Skip(site.name, f"stands in the subgraph {site.scope}"))
        elif include and not _matches(site, include):
            skipped.append(Skip(site.name, "not included"))
        elif _matches(site, exclude):
            skipped.append(Skip(site.name, "excluded"))
        else:
            chosen.append(site)
    if not chosen:
        raise _nothing_left(sites, include, exclude)
    return tuple(chosen), tuple(skipped)


def _check_patterns(sites: Sequence[WeightSite], patterns: Sequence[str]) -> None:
    idle = [pattern for pattern in patterns if not any(_matches(site, (pattern,)) for site in sites)]
    if idle and sites:
        names = [site.name for site in sites]
        raise PassRefused("no layer matches", got=", ".join(idle), expected=_some_of(names))


def _some_of(names: Sequence[str]) -> str:
    shown, more = ", ".join(names[:_NAMES_SHOWN]), len(names) - _NAMES_SHOWN
    return f"some of {shown} and {more} more" if more > 0 else f"some of {shown}"


def _nothing_left(sites: Sequence[WeightSite], include: Sequence[str], exclude: Sequence[str]) -> PassRefused:
    """Why no site is left to work on, and what can be done about it."""
    within_reach = [site.name for site in sites if site.editable and not site.scope]
    if within_reach:
        return PassRefused(
            "no layer matches",
            got=f"include {list(include)}, exclude {list(exclude)}",
            expected=_some_of(within_reach),
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
        f"no weight to compress in the main graph: {inner} stand in subgraphs{others}",
        hint="Export the model without control flow: for an If, each branch as a model of its own.",
    )


def spread(figure: PerLayer, sites: Sequence[WeightSite], key: str) -> dict[str, float]:
    """The figure of each site.

    Raises:
        PassRefused: a list of another length than there are layers, a pattern that matches no layer, or a
            layer no pattern matches.
    """
    names = [site.name for site in sites]
    if isinstance(figure, Mapping):
        found = {name: _by_pattern(figure, name, key) for name in names}
        idle = [pattern for pattern in figure if not any(fnmatchcase(name, pattern) for name in names)]
        if idle:
            raise PassRefused("a pattern matches no layer", where=key, got=idle, expected=", ".join(names))
        return found
    if isinstance(figure, (int, float)):
        return dict.fromkeys(names, float(figure))
    if len(figure) != len(names):
        expected = f"{len(names)}: {', '.join(names)}"
        raise PassRefused(
            "another number of figures than layers", where=key, got=len(figure), expected=expected
        )
    return dict(zip(names, map(float, figure), strict=True))


def _matches(site: WeightSite, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(site.name, p) or fnmatchcase(site.op_type, p) for p in patterns)


def _by_pattern(figures: Mapping[str, float], name: str, key: str) -> float:
    for pattern, figure in figures.items():
        if fnmatchcase(name, pattern):
            return float(figure)
    raise PassRefused("no pattern matches the layer", where=key, got=name, expected=", ".join(figures))
