"""Weights that standard operators compute from initializers alone: encoded weights, decoded."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.limits import RunBudget, current_budget
from onnx_admm.model.constants import constant_tensor, stored_tensor
from onnx_admm.model.files.guards import expansion_limit
from onnx_admm.model.folding.evaluate import NotEvaluated, evaluate_node, is_evaluable
from onnx_admm.model.folding.static_form import Form, Shape, form_of


@dataclass(frozen=True, slots=True)
class Decoded:
    """A weight and its stored size.

    Attributes:
        array: the dense weight.
        stored_bytes: bytes of the constants that feed this weight alone.
        shared_bytes: bytes of constants that feed it and other values too.
        stored_bits: bits of one element of the largest constant that feeds it.
    """

    array: npt.NDArray[Any]
    stored_bytes: int
    shared_bytes: int
    stored_bits: int


_STEP = 256
"""Operations that a node towards a weight counts as, in addition to its output elements."""


@dataclass(slots=True)
class Workspace:
    """Results of one sweep over a model, and arrays that several weights are computed from.

    Attributes:
        dynamic: values that are not constant.
        constant: values that known operators compute from constants.
        forms: shapes and types of values.
        subgraphs: subgraphs that compute values; None for those that are not constant.
        budget: budget of the decoding.
    """

    dynamic: set[ir.Value] = field(default_factory=set)
    constant: set[ir.Value] = field(default_factory=set)
    forms: dict[ir.Value, Form] = field(default_factory=dict)
    subgraphs: dict[ir.Value, Subgraph | None] = field(default_factory=dict)
    budget: RunBudget = field(default_factory=current_budget)
    _shared: OrderedDict[ir.Value, npt.NDArray[Any]] = field(default_factory=OrderedDict)
    _shared_bytes: int = 0

    def shared(self, value: ir.Value) -> npt.NDArray[Any] | None:
        """Return the array of a value, if it was kept."""
        array = self._shared.get(value)
        if array is not None:
            self._shared.move_to_end(value)
        return array

    def share(self, value: ir.Value, array: npt.NDArray[Any]) -> None:
        """Keep an array that other weights need too; the oldest are dropped when the cache is full."""
        limit = self.budget.keep_limit // 4
        if array.nbytes > limit or value in self._shared:
            return
        self._shared[value] = array
        self._shared_bytes += array.nbytes
        while self._shared_bytes > limit:
            self._shared_bytes -= self._shared.popitem(last=False)[1].nbytes


@dataclass(frozen=True, slots=True)
class Subgraph:
    """All nodes, in order, and constants that a value is computed from."""

    target: ir.Value
    nodes: tuple[ir.Node, ...]
    constants: tuple[ir.Value, ...]

    def parts(self) -> tuple[object, ...]:
        """Return the objects whose identity decides whether the value is still the same."""
        nodes: Iterator[object] = (
            part for node in self.nodes for part in (node, *node.inputs, *node.attributes.values())
        )
        return (*nodes, *(stored_tensor(constant) for constant in self.constants))

    def split_bytes(self) -> tuple[int, int]:
        """Return the bytes of the constants that feed the target alone, and of those that feed more."""
        inside, shared = set(self.nodes), set[ir.Node]()
        for node in reversed(self.nodes):
            outputs = (value for value in node.outputs if value is not self.target)
            if any(value.is_graph_output() or _is_used_outside(value, inside, shared) for value in outputs):
                shared.add(node)
        own = common = 0
        for constant in self.constants:
            tensor = stored_tensor(constant)
            size = tensor.nbytes if tensor is not None else 0
            if constant is not self.target and _is_used_outside(constant, inside, shared):
                common += size
            else:
                own += size
        return own, common


def _is_used_outside(value: ir.Value, inside: set[ir.Node], shared: set[ir.Node]) -> bool:
    return any(use.node not in inside or use.node in shared for use in value.uses())


_KEPT_BYTES = 1 << 20
"""Size up to which arrays are kept; larger ones are decoded again on each access."""


class Decoder:
    """Decodes the values of one model; keeps small results while they are valid."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, tuple[tuple[object, ...], npt.NDArray[Any]]] = {}

    def decode(self, value: ir.Value, opset: int, workspace: Workspace) -> npt.NDArray[Any] | None:
        """Return the array of ``value``; None where it depends on an input or an unsupported operator."""
        subgraph = subgraph_of(value, workspace)
        if subgraph is None:
            return None
        parts = subgraph.parts()
        known = self._known.get(value)
        if known is not None and _same(known[0], parts):
            return known[1]
        array = _evaluate(subgraph, opset, workspace)
        if array is None:
            workspace.dynamic.add(value)
            return None
        if array.nbytes <= _KEPT_BYTES:
            array = array.copy() if array.base is not None else array
            array.setflags(write=False)
            self._known[value] = (parts, array)
        return array

    def told(self, value: ir.Value, workspace: Workspace) -> Form | None:
        """Return the shape and type of ``decode``'s result, as far as known without it; else None."""
        return form_of(value, workspace.forms) if is_computed(value, workspace) else None

    def form(
        self, value: ir.Value, opset: int, workspace: Workspace
    ) -> tuple[Shape, np.dtype[np.generic]] | None:
        """Return shape and element type of ``decode``'s result, mostly without decoding large arrays."""
        subgraph = subgraph_of(value, workspace)
        if subgraph is None:
            return None
        form = form_of(value, workspace.forms)
        if form.shape is not None and form.dtype is not None:
            size = math.prod(form.shape)
            if size * form.dtype.itemsize > _KEPT_BYTES and size <= _limit(subgraph):
                return form.shape, form.dtype
        array = self.decode(value, opset, workspace)
        return None if array is None else (array.shape, array.dtype)

    def describe(self, value: ir.Value, opset: int) -> Decoded:
        """Return the array of ``value`` with its stored bytes.

        Raises:
            UsageError: the value is not computed from constants.
        """
        workspace = Workspace()
        subgraph, array = subgraph_of(value, workspace), self.decode(value, opset, workspace)
        if subgraph is None or array is None:
            raise UsageError("not computed from constants alone", where=value.name)
        own, common = subgraph.split_bytes()
        tensors = [
            tensor for constant in subgraph.constants if (tensor := stored_tensor(constant)) is not None
        ]
        largest = max(tensors, key=lambda tensor: tensor.nbytes)
        return Decoded(np.array(array), own, common, int(largest.dtype.bitwidth))


