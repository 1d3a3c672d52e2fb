"""Fold an Add of one constant per channel into the bias of the layer before it.

    Conv, ConvTranspose   y = W * x + b + c            b' = b + c
    Gemm                  y = alpha A B + beta C + c   C' = beta C + c, beta' = 1

Some exporters write every bias as an Add. A runtime can fuse a layer, its bias and the Relu behind them only
if the bias is an input of the layer. Slice, Squeeze, Unsqueeze and Transpose may stand between layer and Add:
they keep each element in its channel, so the sum is the same before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_admm.contracts import Array, Edit, PassContext, PassReport, Skip
from onnx_admm.model import ModelView, NodeRef
from onnx_admm.selection.foldable import (
    BIASED,
    OLDEST_OPSET,
    Unfoldable,
    bias_of,
    fitting,
    per_channel,
    sole_producer,
    store_bias,
    stored,
)
from onnx_admm.selection.moved_channels import ChannelAxis, layer_in_front, moved, moves


@dataclass(frozen=True)
class FoldBias:
    """Fold every Add of one constant per channel behind a Conv, ConvTranspose or Gemm into its bias.

    An Add is left unchanged, with the reason in the report, where another node reads a value between the
    two, where a node between them selects some of the channels, where the layer's own bias is computed, or
    where the sum would not fit its type.
    """

    name: ClassVar[str] = "fold_bias"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def requires(self, model: ModelView, context: PassContext) -> None:
        """Accept any model; one without such an Add is left unchanged."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Fold what can be folded, report why the rest cannot, remove constants that nothing reads."""
        edits: list[Edit] = []
        skipped: list[Skip] = []
        for add in model.nodes("Add") if model.opset >= OLDEST_OPSET else ():
            name, place = add.name, _place_of_bias(add)
            if place is None:
                continue
            try:
                edits.append(Edit(_fold(model, add, place), f"folded Add {name} in"))
            except Unfoldable as reason:
                skipped.append(Skip(name, str(reason)))
        if edits:
            model.strip_unused()
        figures = {"folded": len(edits), "left": len(skipped)}
        return PassReport(bool(edits), tuple(edits), tuple(skipped), figures)


def _place_of_bias(add: NodeRef) -> int | None:
    """Return the index of an Add's constant operand where a layer computes the other, else None."""
    for place, value in enumerate(add.inputs):
        layer = layer_in_front(add.input(1 - place))
        if layer is not None and layer.op_type in BIASED and value is not None:
            return place if value.constant() is not None else None
    return None


def _fold(model: ModelView, add: NodeRef, place: int) -> str:
    """Fold one Add and return the layer's name; refuse before any change."""
    result, constant = add.input(1 - place), add.input(place)
    if result is None:
        raise Unfoldable("an operand is left out")
    layer, movers = sole_producer(add, result), list[NodeRef]()
    while moves(layer):
        movers.append(layer)
        layer = sole_producer(layer, layer.input(0))
    weight, added = stored(layer.input(1), "the layer's weight"), stored(constant, "what is added")
    channels = _channels(layer, weight)
    axes = ChannelAxis(1, 2 if layer.op_type == "Gemm" else weight.ndim)
    for mover in reversed(movers):
        axes = moved(mover, axes, channels)
    bias = bias_of(layer, channels) + per_channel(added, axes.rank, channels, axes.axis)
    store_bias(model, layer, fitting(bias, constant))
    model.bypass(add, result)
    return layer.name


def _channels(layer: NodeRef, weight: Array) -> int:
    """Return the channels of the layer's output."""
    match layer.op_type:
        case "Conv":
            return int(weight.shape[0])
        case "ConvTranspose":
            return int(weight.shape[1]) * int(layer.attribute("group", 1))
        case _:
            return int(weight.shape[0 if layer.attribute("transB", 0) else 1])
