"""The backward pass: rules applied to the nodes of a graph in reverse order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from onnx_admm.errors import NoGradient
from onnx_admm.model.differentiation.records import GraphNode, StaticGraph
from onnx_admm.model.operators import Trait, operators_with
from onnx_admm.training.gradients.codes import codes_in
from onnx_admm.training.gradients.lookup import gradient_rules
from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.tape import Tape

STEPS = operators_with(Trait.DISCRETE, Trait.COMPARES, Trait.RANDOM) | {
    "Constant",
    "ConstantOfShape",
    "EyeLike",
    "Hardmax",
    "NonMaxSuppression",
    "OneHot",
    "Range",
}
"""Operators of the default domain whose outputs are constant but for jumps: their gradient is zero."""

_HINT = (
    "Leave out the layers before that node (`exclude` in a recipe), register a gradient rule "
    "(docs/gradients.md), or use --no-fine-tune."
)


def write_backward(
    graph: StaticGraph, tape: Tape, seeds: Mapping[str, str], sources: Collection[str]
) -> dict[str, str]:
    """Write the gradients of ``sources`` behind a graph.

    Args:
        graph: the forward pass.
        tape: takes the nodes.
        seeds: by value of the graph, the value that holds d loss / d value.
        sources: values whose gradients are asked for.

    Returns:
        The value that holds d loss / d source, of its shape; none for a source that the loss does not depend
        on, or only by jumps.

    Raises:
        NoGradient: an operator on the way has no rule.
    """
    needed = reached_from(graph, sources)
    found: dict[str, list[str]] = {name: [value] for name, value in seeds.items()}
    tape.behind_relu |= _read_once_behind_relu(graph) - seeds.keys()

    def total(name: str) -> str | None:
        values = found.get(name)
        if not name or not values:
            return None
        while len(values) > 1:
            values[:2] = [tape.write("Add", *values[:2])]
        return values[0]

    for node in reversed(graph.nodes):
        is_on_the_way = any(name in needed for name in node.reads)
        if not is_on_the_way or not any(name in needed for name in node.outputs):
            continue
        gradients = tuple(total(name) for name in node.outputs)
        if all(gradient is None for gradient in gradients):
            continue
        requested = tuple(name in needed for name in node.inputs)
        for index, gradient in _applied(graph, tape, node, gradients, requested).items():
            if requested[index]:
                found.setdefault(node.inputs[index], []).append(gradient)
    return {name: value for name in sources if (value := total(name)) is not None}


def is_known(domain: str, operator: str) -> bool:
    """Whether an operator has a gradient rule, or its gradient is zero."""
    return (domain, operator) in gradient_rules() or (domain == "" and operator in STEPS)


def reached_from(graph: StaticGraph, sources: Collection[str]) -> set[str]:
    """Values that change where a source changes a little: real numbers, and codes of such in their place."""
    reached, codes = set(sources), codes_in(graph)
    for node in graph.nodes:
        if node.domain == "" and node.operator in STEPS:
            continue
        if any(name in reached for name in node.reads):
            reached.update(name for name in node.outputs if name in codes or (name and _is_real(graph, name)))
    return reached


def _read_once_behind_relu(graph: StaticGraph) -> set[str]:
    reads = Counter(name for node in graph.nodes for name in node.reads)
    made = {node.outputs[0] for node in graph.nodes if node.operator == "Relu" and node.domain == ""}
    return {name for name in made if reads[name] == 1 and name not in graph.outputs}


def _is_real(graph: StaticGraph, name: str) -> bool:
    return name not in graph.dtypes or graph.dtypes[name].kind not in "iubOSU"


def _applied(
    graph: StaticGraph,
    tape: Tape,
    node: GraphNode,
    gradients: tuple[str | None, ...],
    requested: tuple[bool, ...],
) -> Mapping[int, str]:
    where = f"node {node.name or node.outputs[0]}"
    label = f"{node.domain}.{node.operator}" if node.domain else node.operator
    rule = gradient_rules().get((node.domain, node.operator))
    if rule is None:
        raise NoGradient(f"there is no gradient rule for {label}", where=where, hint=_HINT)
    seen = GradientNode(
        operator=node.operator,
        domain=node.domain,
        name=node.name,
        inputs=node.inputs,
        outputs=node.outputs,
        attributes=node.attributes,
        input_shapes=tuple(graph.shapes.get(name, ()) for name in node.inputs),
        output_shapes=tuple(graph.shapes.get(name, ()) for name in node.outputs),
        constants=tuple(graph.known.get(name) for name in node.inputs),
        dtype=_dtype(graph, node),
        gradients=gradients,
        requested=requested,
    )
    try:
        return rule(tape, seen)
    except UnsupportedVariant as error:
        what = f"the gradient rule of {label} does not cover this use of it ({error})"
        raise NoGradient(what, where=where, hint=_HINT) from error


def _dtype(graph: StaticGraph, node: GraphNode) -> np.dtype[np.generic]:
    found = (graph.dtypes[name] for name in node.outputs if name in graph.dtypes)
    return next(found, np.dtype(np.float32))
