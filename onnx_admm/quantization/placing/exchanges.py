"""Exchanges that a search of placements tries: connected parts, single units, groups of units."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import networkx as nx

from onnx_admm.quantization.placing.placement import place
from onnx_admm.quantization.units import Unit

Asked = frozenset[int]
"""Nodes of the products and kernels that are asked to be integer."""

_SWEEPS = 8
_LEAST_GAIN = 1e-6


def effective(units: Sequence[Unit], asked: Asked) -> Asked:
    """Return the nodes that are integer in fact: kernels of float values are not."""
    return frozenset(unit.node for unit in place(units, asked).units) & asked


def parts_of(units: Sequence[Unit], asked: Asked) -> list[Asked]:
    """Return the connected parts of a placement, of two units or more."""
    graph: nx.Graph[int | str] = nx.Graph()
    for unit in place(units, asked).units:
        graph.add_node(unit.node)
        graph.add_edges_from((unit.node, value) for value in (*unit.inputs, unit.output))
    found = nx.connected_components(graph)
    parts = [frozenset(n for n in part if isinstance(n, int)) & asked for part in found]
    return [part for part in parts if len(part) > 1]


def runs_of(nodes: Collection[int], among: Iterable[int]) -> list[Asked]:
    """Return the nodes in groups of neighbours in the order of ``among``.

    Example:
        >>> runs_of({1, 2, 5}, [1, 2, 4, 5])
        [frozenset({1, 2}), frozenset({5})]
    """
    found: list[list[int]] = [[]]
    for node in among:
        if node in nodes:
            found[-1].append(node)
        elif found[-1]:
            found.append([])
    return [frozenset(run) for run in found if run]


def descend(
    units: Sequence[Unit],
    start: Asked,
    everything: Asked,
    latency: Callable[[Asked], float],
    fits: Callable[[Asked], bool],
) -> Asked:
    """Return a placement that no exchange of a part or a unit makes faster, by a latency that costs nothing.

    Args:
        units: all units, in order.
        start: a placement that fits.
        everything: units that may be integer.
        latency: of a placement.
        fits: whether a placement keeps the tolerance.
    """
    best, least = start, latency(start)
    for _ in range(_SWEEPS):
        before = least
        for change in [*parts_of(units, best), *(frozenset({node}) for node in sorted(everything))]:
            other = effective(units, best ^ change if len(change) == 1 else best - change)
            if other == best or not other <= everything:
                continue
            found = latency(other)
            if found < least - _LEAST_GAIN and fits(other):
                best, least = other, found
        if least >= before:
            break
    return best
