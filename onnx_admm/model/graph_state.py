"""State of a model, to detect whether it has changed."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


class GraphState:
    """Content of a model at one moment, down to nodes, values, attributes and tensors.

    Nodes and values are compared by identity (this object keeps them, so none is mistaken for another), names
    and operators by their text. Attributes and tensors are replaced when they change, never written to. So
    results about a model are valid as long as its state is equal, whoever edits the graph in any way: there
    is no counter that an edit could forget.

    Args:
        model: its state is taken once, at construction.
    """

    def __init__(self, model: ir.Model) -> None:
        self._parts = list(_parts(model))

    def holds_for(self, model: ir.Model) -> bool:
        """Return whether the model is still the same."""
        parts, known = _parts(model), iter(self._parts)
        for one, other in zip(known, parts, strict=False):
            if one is not other and not (type(one) is type(other) is str and one == other):
                return False
        return next(known, None) is None and next(parts, None) is None


def _parts(model: ir.Model) -> Iterator[object]:
    yield model.graph
    yield from (f"{domain} {version}" for domain, version in model.opset_imports.items())
    bodies: list[ir.Graph | ir.Function] = [*model.graphs(), *model.functions.values()]
    for body in bodies:
        yield body
        yield from body.inputs
        yield from body.outputs
        if isinstance(body, ir.Graph):
            for name, value in body.initializers.items():
                yield from (name, value, value.const_value)
        for node in body:
            yield from (node, node.op_type, node.domain, node.name, *node.inputs)
            yield from node.attributes.values()
            for output in node.outputs:
                yield from (output, output.name)
