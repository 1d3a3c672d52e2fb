"""Residual blocks of a graph: an Add that joins a branch with the value the branch starts from.

Two forms are found, in any graph and with any operators in the branch:

- an *identity* shortcut: one operand of the Add, the entry, is an ancestor of the other one;
- a *projection* shortcut: both operands are computed from one value, the entry, and one of them with a single
  layer.

The nodes of a branch are those on paths from the entry to the Add. Nothing outside may read their outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx_admm.contracts import ModelView
from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.model.rewrite.expose_values import weight_uses

_OLDEST_OPSET = 7
"""Before it, Add broadcasts by attributes."""


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """One residual block.

    Attributes:
        name: name of its Add.
        entry: the value that both operands are computed from; with an identity shortcut an operand itself.
        branch: the operand that is removed.
        shortcut: the other operand; equal to ``entry`` for an identity shortcut.
        output: the sum.
        nodes: nodes between entry and sum, of the shortcut too, in graph order; without the Add.
        layers: names of the weights that these nodes read.
    """

    name: str
    entry: ValueRef
    branch: ValueRef
    shortcut: ValueRef
    output: ValueRef
    nodes: tuple[NodeRef, ...]
    layers: tuple[str, ...]

    @property
    def is_identity(self) -> bool:
        """Whether the shortcut is the entry itself."""
        return self.shortcut == self.entry


def residual_blocks(model: ModelView) -> tuple[tuple[ResidualBlock, ...], dict[str, str]]:
    """Return the residual blocks with layers in the main graph, in graph order, and reasons for others.

    Blocks may contain others. An Add without a layer between its operands and a common value is not a
    residual block, and gets no reason.
    """
    if model.opset < _OLDEST_OPSET:
        return (), {}
    graph = _Graph(model)
    found, left = list[ResidualBlock](), dict[str, str]()
    for node in graph.order:
        if node.op_type != "Add":
            continue
        block = graph.block_at(node)
        if isinstance(block, str):
            left[node.name] = block
        elif block is not None:
            found.append(block)
    return tuple(found), left


class _Graph:
    """The main graph of a model: order of nodes, and the layers that they read."""

    def __init__(self, model: ModelView) -> None:
        self.order = tuple(node for node in model.nodes() if not node.scope)
        self._place = {node: place for place, node in enumerate(self.order)}
        self._layers: dict[NodeRef, list[str]] = {}
        for site in model.sites():
            if not (site.scope or site.is_table):
                for use in weight_uses(model, site):
                    self._layers.setdefault(use.node, []).append(site.name)

    def block_at(self, add: NodeRef) -> ResidualBlock | str | None:
        """Return the block that an Add ends, the reason why it cannot be removed, or None for no block."""
        one, other = add.input(0), add.input(1)
        if one is None or other is None or one == other or not (_is_computed(one) and _is_computed(other)):
            return None
        for entry, branch in ((one, other), (other, one)):
            nodes = self._between(entry, branch)
            if nodes:
                return self._checked(add, entry, branch, entry, nodes)
        return self._projection(add, one, other)

    def _projection(self, add: NodeRef, one: ValueRef, other: ValueRef) -> ResidualBlock | str | None:
        first, second = self._ancestors(one), self._ancestors(other)
        common = first & second
        shared = _sources(first) & _sources(second)
        starts = [
            value
            for value in _sources((first | second) - common) & shared
            if value.producer() is None or value.producer() in common
        ]
        if not starts:
            return None
        entry = max(starts, key=self._start)
        sides = [self._between(entry, value) for value in (one, other)]
        counts = [sum(len(self._layers.get(node, ())) for node in nodes) for nodes in sides]
        if 0 in counts:
            return None
        if 1 not in counts:
            return "neither operand is a shortcut: both have several layers behind their common value"
        nodes = sides[0] | sides[1]
        beside = [
            value.name
            for node in self._in_order(nodes)
            for value in node.inputs
            if value is not None and _is_computed(value) and value != entry and value.producer() not in nodes
        ]
        if beside:
            return f"it has several inputs: {entry.name} and {beside[0]}"
        branch, shortcut = (one, other) if counts[1] == 1 else (other, one)
        return self._checked(add, entry, branch, shortcut, nodes)

    def _checked(
        self, add: NodeRef, entry: ValueRef, branch: ValueRef, shortcut: ValueRef, nodes: set[NodeRef]
    ) -> ResidualBlock | str | None:
        """Return the block; the reason where its values are read outside; None where it has no layer."""
        ordered = self._in_order(nodes)
        layers = tuple(dict.fromkeys(name for node in ordered for name in self._layers.get(node, ())))
        if not layers:
            return None
        inside = {*nodes, add}
        for node in ordered:
            for value in node.outputs:
                if value.is_output:
                    return f"{value.name}, a value inside it, is an output of the model"
                if any(reader not in inside for reader in value.uses()):
                    return f"{value.name}, a value inside it, is read elsewhere too"
        return ResidualBlock(add.name, entry, branch, shortcut, add.outputs[0], ordered, layers)

    def _in_order(self, nodes: Iterable[NodeRef]) -> tuple[NodeRef, ...]:
        return tuple(sorted(nodes, key=self._place.__getitem__))

    def _start(self, value: ValueRef) -> tuple[int, str]:
        """Return the place of the node that computes a value, -1 for inputs, and the value's name."""
        node = value.producer()
        return -1 if node is None else self._place[node], value.name

    def _ancestors(self, value: ValueRef, until: ValueRef | None = None) -> set[NodeRef]:
        """Return the nodes that compute a value, without those before ``until``."""
        found, pending = set[NodeRef](), [value]
        while pending:
            each = pending.pop()
            node = None if each == until else each.producer()
            if node is not None and node not in found and node in self._place:
                found.add(node)
                pending += [source for source in node.inputs if source is not None]
        return found

    def _between(self, entry: ValueRef, end: ValueRef) -> set[NodeRef]:
        """Return the nodes on paths from one value to another; empty where there is none."""
        reached = set[NodeRef]()
        for node in self._in_order(self._ancestors(end, entry)):
            sources = [value for value in node.inputs if value is not None]
            if entry in sources or any(value.producer() in reached for value in sources):
                reached.add(node)
        return reached if end.producer() in reached else set()


def _sources(nodes: Iterable[NodeRef]) -> set[ValueRef]:
    """Return the values that nodes read, without constants."""
    return {value for node in nodes for value in node.inputs if value is not None and _is_computed(value)}


def _is_computed(value: ValueRef) -> bool:
    return bool(value.name) and value.constant_shape is None


def layers_behind(model: ModelView, value: ValueRef, layers: Mapping[NodeRef, str]) -> set[str]:
    """Return the layers whose inputs depend on a value.

    Args:
        model: the model.
        value: the value.
        layers: by node, the layer it reads.
    """
    found, reached = set[str](), {value}
    for node in model.nodes():
        if not (node.scope or reached.isdisjoint(source for source in node.inputs if source is not None)):
            reached.update(node.outputs)
            if node in layers:
                found.add(layers[node])
    return found