def _same(left: tuple[object, ...], right: tuple[object, ...]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def subgraph_of(target: ir.Value, workspace: Workspace) -> Subgraph | None:
    """Return the subgraph that computes ``target``; None unless it has only constants and known operators.

    The target itself may be a default.
    """
    if target in workspace.dynamic or not is_computed(target, workspace):
        return None
    if target not in workspace.subgraphs:
        workspace.subgraphs[target] = _find_subgraph(target, workspace)
    return workspace.subgraphs[target]


def _find_subgraph(target: ir.Value, workspace: Workspace) -> Subgraph | None:
    nodes: dict[ir.Node, None] = {}
    constants: dict[ir.Value, None] = {}
    pending: list[tuple[ir.Value, bool]] = [(target, False)]
    while pending:
        value, ready = pending.pop()
        producer = value.producer()
        if ready and producer is not None:
            nodes.setdefault(producer)
        elif value in constants or producer in nodes:
            continue
        elif (stored_tensor if value is target else constant_tensor)(value) is not None:
            constants.setdefault(value)
        elif value in workspace.dynamic or producer is None:
            workspace.dynamic.add(target)
            return None
        else:
            pending.append((value, True))
            pending.extend((operand, False) for operand in producer.inputs if operand is not None)
    workspace.budget.operate(_STEP * len(nodes), "looking for encoded weights")
    return Subgraph(target, tuple(nodes), tuple(constants)) if constants else None


def is_computed(target: ir.Value, workspace: Workspace) -> bool:
    """Return whether a value is stored, or known operators compute it from constants."""
    if stored_tensor(target) is not None:
        return True
    constant, dynamic = workspace.constant, workspace.dynamic
    pending = [target]
    while pending and target not in dynamic:
        value = pending[-1]
        if value in constant or value in dynamic:
            pending.pop()
            continue
        producer = value.producer()
        if constant_tensor(value) is not None:
            constant.add(value)
        elif producer is None or not is_evaluable(producer):
            dynamic.add(value)
        else:
            operands = [operand for operand in producer.inputs if operand is not None]
            if any(operand in dynamic for operand in operands):
                dynamic.add(value)
            elif unknown := [operand for operand in operands if operand not in constant]:
                pending.extend(unknown)
            else:
                constant.add(value)
    return target not in dynamic


def _evaluate(subgraph: Subgraph, opset: int, workspace: Workspace) -> npt.NDArray[Any] | None:
    """Return the target's array; free intermediate results after their last reader."""
    arrays: dict[ir.Value, npt.NDArray[Any]] = {}
    nodes, inside, limit = _needed(subgraph, workspace, arrays), set(subgraph.nodes), _limit(subgraph)
    readers = Counter(value for node in nodes for value in node.inputs if value is not None)
    readers[subgraph.target] += 1
    for node in nodes:
        inputs = [None if value is None else _input(value, arrays) for value in node.inputs]
        try:
            outputs = evaluate_node(node, inputs, opset, limit, workspace.budget)
        except NotEvaluated:
            return None
        for value, array in zip(node.outputs, outputs, strict=True):
            if any(use.node not in inside for use in value.uses()):
                workspace.share(value, array)
            if readers[value]:
                arrays[value] = array
        del inputs, outputs
        for operand in node.inputs:
            if operand is not None:
                readers[operand] -= 1
                if not readers[operand]:
                    arrays.pop(operand, None)
    return _input(subgraph.target, arrays)


def _needed(
    subgraph: Subgraph, workspace: Workspace, arrays: dict[ir.Value, npt.NDArray[Any]]
) -> list[ir.Node]:
    """Return the nodes from ``arrays`` to the target; add shared arrays to ``arrays``."""
    needed, nodes = {subgraph.target}, list[ir.Node]()
    for node in reversed(subgraph.nodes):
        needed_outputs = [value for value in node.outputs if value in needed]
        for value in needed_outputs:
            if (array := workspace.shared(value)) is not None:
                arrays[value] = array
        if any(value not in arrays for value in needed_outputs):
            nodes.append(node)
            needed.update(value for value in node.inputs if value is not None)
    return nodes[::-1]


def _input(value: ir.Value, arrays: dict[ir.Value, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    tensor = None if value in arrays else stored_tensor(value)
    if tensor is None:
        return arrays[value]
    array = np.asarray(tensor.numpy())
    arrays[value] = array
    return array


def _limit(subgraph: Subgraph) -> int:
    """Return the most elements of any intermediate array."""
    tensors = (stored_tensor(constant) for constant in subgraph.constants)
    return expansion_limit(sum(tensor.nbytes for tensor in tensors if tensor is not None)) // 4
