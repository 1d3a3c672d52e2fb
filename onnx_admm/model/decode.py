"""Weights that standard operators compute from initializers alone: an encoded weight, decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model.constants import constant_tensor, stored_tensor
from onnx_admm.model.decoded_form import Shape, dtype_of, shape_of
from onnx_admm.model.evaluate import NotEvaluated, evaluate_node, is_evaluable
from onnx_admm.model.guards import expansion_limit

if TYPE_CHECKING:
    from onnx_admm.model.sites import WeightSite
    from onnx_admm.model.view import ModelView


@dataclass(frozen=True, slots=True)
class Decoded:
    """A weight and what it is stored as.

    Attributes:
        array: the dense weight.
        stored_bytes: bytes of the constants that feed this weight alone.
        shared_bytes: bytes of constants that feed it and something else too.
        stored_bits: bits of one element of the largest constant that feeds it.
    """

    array: npt.NDArray[Any]
    stored_bytes: int
    shared_bytes: int
    stored_bits: int


def decode_constant(view: ModelView, site: WeightSite | str) -> Decoded:
    """A site's dense weight and the bytes it is stored in, whether plain or encoded.

    Raises:
        UsageError: no such site.
    """
    return view.decoded(site)


@dataclass(slots=True)
class Workspace:
    """What one sweep over a model has computed: intermediate arrays, and values that are not constant."""

    arrays: dict[ir.Value, npt.NDArray[Any]] = field(default_factory=dict)
    dynamic: set[ir.Value] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Cone:
    """Everything a value is computed from: nodes in order, constants."""

    target: ir.Value
    nodes: tuple[ir.Node, ...]
    leaves: tuple[ir.Value, ...]

    def parts(self) -> tuple[object, ...]:
        """The objects whose identity decides whether the value is still the same."""
        nodes: Iterator[object] = (
            part for node in self.nodes for part in (node, *node.inputs, *node.attributes.values())
        )
        return (*nodes, *(stored_tensor(leaf) for leaf in self.leaves))

    def split_bytes(self) -> tuple[int, int]:
        """Bytes of the constants that feed the target alone, and of those that feed more."""
        inside, shared = set(self.nodes), set[ir.Node]()
        for node in reversed(self.nodes):
            outputs = (value for value in node.outputs if value is not self.target)
            if any(value.is_graph_output() or _leaves(value, inside, shared) for value in outputs):
                shared.add(node)
        own = common = 0
        for leaf in self.leaves:
            tensor = stored_tensor(leaf)
            size = tensor.nbytes if tensor is not None else 0
            if leaf is not self.target and _leaves(leaf, inside, shared):
                common += size
            else:
                own += size
        return own, common


def _leaves(value: ir.Value, inside: set[ir.Node], shared: set[ir.Node]) -> bool:
    return any(use.node not in inside or use.node in shared for use in value.uses())


_KEPT_BYTES = 1 << 20
"""Arrays up to this size are remembered; larger ones are decoded again each time somebody reads them."""


class Decoder:
    """Decodes the values of one model and remembers what is small and has not changed since."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, tuple[tuple[object, ...], npt.NDArray[Any]]] = {}

    def decode(self, value: ir.Value, opset: int, workspace: Workspace) -> npt.NDArray[Any] | None:
        """The array behind ``value``; None where it depends on an input or on an operator that is not run."""
        cone = cone_of(value, workspace)
        if cone is None:
            return None
        parts = cone.parts()
        known = self._known.get(value)
        if known is not None and _same(known[0], parts):
            return known[1]
        array = _evaluate(cone, opset, workspace)
        if array is None:
            workspace.dynamic.add(value)
            return None
        if array.nbytes <= _KEPT_BYTES:
            array.setflags(write=False)
            self._known[value] = (parts, array)
        return array

    def form(
        self, value: ir.Value, opset: int, workspace: Workspace
    ) -> tuple[Shape, np.dtype[np.generic]] | None:
        """Shape and element type of what ``decode`` gives; a large array is seldom decoded for it."""
        shape, dtype, cone = shape_of(value), dtype_of(value), cone_of(value, workspace)
        if shape is not None and dtype is not None and cone is not None:
            size = math.prod(shape)
            if size * dtype.itemsize > _KEPT_BYTES and size <= _limit(cone):
                return shape, dtype
        array = self.decode(value, opset, workspace)
        return None if array is None else (array.shape, array.dtype)

    def describe(self, value: ir.Value, opset: int) -> Decoded:
        """The array behind ``value`` with the bytes it is stored in.

        Raises:
            UsageError: the value is not computed from constants.
        """
        workspace = Workspace()
        cone, array = cone_of(value, workspace), self.decode(value, opset, workspace)
        if cone is None or array is None:
            raise UsageError("not computed from constants alone", where=value.name)
        own, common = cone.split_bytes()
        tensors = [tensor for leaf in cone.leaves if (tensor := stored_tensor(leaf)) is not None]
        largest = max(tensors, key=lambda tensor: tensor.nbytes)
        return Decoded(np.array(array), own, common, int(largest.dtype.bitwidth))


def _same(left: tuple[object, ...], right: tuple[object, ...]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def cone_of(target: ir.Value, workspace: Workspace) -> Cone | None:
    """What ``target`` is computed from; None where that is more than constants and known operators.

    The target itself may be a default.
    """
    nodes: dict[ir.Node, None] = {}
    leaves: dict[ir.Value, None] = {}
    pending: list[tuple[ir.Value, bool]] = [(target, False)]
    while pending:
        value, ready = pending.pop()
        producer = value.producer()
        if ready and producer is not None:
            nodes.setdefault(producer)
        elif value in leaves or producer in nodes:
            continue
        elif (stored_tensor if value is target else constant_tensor)(value) is not None:
            leaves.setdefault(value)
        elif value in workspace.dynamic or producer is None or not is_evaluable(producer):
            workspace.dynamic.update((value, target))
            return None
        else:
            pending.append((value, True))
            pending.extend((operand, False) for operand in producer.inputs if operand is not None)
    return Cone(target, tuple(nodes), tuple(leaves)) if leaves else None


def _evaluate(cone: Cone, opset: int, workspace: Workspace) -> npt.NDArray[Any] | None:
    arrays, limit = workspace.arrays, _limit(cone)
    for leaf in cone.leaves:
        tensor = stored_tensor(leaf)
        if tensor is not None and leaf not in arrays:
            arrays[leaf] = np.asarray(tensor.numpy())
    for node in cone.nodes:
        if all(output in arrays for output in node.outputs):
            continue
        inputs = [None if value is None else arrays[value] for value in node.inputs]
        try:
            outputs = evaluate_node(node, inputs, opset, limit)
        except NotEvaluated:
            return None
        arrays.update(zip(node.outputs, outputs, strict=True))
    return arrays[cone.target]


def _limit(cone: Cone) -> int:
    """Most elements that any array may have on the way."""
    tensors = (stored_tensor(leaf) for leaf in cone.leaves)
    return expansion_limit(sum(tensor.nbytes for tensor in tensors if tensor is not None)) // 4
