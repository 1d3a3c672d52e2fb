"""Stored integers in a graph: constants that are kept once, and DequantizeLinear nodes that read them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.edit import free_name, new_initializer, taken_names
from onnx_admm.model.view import ModelView


class StoredIntegers:
    """Adds constants to the main graph of a model; equal ones are stored once.

    Args:
        view: the model, changed in place.

    Attributes:
        taken: names of all values.
    """

    def __init__(self, view: ModelView) -> None:
        self._graph = view.graph_ir.graph
        self.taken = taken_names(view.graph_ir)
        self._known: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """Return the initializer of that content; ``name`` gets a number if it is taken."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = new_initializer(self._graph, free_name(name, self.taken), array)
        return self._known[key]

    def dequantized(
        self,
        node: ir.Node,
        name: str,
        codes: npt.NDArray[np.int8] | npt.NDArray[np.int32],
        scales: npt.NDArray[np.float32],
        axis: int,
    ) -> ir.Value:
        """Return the output of a new DequantizeLinear in front of a node, zero point 0.

        Args:
            node: node of the main graph.
            name: beginning of the names of the constants.
            codes: the integers.
            scales: () for one scale, (channels,) for one per channel.
            axis: axis of the channels.

        Source: operator DequantizeLinear, opset 13.
        """
        inputs = [
            self.constant(f"{name}_codes", codes),
            self.constant(f"{name}_scale", scales),
            self.constant(f"{name}_zero_point", np.zeros(scales.shape, codes.dtype)),
        ]
        made = ir.node("DequantizeLinear", inputs, {"axis": axis} if scales.ndim else {})
        made.outputs[0].name = free_name(f"{name}_dequantized", self.taken)
        self._graph.insert_before(node, made)
        return made.outputs[0]


def give_names(view: ModelView, values: dict[str, ir.Value]) -> None:
    """Give values the names of the weights that they replace, where these are gone."""
    taken = taken_names(view.graph_ir)
    for name, value in values.items():
        if name not in taken:
            value.name = name
