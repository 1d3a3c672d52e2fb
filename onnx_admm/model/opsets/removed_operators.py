"""Operators that ONNX gave up, written as those that took their place: no newer opset has them.

Source: the experimental operators of ONNX 1.2, as ONNX Runtime computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnx_admm.model.edit import new_initializer
from onnx_admm.model.operators import STANDARD

_END = 2**31 - 1

_FIRST_OTHER_SLICE = 10
"""The opset from which Slice takes its ends as inputs; no file has a Crop there."""


def write_out_removed(graph: ir.Graph, opset: int) -> None:
    """Replace them in place; the values keep their names."""
    for node in list(graph):
        write = _FORMS.get(node.op_type)
        if write is _crop and opset >= _FIRST_OTHER_SLICE:
            continue
        if write is None or node.domain not in STANDARD or node.inputs[0] is None:
            continue
        write(graph, node, node.inputs[0])
        graph.remove(node, safe=False)


def _replace(graph: ir.Graph, node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Put nodes in front of one, whose output the last of them gives."""
    graph.insert_before(node, nodes)
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.type, new.shape, name = old.type, old.shape, old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name = f"admm::removed::{name}"
    new.name = name


def _constant(
    graph: ir.Graph, node: ir.Node, role: str, values: Sequence[float], shape: Sequence[int]
) -> ir.Value:
    array = np.asarray(values, np.float32).reshape(shape)
    return new_initializer(graph, f"admm::{role}::{node.outputs[0].name}", array)


def _scaled_and_shifted(
    graph: ir.Graph, node: ir.Node, x: ir.Value, factor: float, summand: Sequence[float]
) -> None:
    shape = (1, len(summand), 1, 1) if len(summand) > 1 else (1,)
    product = ir.node("Mul", [x, _constant(graph, node, "scale", [factor], (1,))])
    total = ir.node("Add", [product.outputs[0], _constant(graph, node, "shift", summand, shape)])
    _replace(graph, node, [product, total])


def _image_scaler(graph: ir.Graph, node: ir.Node, x: ir.Value) -> None:
    """scale x + bias, a bias for each channel."""
    bias = node.attributes.get_floats("bias", [0.0])
    _scaled_and_shifted(graph, node, x, node.attributes.get_float("scale", 1.0), bias)


def _affine(graph: ir.Graph, node: ir.Node, x: ir.Value) -> None:
    """alpha x + beta."""
    alpha, beta = (node.attributes.get_float(name, 1.0 - i) for i, name in enumerate(("alpha", "beta")))
    _scaled_and_shifted(graph, node, x, alpha, [beta])


def _crop(graph: ir.Graph, node: ir.Node, x: ir.Value) -> None:
    """Images (n, c, h, w) without their border (left, top, right, bottom), or cut to a height and width."""
    left, top, right, bottom = node.attributes.get_ints("border", [0, 0, 0, 0])
    scale = node.attributes.get_ints("scale", [])
    ends = [top + scale[0], left + scale[1]] if scale else [-bottom or _END, -right or _END]
    _replace(graph, node, [ir.node("Slice", [x], {"axes": [2, 3], "starts": [top, left], "ends": ends})])


_FORMS: dict[str, Callable[[ir.Graph, ir.Node, ir.Value], None]] = {
    "ImageScaler": _image_scaler,
    "Affine": _affine,
    "Crop": _crop,
}
