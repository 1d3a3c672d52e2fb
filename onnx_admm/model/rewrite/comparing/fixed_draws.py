"""Copies of models that draw random numbers, with the same draws in every run, for measurements.

A model that draws differs from itself from one run to the next, so outputs cannot be compared. In the copy a
table of numbers, drawn once, replaces each random operator and is read repeatedly:

    flat = table[range(size) mod len(table)],  draws = reshape(flat, shape)

Operators are numbered in graph order, and each number has a table of its own, so a model and its compressed
form draw the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import taken_names
from onnx_admm.model.rewrite.comparing.node_writer import NodeWriter
from onnx_admm.model.view import ModelView

Array = npt.NDArray[Any]

_LENGTH = 8191
"""Numbers in a table: a prime, so that rows of a tensor do not repeat one another."""

_LEAST_OPSET = 11
_OPSET_OF_ALLOWZERO, _OPSET_OF_CASTLIKE = 14, 15
_FLOAT, _LONG, _BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
_DROPOUT_RATIO = 0.5


def random_operators(view: ModelView) -> Mapping[str, int]:
    """Return the number of nodes that draw random numbers, by operator, subgraphs and functions included."""
    return Counter(node.op_type for node, _ in _random_nodes(view.graph_ir))


def with_fixed_draws(view: ModelView) -> ModelView:
    """Return the model, or a fork whose random operators give the same numbers in every run.

    A distribution stays the same; consecutive numbers are independent up to the length of the table. Models
    of an opset below 11 are left unchanged.
    """
    if view.opset < _LEAST_OPSET or not random_operators(view):
        return view
    fork = view.fork()
    model = fork.graph_ir
    taken = taken_names(model)
    for number, (node, nodes) in enumerate(list(_random_nodes(model))):
        writer = _Writer(taken, view.opset, np.random.default_rng((number, 0)))
        drawn = _FORMS[node.op_type](node, writer)
        writer.replace(node, drawn, nodes)
    return fork


def _random_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Graph | ir.Function]]:
    """Yield the random nodes, and the graph or function of each."""
    places: tuple[ir.Graph | ir.Function, ...] = (*model.graphs(), *model.functions.values())
    for place in places:
        for node in place:
            if node.domain in ("", "ai.onnx") and node.op_type in _FORMS and _draws(node):
                yield node, place


def _draws(node: ir.Node) -> bool:
    """Return whether a node draws: a Dropout only in training mode."""
    if node.op_type != "Dropout":
        return True
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return False
    tensor = constant_tensor(mode)
    return tensor is None or bool(tensor.numpy())


class _Writer(NodeWriter):
    """Adds nodes to a graph that read tables of random numbers."""

    def __init__(self, taken: set[str | None], opset: int, rng: np.random.Generator) -> None:
        super().__init__(taken, "fixed_draw")
        self._opset, self._rng = opset, rng

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Array:
        """Return a table of uniform numbers, below ``high``."""
        return np.minimum(self._rng.uniform(low, high, _LENGTH).astype(np.float32), np.float32(high))

    def normal(self, mean: float, scale: float) -> Array:
        """Return a table of normal numbers."""
        return self._rng.normal(mean, scale, _LENGTH).astype(np.float32)

    def spread(self, table: Array, shape: ir.Value) -> ir.Value:
        """Return a tensor of the given shape, filled by repetition of the table."""
        size = self.add("ReduceProd", [shape], _LONG, keepdims=0)
        wrapped = self.add("Mod", [self.counted(size), self.constant(np.array(_LENGTH))], _LONG)
        flat = self.add("Gather", [self.constant(table), wrapped], _FLOAT)
        allowed = {"allowzero": 1} if self._opset >= _OPSET_OF_ALLOWZERO else {}
        return self.add("Reshape", [flat, shape], _FLOAT, **allowed)

    def cast_like(self, value: ir.Value, like: ir.Value | None) -> ir.Value:
        """Return a value in the type of another one, as far as that is known."""
        if self._opset >= _OPSET_OF_CASTLIKE:
            return self.add("CastLike", [value, like], _FLOAT)
        dtype = None if like is None else like.dtype
        return value if dtype is None else self.add("Cast", [value], dtype, to=dtype)


def _number(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.value


def _shape(node: ir.Node, writer: _Writer) -> ir.Value:
    """Return the shape of a node's draws: of its input, or its attribute."""
    if node.op_type.endswith("Like") or node.op_type == "Bernoulli":
        return writer.shape_of(node.inputs[0])
    return writer.constant(np.array(_number(node, "shape", ()), np.int64))


