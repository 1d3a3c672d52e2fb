"""Positions of a layer's outputs that a global maximum selects: errors elsewhere seldom matter.

Of a convolution followed by a global maximum (text and point networks), only one place of each channel and
sample matters (or, where the maximum is over some axes, one along those); values elsewhere matter only if
they exceed it. So rows of X are drawn by the number of channels that have their maximum there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_admm.calibration.row_sampling import Positions, Shares
from onnx_admm.contracts import Array
from onnx_admm.model import NodeRef
from onnx_admm.model.operators import Trait, operators_with

_ELEMENTWISE = operators_with(Trait.UNARY, Trait.BROADCASTS, Trait.CASTS) | {
    *("BatchNormalization", "Slice", "Squeeze", "Unsqueeze"),
}
"""Operators that keep the position of every element; a Slice that crops is noticed by its extents."""

_MAXIMA = operators_with(Trait.TAKES_MAXIMA)

_UNIFORM = 0.2
"""Share of the rows that is drawn uniformly: rows without a maximum must not become one."""


@dataclass(frozen=True, slots=True)
class ArgmaxPositions:
    """The maximum behind a layer.

    Attributes:
        value: the value that the maximum is taken of.
        channel_axis: axis of ``value`` with the layer's output channels; the first axis is the sample's.
        axes: axes of the maximum; None: all others. Along the rest each place has a maximum of its own.
    """

    value: str
    channel_axis: int
    axes: tuple[int, ...] | None = None

    def fits(self, values: Mapping[str, Array]) -> bool:
        """Return whether the maximum keeps samples and channels apart; the rank of its input decides."""
        rank = values[self.value].ndim
        over = {axis % rank for axis in self.axes or () if -rank <= axis < rank}
        return values[self.value].size > 0 and not over & {0, self.channel_axis % rank}

    def places(self, values: Mapping[str, Array]) -> tuple[Positions, int]:
        """Return the place of the maximum of each channel, (maxima, c), and the number of places.

        Places are numbered over all samples; of several equal maxima the first counts.
        """
        lanes, numbers = self._lanes(values)
        return numbers[np.arange(len(lanes))[:, None], lanes.argmax(axis=2)], numbers.size

    def shares(self, values: Mapping[str, Array]) -> Shares:
        """Return the share of draws for each place of each sample, flat; they add up to 1.

        A channel that has its maximum in several places gives each a part.
        """
        lanes, numbers = self._lanes(values)
        alike = np.full(numbers.size, 1 / max(1, numbers.size))
        if not self.fits(values):
            return alike
        is_maximum = lanes == lanes.max(axis=2, keepdims=True)
        parts = is_maximum / np.maximum(is_maximum.sum(axis=2, keepdims=True), 1)  # none where there is NaN
        counts = np.empty(numbers.size)
        counts[numbers.reshape(-1)] = parts.sum(axis=1).reshape(-1)
        total = counts.sum()
        shares: Shares = (1 - _UNIFORM) * counts / total + _UNIFORM * alike if total > 0 else alike
        return shares

    def _lanes(self, values: Mapping[str, Array]) -> tuple[Array, Positions]:
        """Return the values of each maximum, (maxima, c, places), and the numbers of these places."""
        array = values[self.value]
        rank, channel = array.ndim, self.channel_axis % array.ndim
        spatial = [axis for axis in range(1, rank) if axis != channel]
        over = spatial if self.axes is None else [axis % rank for axis in self.axes]
        own = [axis for axis in spatial if axis not in over]
        over = [axis for axis in spatial if axis in over]
        count, maxima = (math.prod(array.shape[axis] for axis in axes) for axes in (over, (0, *own)))
        lanes = array.transpose(0, *own, channel, *over).reshape(maxima, array.shape[channel], count)
        grid = np.arange(math.prod(array.shape[axis] for axis in (0, *spatial)))
        numbers = np.expand_dims(grid.reshape([array.shape[axis] for axis in (0, *spatial)]), channel)
        return lanes, numbers.transpose(0, *own, *over, channel).reshape(maxima, count)


def argmax_positions_behind(node: NodeRef, channel_axis: int) -> ArgmaxPositions | None:
    """Return the maximum over places that takes all of the node's output; None where there is none.

    Args:
        node: the layer; its first output counts.
        channel_axis: channel axis of that output, 1 or -1.
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
    if len(maxima) != 1 or (source := maxima[0].input(0)) is None:
        return None
    if maxima[0].op_type == "GlobalMaxPool":
        return ArgmaxPositions(source.name, channel_axis) if channel_axis == 1 else None
    axes = _axes(maxima[0])
    if not axes or 0 in axes or channel_axis in axes:
        return None
    return ArgmaxPositions(source.name, channel_axis, axes)


def _axes(reader: NodeRef) -> tuple[int, ...]:
    """Return the axes of a ReduceMax, an attribute or (opset 18) an input; empty where unknown, or all."""
    axes = reader.attribute("axes", None)
    given = reader.input(1)
    stored = None if given is None else given.constant()
    return tuple(map(int, stored.reshape(-1) if stored is not None else axes or ()))
