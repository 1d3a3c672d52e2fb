"""Which layers a pass works on, and a figure for each: by name pattern or in graph order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from onnx_admm.contracts import Skip, WeightSite
from onnx_admm.errors import PassRefused

PerLayer = float | tuple[float, ...] | dict[str, float]
"""One figure for all layers, one for each in graph order, or one for each name pattern."""


def choose_sites(
    sites: Sequence[WeightSite], include: Sequence[str], exclude: Sequence[str]
) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
    """The sites to work on, and why the others are left alone.

    Args:
        sites: all of the model's.
        include: name or operator patterns (``*`` and ``?``); empty means all.
        exclude: patterns that win over ``include``.

    Raises:
        PassRefused: nothing is left.
    """
    chosen, skipped = [], []
    for site in sites:
        if not site.editable:
            skipped.append(Skip(site.name, "already encoded"))
        elif site.scope:
            skipped.append(Skip(site.name, f"stands in the subgraph {site.scope}"))
        elif include and not _matches(site, include):
            skipped.append(Skip(site.name, "not included"))
        elif _matches(site, exclude):
            skipped.append(Skip(site.name, "excluded"))
        else:
            chosen.append(site)
    if not chosen:
        names = ", ".join(site.name for site in sites) or "none"
        raise PassRefused(
            "no layer matches", got=f"include {list(include)}, exclude {list(exclude)}", expected=names
        )
    return tuple(chosen), tuple(skipped)


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
