"""Fold inference BatchNormalization into the linear operator before it.

With ``s = gamma / sqrt(var + epsilon)`` and ``t = beta - s * mean``, one of each per channel, an inference
BatchNormalization (opset 7 and above) is ``y = s * x + t``. Behind an operator linear in its weight it goes:

    Conv           W (c_out, c_in/g, k...)   W' = s W along axis 0                b' = s b + t
    ConvTranspose  W (c_in, c_out/g, k...)   W' = s W along axis 1 of each group  b' = s b + t
    Gemm           y = alpha A B + beta C    B' = s B along its output axis       C' = s beta C + t, beta' = 1
    MatMul         y = A B, a matrix         B' = s B along axis 1                t in an Add of its own

and where an Add of one constant c per channel stands between the two, ``c' = s c + t`` and ``b' = s b``.
Everything is computed in float64 and stored in the weight's own type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_admm.contracts import Array, Edit, PassContext, PassReport, Skip
from onnx_admm.model import ModelView, NodeRef, ValueRef, infer_shapes

_OLDEST_OPSET = 7
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class _Refusal(Exception):
    """Why one BatchNormalization stays; its text becomes the Skip's sentence."""


@dataclass(frozen=True, slots=True)
class _Affine:
    """``y = scale * x + shift``, one of each per channel, float64."""

    scale: Array  # (c,)
    shift: Array  # (c,)


@dataclass(frozen=True, slots=True)
class _Target:
    """The layer before a BatchNormalization, and the Add of a constant between them if there is one."""

    layer: NodeRef
    weight: ValueRef
    values: Array  # the weight in float64
    rank: int  # of the layer's output, whose axis 1 holds the channels
    add: NodeRef | None
    place: int  # input of ``add`` that holds the constant

    @property
    def has_bias_input(self) -> bool:
        """MatMul has none."""
        return self.layer.op_type != "MatMul"


@dataclass(frozen=True)
class FoldBatchNorm:
    """Folds every inference BatchNormalization behind a Conv, ConvTranspose, Gemm or MatMul into its weight.

    One is left alone, with the reason in the report, where the weight or the value between the two is used
    elsewhere, where anything involved is not a stored constant, or where the result would not fit its type.
    """

    name: ClassVar[str] = "fold_batchnorm"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def requires(self, model: ModelView, context: PassContext) -> None:
        """Any model will do; one without BatchNormalization is left unchanged."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Fold what can be folded, say why the rest cannot, drop the constants nothing reads any more."""
        found = model.nodes("BatchNormalization")
        ranks = {value: len(shape) for value, shape in infer_shapes(model).items()} if found else {}
        edits: list[Edit] = []
        skipped: list[Skip] = []
        for norm in found:
            name = norm.name
            try:
                edits.append(Edit(_fold(model, norm, ranks), f"took in BatchNormalization {name}"))
            except _Refusal as refusal:
                skipped.append(Skip(name, str(refusal)))
        if edits:
            model.strip_unused()
        figures = {"folded": len(edits), "left": len(skipped)}
        return PassReport(bool(edits), tuple(edits), tuple(skipped), figures)


def _fold(model: ModelView, norm: NodeRef, ranks: Mapping[ValueRef, int]) -> str:
    """Fold one BatchNormalization: the name of the layer that took it in. Refuses before any change."""
    affine = _affine(model, norm)
    target = _target(norm, ranks)
    layer, add, channels = target.layer, target.add, len(affine.scale)
    weight = _fitting(target, _scaled_weight(target, affine.scale))
    bias = affine.scale * _bias(layer, channels)
    offset = None if add is None else affine.scale * _offset(target, channels) + affine.shift
    stored_bias = _fitting(target, bias + affine.shift if offset is None else bias)
    stored_offset = (
        None if offset is None else _fitting(target, offset).reshape(-1, *(1,) * (target.rank - 2))
    )

    model.write(target.weight, weight)
    if target.has_bias_input and (add is None or layer.input(2) is not None):
        _store(model, layer, 2, stored_bias)
        if layer.attribute("beta", 1.0) != 1.0:
            model.set_attribute(layer, "beta", 1.0)
    if add is not None and stored_offset is not None:
        _store(model, add, target.place, stored_offset)
        model.bypass(norm, add.outputs[0])
    elif target.has_bias_input:
        model.bypass(norm, layer.outputs[0])
    else:
        added = model.replace_node(norm, "Add", [layer.outputs[0]])
        model.add_constant(added, 1, stored_bias, f"{layer.name}_bias")
    return layer.name


