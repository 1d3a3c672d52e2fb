"""Number of nodes and values of a model, checked before they are processed one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from onnx_admm.errors import LimitReached, ModelError
from onnx_admm.limits import current_budget
from onnx_admm.limits.budget import RAISE_MEMORY
from onnx_admm.model.files.guards import all_graphs, subgraphs


def check_size(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a model with more nodes and values than a run may process.

    The nodes of a function count at each call: runtimes and shape inference replace calls by them.

    Raises:
        LimitReached: too many.
        ModelError: a function that calls itself.
    """
    values = sum(
        len(graph.initializer) + len(graph.sparse_initializer) + len(graph.input) + len(graph.value_info)
        for graph in all_graphs(proto)
    )
    nodes = _nodes_written_out(proto, where)
    limit = current_budget().node_limit
    if values + nodes > limit:
        raise LimitReached(
            "the model has more nodes and stored values than a run may read",
            where=where,
            got=f"{nodes} nodes, functions written out in place of their calls, and {values} values",
            expected=f"at most {limit} in all",
            hint=RAISE_MEMORY,
        )


def _nodes_written_out(proto: onnx.ModelProto, where: str) -> int:
    """Return the number of nodes with each function call replaced by its nodes, subgraphs included."""
    functions = {(body.domain, body.name, getattr(body, "overload", "")): body for body in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    bodies = {key: list(_with_inner_nodes(body.node)) for key, body in functions.items()}
    calls = {
        key: [call for node in body if (call := _call(node)) in functions] for key, body in bodies.items()
    }
    for start in functions:
        path: dict[tuple[str, str, str], None] = {start: None}
        while path:
            key = next(reversed(path))
            unknown = [call for call in calls[key] if call not in sizes]
            if key in sizes or not unknown:
                sizes[key] = len(bodies[key]) + sum(sizes[call] for call in calls[key])
                path.popitem()
            elif unknown[0] in path:
                raise ModelError("a function that calls itself", where=f"{where}: function {key[1]}")
            else:
                path[unknown[0]] = None
    return sum(1 + sizes.get(_call(node), 0) for node in _with_inner_nodes(proto.graph.node))


def _with_inner_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes, and those of the graphs inside them."""
    pending = [nodes]
    while pending:
        for node in pending.pop():
            yield node
            pending += [graph.node for graph in subgraphs((node,))]


def _call(node: onnx.NodeProto) -> tuple[str, str, str]:
    return (node.domain, node.op_type, getattr(node, "overload", ""))
