"""Which of a layer's outputs a maximum over all places picks: errors of the others seldom show.

A convolution behind which a global maximum stands (text and point networks) is asked for one place of each
channel and sample; what it makes of the rest matters only if it gets above that. So rows of X are drawn by
how many channels pick them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_admm.calibration.draws import Positions, Shares
from onnx_admm.contracts import Array
from onnx_admm.model import NodeRef, ValueRef

_ELEMENTWISE = {
    *("Add", "BatchNormalization", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu", "Sigmoid"),
    *("Slice", "Softplus", "Sqrt", "Squeeze", "Sub", "Tanh", "Unsqueeze"),
}
"""Operators that leave every place where it is; a Slice that crops is noticed by its extents."""

_MAXIMA = {"GlobalMaxPool", "ReduceMax"}

_UNPICKED = 0.2
"""Share of the rows that is drawn from all alike: what is not picked must not come out on top."""


@dataclass(frozen=True, slots=True)
class Picks:
    """The maximum behind a layer.

    Attributes:
        tap: the value it is taken of.
        channel_axis: where ``tap`` has the layer's output channels; the first axis is the sample's, and the
            maximum is over all others.
    """

    tap: str
    channel_axis: int

    def places(self, values: Mapping[str, Array]) -> tuple[Positions, int]:
        """Where each channel of each sample has its maximum, (n, c), and the number of places.

        Places of all samples are numbered through; of several maxima the first is named.
        """
        flat = self._flat(values)
        firsts = flat.shape[2] * np.arange(len(flat))
        return flat.argmax(axis=2) + firsts[:, None], flat.shape[0] * flat.shape[2]

    def shares(self, values: Mapping[str, Array]) -> Shares:
        """Of the draws, for each place of each sample, flat; they add up to 1.

        A channel that has its maximum in several places gives each a part.
        """
        flat = self._flat(values)
        is_picked = flat == flat.max(axis=2, keepdims=True)
        picked = (is_picked / np.maximum(is_picked.sum(axis=2, keepdims=True), 1)).sum(axis=1).reshape(-1)
        total = picked.sum()
        alike = np.full(picked.shape, 1 / max(1, picked.size))
        shares: Shares = (1 - _UNPICKED) * picked / total + _UNPICKED * alike if total > 0 else alike
        return shares

    def _flat(self, values: Mapping[str, Array]) -> Array:
        """(n, c, places)."""
        array = np.moveaxis(values[self.tap], self.channel_axis, 1)
        return array.reshape(*array.shape[:2], -1)


def picks_behind(node: NodeRef, channel_axis: int) -> Picks | None:
    """The maximum over all places that all of the node's output goes into; None where there is none.

    Args:
        node: the layer; its first output counts.
        channel_axis: of that output, 1 or -1.
    """
    seen: set[str] = set()
    waiting, maxima = [node.outputs[0]], list[NodeRef]()
    while waiting:
        value = waiting.pop()
        if value.is_output or not value.name:
            return None
        if value.name in seen:
            continue
        seen.add(value.name)
        for reader in value.uses():
            if not reader.shares_graph(node):
                return None
            if reader.op_type in _MAXIMA:
                maxima.append(reader)
            elif reader.op_type in _ELEMENTWISE:
                waiting.append(reader.outputs[0])
            else:
                return None
    whole = {reader.input(0) for reader in maxima if _is_over_places(reader, channel_axis)}
    tapped = whole.pop() if len(maxima) == 1 and whole else None
    return None if tapped is None else Picks(tapped.name, channel_axis)


def _is_over_places(reader: NodeRef, channel_axis: int) -> bool:
    """Whether the maximum leaves sample and channel alone."""
    if reader.op_type == "GlobalMaxPool":
        return channel_axis == 1
    axes = reader.attribute("axes", None)
    if axes is None:
        stored = _constant(reader.input(1))
        axes = None if stored is None else stored.reshape(-1).tolist()
    if channel_axis == -1:  # (n, places, c)
        return axes is not None and sorted(axes) in ([1], [-2])
    return axes is not None and sorted(axes) in ([2], [2, 3], [-2, -1])  # (n, c, places...)


def _constant(value: ValueRef | None) -> Array | None:
    return None if value is None else value.constant()
