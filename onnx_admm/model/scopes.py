"""Scopes: unique names for the main graph, subgraphs and functions.

A subgraph is named by the node and the attribute that hold it (``choice.then_branch``), behind the scope of
that node; a function by its name. Equal names are distinguished: functions by domain and overload, others
(nodes of one name, or of none) by a number, ``#2`` for the second in graph order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from onnx_admm.model.names import label, unique

Body = ir.Graph | ir.Function


def named_scopes(model: ir.Model) -> Iterator[tuple[str, Body]]:
    """Yield every graph and function of a model with its scope, the main graph ("") first."""
    taken = {""}
    yield "", model.graph
    yield from _inside("", model.graph, taken)
    for scope, function in _functions(model):
        free = unique(scope, taken)
        yield free, function
        yield from _inside(free, function, taken)


def function_scopes(model: ir.Model) -> frozenset[str]:
    """Return the scopes of functions and of the subgraphs in them, which see nothing of the main graph."""
    inner = {id(function) for function in model.functions.values()}
    found, is_inside = set(), False
    for scope, body in named_scopes(model):  # functions come behind the main graph, each before what is in it
        is_inside = is_inside or id(body) in inner
        if is_inside:
            found.add(scope)
    return frozenset(found)


def _functions(model: ir.Model) -> Iterator[tuple[str, ir.Function]]:
    """Yield the functions by name; with domain and overload where the name is not unique."""
    functions = list(model.functions.values())
    names = Counter(function.name for function in functions)
    in_domain = Counter((function.domain, function.name) for function in functions)
    for function in functions:
        scope = function.name
        if names[scope] > 1:
            scope = f"{function.domain}::{function.name}"
        if in_domain[function.domain, function.name] > 1 and function.overload:
            scope = f"{scope}:{function.overload}"
        yield scope, function


def _inside(scope: str, body: Body, taken: set[str]) -> Iterator[tuple[str, ir.Graph]]:
    """Yield the subgraphs of a graph's nodes, each before its own; iterative, since they may nest deeply."""
    pending = [iter(_subgraphs(scope, body))]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            continue
        name, graph = unique(found[0], taken), found[1]
        yield name, graph
        pending.append(iter(_subgraphs(name, graph)))


def _subgraphs(scope: str, body: Body) -> Iterator[tuple[str, ir.Graph]]:
    for node in body:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.GRAPH:
                inner = f"{label(node)}.{name}"
                yield f"{scope}/{inner}" if scope else inner, attribute.as_graph()
