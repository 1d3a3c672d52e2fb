"""Fold inference BatchNormalization into the linear operator before it.

With ``s = gamma / sqrt(var + epsilon)`` and ``t = beta - s * mean``, one of each for each channel, an
inference BatchNormalization (opset 7 and above) is ``y = s * x + t``. After an operator that is linear in its
weight it is folded:

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
from onnx_admm.selection.foldable import (
    BIASED,
    OLDEST_OPSET,
    Unfoldable,
    bias_of,
    fitting,
    per_channel,
    sole_producer,
    store_bias,
    store_constant,
    stored,
)

_LINEAR = (*BIASED, "MatMul")


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
        """Whether the operator has a bias input; MatMul has none."""
        return self.layer.op_type != "MatMul"


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold every inference BatchNormalization behind a Conv, ConvTranspose, Gemm or MatMul into its weight.

    A BatchNormalization is left unchanged, with the reason in the report, where the weight or the value
    between the two is
    used elsewhere, where anything involved is not a stored constant, or where the result would not fit its
    type.
    """

    name: ClassVar[str] = "fold_batchnorm"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def requires(self, model: ModelView, context: PassContext) -> None:
        """Accept any model; one without BatchNormalization is left unchanged."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Fold what can be folded, report why the rest cannot, remove constants that nothing reads."""
        found = model.nodes("BatchNormalization")
        ranks = {value: len(shape) for value, shape in infer_shapes(model).items()} if found else {}
        edits: list[Edit] = []
        skipped: list[Skip] = []
        for norm in found:
            name = norm.name
            try:
                edits.append(Edit(_fold(model, norm, ranks), f"folded BatchNormalization {name} in"))
            except Unfoldable as reason:
                skipped.append(Skip(name, str(reason)))
        if edits:
            model.strip_unused()
        figures = {"folded": len(edits), "left": len(skipped)}
        return PassReport(bool(edits), tuple(edits), tuple(skipped), figures)


def _fold(model: ModelView, norm: NodeRef, ranks: Mapping[ValueRef, int]) -> str:
    """Fold one BatchNormalization and return the layer's name; refuse before any change."""
    affine = _affine(model, norm)
    target = _target(norm, ranks)
    layer, add, channels = target.layer, target.add, len(affine.scale)
    weight = fitting(_scaled_weight(target, affine.scale), target.weight)
    bias = affine.scale * bias_of(layer, channels) + (affine.shift if add is None else 0.0)
    stored_bias = fitting(bias, target.weight)
    offset = None if add is None else _scaled_offset(target, affine)

    model.write(target.weight, weight)
    if target.has_bias_input and (add is None or layer.input(2) is not None):
        store_bias(model, layer, stored_bias)
    if add is not None and offset is not None:
        store_constant(model, add, target.place, offset)
        model.bypass(norm, add.outputs[0])
    elif target.has_bias_input:
        model.bypass(norm, layer.outputs[0])
    else:
        added = model.replace_node(norm, "Add", [layer.outputs[0]])
        model.add_constant(added, 1, stored_bias, f"{layer.name}_bias")
    return layer.name


def _scaled_offset(target: _Target, affine: _Affine) -> Array:
    """Return the new constant of the Add: ``s c + t``."""
    value = None if target.add is None else target.add.input(target.place)
    offset = per_channel(stored(value, "what is added"), target.rank, len(affine.scale))
    scaled = fitting(affine.scale * offset + affine.shift, target.weight)
    return scaled.reshape(-1, *(1,) * (target.rank - 2))


def _scaled_weight(target: _Target, scale: Array) -> Array:
    """Return the weight times ``scale`` along its output channels."""
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


# -- what must hold --------------------------------------------------------------------------


def _affine(model: ModelView, norm: NodeRef) -> _Affine:
    if model.opset < OLDEST_OPSET:
        raise Unfoldable(f"BatchNormalization of opset {model.opset} is older than opset {OLDEST_OPSET}")
    if norm.attribute("training_mode", 0) or any(output.name for output in norm.outputs[1:]):
        raise Unfoldable("it runs in training mode: its statistics come from each batch")
    if not norm.attribute("spatial", 1):
        raise Unfoldable("it normalises every activation by itself (spatial = 0)")
    gamma, beta, mean, variance = (stored(norm.input(i), "one of its parameters") for i in range(1, 5))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + norm.attribute("epsilon", 1e-5))
    if not np.isfinite(scale).all():
        raise Unfoldable("its variance is not positive")
    return _Affine(scale, beta - scale * mean)


def _target(norm: NodeRef, ranks: Mapping[ValueRef, int]) -> _Target:
    layer, add, place = sole_producer(norm, norm.input(0)), None, 0
    if layer.op_type == "Add":
        add, place = layer, _constant_operand(layer)
        layer = sole_producer(add, add.input(1 - place))
    if layer.op_type not in _LINEAR:
        raise Unfoldable(f"the node before it is {layer.op_type}, which has no weight to fold it into")
    weight = layer.input(1)
    values = stored(weight, "the layer's weight")
    if weight is None or weight.is_output or len(weight.uses()) != 1:
        raise Unfoldable("the layer's weight is used elsewhere too")
    rank = values.ndim if layer.op_type.startswith("Conv") else 2
    if layer.op_type == "MatMul" and values.ndim != 2:
        raise Unfoldable(
            f"the MatMul before it multiplies by a constant of {values.ndim} axes: axis 1 of the output is "
            "not an axis of that constant"
        )
    if layer.op_type == "MatMul" and ranks.get(layer.outputs[0]) != 2:
        raise Unfoldable(
            "the output of the MatMul before it may have more than two axes, so columns may not be channels"
        )
    return _Target(layer, weight, values, rank, add, place)


def _constant_operand(add: NodeRef) -> int:
    for place, value in enumerate(add.inputs):
        if value is not None and value.constant() is not None:
            return place
    raise Unfoldable("the node before it is an Add of two computed values")
