"""State of a walk over the graph that labels the channels of every value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_admm.model.analysis.shapes import Shape
from onnx_admm.model.channels.labels import Axes, Axis, Labels
from onnx_admm.model.edit import NodeRef, ValueRef
from onnx_admm.model.view import ModelView

Mask = npt.NDArray[np.bool_]
Keep = Callable[[Axis], Mask]
"""Returns which positions of an axis stay."""

Adjustment = Callable[[ModelView, Keep], None]
"""Rewrites an attribute or an input of one node for the channels that stay."""


MOST_LABELS = 1 << 24
"""Labels that a walk may make, 8 bytes each: a few bytes of a file may state any number of positions."""


class NotFollowed(Exception):
    """The reason why the channels of a node cannot be followed; its text is a sentence for the report."""


@dataclass(frozen=True, slots=True)
class LayerAxis:
    """One axis of a weight that counts the channels that a node writes or reads.

    Attributes:
        node: the node.
        value: what the node writes or reads.
        weight: the weight, which operators may compute from a constant.
        axis: axis of the weight.
        labels: labels of the positions.
        reads: whether the node reads these channels; else it writes them.
    """

    node: NodeRef
    value: ValueRef
    weight: ValueRef
    axis: int
    labels: Axis
    reads: bool


@dataclass
class Survey:
    """Labels of all values seen so far, and what must change when channels are removed.

    Attributes:
        view: the model.
        shapes: shapes for one sample.
        open_shapes: shapes with open axes left open.
        splits: by the extents that one axis is split into, which of them keeps the channels.
        labels: sets of labels.
        axes: labels of each value.
        constants: labels of each constant that was asked for.
        sizes: by value that is computed from extents, the axes that count.
        layers: axes of weights that write or read channels, in graph order.
        adjustments: what must change of nodes when channels are removed.
        met_splits: extents that axes are split into with a choice.
        asked: values whose labels the present node asked for.
        pinned: constants that state how a node works.
        made: labels made so far.
    """

    view: ModelView
    shapes: Mapping[ValueRef, Shape]
    open_shapes: Mapping[ValueRef, Shape]
    splits: Mapping[tuple[int, ...], int]
    labels: Labels = field(default_factory=Labels)
    axes: dict[ValueRef, Axes] = field(default_factory=dict)
    constants: dict[ValueRef, Axes] = field(default_factory=dict)
    sizes: dict[ValueRef, Axes] = field(default_factory=dict)
    layers: list[LayerAxis] = field(default_factory=list)
    adjustments: list[tuple[NodeRef, Adjustment]] = field(default_factory=list)
    met_splits: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    asked: set[ValueRef] = field(default_factory=set)
    pinned: set[ValueRef] = field(default_factory=set)
    made: int = 0

    # -- reading -----------------------------------------------------------------------------

    def shape(self, value: ValueRef | None) -> Shape:
        """Return the shape of a value.

        Raises:
            NotFollowed: its rank is unknown.
        """
        if value is None:
            raise NotFollowed("an input is left out")
        constant = value.constant_shape
        shape = self.shapes.get(value) if constant is None else constant
        if shape is None:
            raise NotFollowed(f"the shape of {value.name} is not known")
        return shape

    def known_shape(self, value: ValueRef | None) -> tuple[int, ...]:
        """Return the shape of a value with all extents.

        Raises:
            NotFollowed: an extent is unknown.
        """
        shape = self.shape(value)
        known = tuple(extent for extent in shape if extent is not None)
        if value is None or len(known) < len(shape):
            raise NotFollowed(f"the shape of {'' if value is None else value.name} is not known")
        return known

    def of(self, value: ValueRef | None) -> Axes:
        """Return the labels of a value's axes; those of a constant are made when it is first asked for.

        Raises:
            NotFollowed: its rank is unknown.
        """
        if value is None:
            raise NotFollowed("an input is left out")
        self.asked.add(value)
        if value in self.axes:
            return self.axes[value]
        shape = self.shape(value)
        if value.constant_shape is None:
            return (None,) * len(shape)
        self.take(sum(extent or 0 for extent in shape))
        made = tuple(self.labels.fresh(extent or 0) for extent in shape)
        self.axes[value] = self.constants[value] = made
        if value.fixed is not None:
            self.block(made, f"{value.name} {value.fixed}")
        elif any(use.ir_node.graph is not self.view.graph_ir.graph for use in value.uses()):
            self.block(made, f"{value.name} is read in a subgraph")
        return made

    def stored(self, node: NodeRef, index: int) -> npt.NDArray[Any] | None:
        """Return a constant input that states how a node works; None where it is left out.

        Raises:
            NotFollowed: the input is computed.
        """
        value = node.input(index)
        if value is None:
            return None
        array = value.constant()
        if array is None:
            raise NotFollowed(f"input {index} of {node.op_type} {node.name} is computed")
        return array

    def view_size(self, value: ValueRef) -> int:
        """Return the number of elements of a value of known shape; 0 for any other."""
        shape = self.shapes.get(value) if value.constant_shape is None else value.constant_shape
        return 0 if shape is None or None in shape else math.prod(extent or 0 for extent in shape)

    # -- writing -----------------------------------------------------------------------------

    def take(self, count: int) -> None:
        """Count labels before they are made.

        Raises:
            NotFollowed: there would be more than a walk may make.
        """
        if count > MOST_LABELS - self.made:
            raise NotFollowed(f"more than {MOST_LABELS:,} positions would have to be followed")
        self.made += count

    def block(self, axes: Sequence[Axis | None], reason: str) -> None:
        """Record why all labels of some axes must stay."""
        for axis in axes:
            self.labels.block(axis, reason)

    def join(self, one: Axis | None, other: Axis | None, reason: str) -> Axis | None:
        """Unite two axes position by position; labels that meet an axis without any must stay."""
        if one is None or other is None or len(one) != len(other):
            self.block((one, other), reason)
            return other if one is None else one
        self.labels.unite(one, other)
        return one

    def layer(self, node: NodeRef, weight: ValueRef, axis: int, *, reads: bool) -> Axis | None:
        """Record an axis of a weight that counts channels, and return its labels."""
        labels = self.of(weight)[axis]
        value = node.input(0 if node.input(1) == weight else 1) if reads else node.outputs[0]
        if reads and node.op_type in ("LSTM", "GRU", "RNN"):
            value = node.input(0)
        if labels is not None and value is not None:
            self.layers.append(LayerAxis(node, value, weight, axis, labels, reads))
        return labels

    def adjust(self, node: NodeRef, change: Adjustment) -> None:
        """Record what must change of a node when channels are removed."""
        self.adjustments.append((node, change))
