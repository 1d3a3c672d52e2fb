"""The place where a layer adds its bias: a constant for each output channel that corrects the means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Array, ModelView
from onnx_admm.model import NodeRef
from onnx_admm.model.rewrite.expose_values import WeightUse
from onnx_admm.selection.foldable import BIASED, Unfoldable, bias_of, store_bias, store_constant


@dataclass(frozen=True, slots=True)
class LayerBias:
    """The third input of Conv, ConvTranspose and Gemm, present or not; for a MatMul, that of the Add.

    Attributes:
        node: the node that adds it.
        place: which of the node's inputs it is.
    """

    node: NodeRef
    place: int

    def read(self, channels: int) -> Array:
        """Return the bias of each channel, float64 (channels,)."""
        if self.node.op_type in BIASED:
            return bias_of(self.node, channels)
        return np.broadcast_to(self._added().reshape(-1).astype(np.float64), (channels,))

    def store(self, model: ModelView, bias: Array) -> None:
        """Set the bias to ``bias``, (channels,)."""
        if self.node.op_type in BIASED:
            store_bias(model, self.node, bias)
        else:
            axes = (1,) * (self._added().ndim - 1)
            store_constant(model, self.node, self.place, bias.reshape(*axes, -1))

    def _added(self) -> Array:
        value = self.node.input(self.place)
        array = None if value is None else value.constant()
        if array is None:
            raise Unfoldable("the bias is not a stored constant")
        return array


def bias_behind(use: WeightUse, channels: int) -> LayerBias | None:
    """Return where a node adds a bias, or could; None where nothing adds one for each channel."""
    node = use.node
    if node.op_type in BIASED and use.index == 1:
        try:
            bias_of(node, channels)
        except Unfoldable:
            return None
        return LayerBias(node, 2)
    if node.op_type != "MatMul" or use.index != 1:
        return None
    output = node.outputs[0]
    readers = output.uses()
    if len(readers) != 1 or output.is_output or readers[0].op_type != "Add":
        return None
    return _added_to(output.name, readers[0], channels)


def _added_to(name: str, add: NodeRef, channels: int) -> LayerBias | None:
    place = next((i for i in (0, 1) if (value := add.input(i)) is not None and value.name != name), None)
    value = None if place is None else add.input(place)
    array = None if value is None else value.constant()
    if place is None or array is None or array.ndim < 1 or array.size != array.shape[-1]:
        return None
    return LayerBias(add, place) if array.size in (1, channels) else None