def _scaled_weight(target: _Target, scale: Array) -> Array:
    """The weight times ``scale`` along its output channels."""
    layer, weight = target.layer, target.values
    trailing = (1,) * (weight.ndim - 2)
    match layer.op_type:
        case "Conv":
            return weight * scale.reshape(-1, 1, *trailing)
        case "ConvTranspose":
            group = layer.attribute("group", 1)
            c_in, c_out_of_group, *kernel = weight.shape
            grouped = weight.reshape(group, c_in // group, c_out_of_group, *kernel)
            return (grouped * scale.reshape(group, 1, c_out_of_group, *trailing)).reshape(weight.shape)
        case "Gemm" if layer.attribute("transB", 0):
            return weight * scale[:, None]
        case _:
            return weight * scale


def _store(model: ModelView, node: NodeRef, place: int, array: Array) -> None:
    """Write a constant input of a node; a constant that others read too stays as it is for them."""
    old = node.input(place)
    if old is not None and len(old.uses()) == 1 and not old.is_output:
        model.write(old, array)
    else:
        model.add_constant(node, place, array, f"{node.name}_bias")


# -- what must hold --------------------------------------------------------------------------


def _affine(model: ModelView, norm: NodeRef) -> _Affine:
    if model.opset < _OLDEST_OPSET:
        raise _Refusal(f"BatchNormalization of opset {model.opset} is older than opset {_OLDEST_OPSET}")
    if norm.attribute("training_mode", 0) or any(output.name for output in norm.outputs[1:]):
        raise _Refusal("it runs in training mode: its statistics come from each batch")
    if not norm.attribute("spatial", 1):
        raise _Refusal("it normalises every activation by itself (spatial = 0)")
    gamma, beta, mean, variance = (_constant(norm.input(i), "one of its parameters") for i in range(1, 5))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + norm.attribute("epsilon", 1e-5))
    if not np.isfinite(scale).all():
        raise _Refusal("its variance is not positive")
    return _Affine(scale, beta - scale * mean)


def _target(norm: NodeRef, ranks: Mapping[ValueRef, int]) -> _Target:
    layer, add, place = _sole_producer(norm, norm.input(0)), None, 0
    if layer.op_type == "Add":
        add, place = layer, _constant_operand(layer)
        layer = _sole_producer(add, add.input(1 - place))
    if layer.op_type not in _LINEAR:
        raise _Refusal(f"what stands before it is {layer.op_type}, which has no weight to take it in")
    weight = layer.input(1)
    values = _constant(weight, "the layer's weight")
    if weight is None or weight.is_output or len(weight.uses()) != 1:
        raise _Refusal("the layer's weight is used elsewhere too")
    rank = values.ndim if layer.op_type.startswith("Conv") else 2
    if layer.op_type == "MatMul" and ranks.get(layer.outputs[0]) != 2:
        raise _Refusal(
            "the MatMul before it may give more than a matrix, whose columns are then not its channels"
        )
    return _Target(layer, weight, values, rank, add, place)


def _sole_producer(reader: NodeRef, value: ValueRef | None) -> NodeRef:
    """The node that computes ``value`` for ``reader`` and for nobody else."""
    producer = None if value is None else value.producer()
    if value is None or producer is None or not producer.shares_graph(reader):
        raise _Refusal("nothing in the same graph computes its input")
    if value.is_output or len(value.uses()) != 1:
        raise _Refusal(f"{value.name}, the value before it, is used elsewhere too")
    return producer


def _constant_operand(add: NodeRef) -> int:
    for place, value in enumerate(add.inputs):
        if value is not None and value.constant() is not None:
            return place
    raise _Refusal("what stands before it is Add of two computed values")


def _constant(value: ValueRef | None, what: str) -> Array:
    """The constant in float64."""
    array = None if value is None else value.constant()
    if array is None:
        raise _Refusal(f"{what} is not a stored constant")
    return array.astype(np.float64)


def _bias(layer: NodeRef, channels: int) -> Array:
    """What the layer itself adds to each channel, (c,)."""
    bias = layer.input(2)
    if bias is None:
        return np.zeros(channels)
    array = _constant(bias, "the layer's bias")
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
        raise _Refusal("the layer's bias differs from row to row")
    scaled: Array = float(layer.attribute("beta", 1.0)) * np.broadcast_to(array.reshape(-1), (channels,))
    return scaled


def _offset(target: _Target, channels: int) -> Array:
    """What the Add puts on each channel, (c,)."""
    value = None if target.add is None else target.add.input(target.place)
    array = _constant(value, "what is added before it")
    aligned = (1,) * (target.rank - array.ndim) + array.shape
    if len(aligned) != target.rank or any(extent != 1 for axis, extent in enumerate(aligned) if axis != 1):
        raise _Refusal("what is added before it is not one number per channel")
    return np.broadcast_to(array.reshape(-1), (channels,))


def _fitting(target: _Target, array: Array) -> Array:
    """``array`` in the type of the weight."""
    constant = target.weight.constant()
    with np.errstate(over="ignore"):
        stored = array if constant is None else array.astype(constant.dtype)
    if not np.isfinite(stored.astype(np.float64)).all():
        raise _Refusal(f"a folded value does not fit {stored.dtype}")
    return stored