def _table_form(node: ir.Node, writer: _Writer) -> list[ir.Value]:
    """Return the draws of RandomNormal, RandomUniform and their ``Like`` forms."""
    if "Normal" in node.op_type:
        table = writer.normal(_number(node, "mean", 0.0), _number(node, "scale", 1.0))
    else:
        table = writer.uniform(_number(node, "low", 0.0), _number(node, "high", 1.0))
    drawn = writer.spread(table, _shape(node, writer))
    return [_as_asked(node, drawn, writer)]


def _bernoulli(node: ir.Node, writer: _Writer) -> list[ir.Value]:
    """Return ``u < p``."""
    drawn = writer.spread(writer.uniform(), _shape(node, writer))
    shares = writer.add("Cast", [node.inputs[0]], _FLOAT, to=_FLOAT)
    return [_as_asked(node, writer.add("Less", [drawn, shares], _BOOL), writer)]


def _multinomial(node: ir.Node, writer: _Writer) -> list[ir.Value]:
    """Return ``argmax(logits + g)`` for each sample, with g from the standard Gumbel distribution."""
    count = int(_number(node, "sample_size", 1))
    logits = writer.add("Cast", [node.inputs[0]], _FLOAT, to=_FLOAT)
    one, many = (writer.constant(np.array([n], np.int64)) for n in (1, count))
    classes = writer.shape_of(node.inputs[0])
    scores = writer.add("Reshape", [logits, writer.add("Concat", [classes, one], _LONG, axis=0)], _FLOAT)
    shape = writer.add("Concat", [classes, many], _LONG, axis=0)
    gumbel = -np.log(-np.log(np.clip(writer.uniform().astype(np.float64), 1e-7, 1 - 1e-7)))
    noisy = writer.add("Add", [scores, writer.spread(gumbel.astype(np.float32), shape)], _FLOAT)
    best = writer.add("ArgMax", [noisy], _LONG, axis=1, keepdims=0)
    dtype = ir.DataType(_number(node, "dtype", int(ir.DataType.INT32)))
    return [writer.add("Cast", [best], dtype, to=dtype)]


def _dropout(node: ir.Node, writer: _Writer) -> list[ir.Value]:
    """Return ``x * (u >= r) / (1 - r)``, with ``r = 0`` outside training."""
    data, *rest = node.inputs
    ratio = rest[0] if rest and rest[0] is not None else writer.constant(np.array(_DROPOUT_RATIO, np.float32))
    trains = writer.add("Cast", [rest[1]], _FLOAT, to=_FLOAT)
    share = writer.add("Mul", [writer.add("Cast", [ratio], _FLOAT, to=_FLOAT), trains], _FLOAT)
    drawn = writer.spread(writer.uniform(), writer.shape_of(data))
    mask = writer.add("Not", [writer.add("Less", [drawn, share], _BOOL)], _BOOL)
    left = writer.add("Sub", [writer.constant(np.array(1, np.float32)), share], _FLOAT)
    factor = writer.add("Div", [writer.add("Cast", [mask], _FLOAT, to=_FLOAT), left], _FLOAT)
    kept = writer.add("Mul", [data, writer.cast_like(factor, data)], _FLOAT)
    return [kept, mask]


def _as_asked(node: ir.Node, drawn: ir.Value, writer: _Writer) -> ir.Value:
    """Return the draws in the type of the node's output: the stated one, or its input's."""
    stated = _number(node, "dtype", None)
    if stated is not None:
        return writer.add("Cast", [drawn], ir.DataType(stated), to=ir.DataType(stated))
    if node.inputs:
        return writer.cast_like(drawn, node.inputs[0])
    return drawn


_FORMS: Mapping[str, Callable[[ir.Node, _Writer], list[ir.Value]]] = {
    "Bernoulli": _bernoulli,
    "Dropout": _dropout,
    "Multinomial": _multinomial,
    "RandomNormal": _table_form,
    "RandomNormalLike": _table_form,
    "RandomUniform": _table_form,
    "RandomUniformLike": _table_form,
}
