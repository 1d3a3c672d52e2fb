"""The axis of a layer's channels, followed through operators that only move elements.

Exporters of frameworks with the channels last write Slice, Squeeze, Unsqueeze and Transpose between a layer
and what is added to its result. Each element keeps its channel on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.selection.foldable import Unfoldable

_FAR = 2**31 - 1
"""Bounds of a Slice from here on stand for the end of an axis."""


@dataclass(frozen=True, slots=True)
class ChannelAxis:
    """Where the channels of a layer are in a value: ``axis`` of ``rank`` axes."""

    axis: int
    rank: int


def moves(node: NodeRef) -> bool:
    """Return whether `moved` knows the operator."""
    return node.op_type in _MOVERS


def moved(node: NodeRef, place: ChannelAxis, channels: int) -> ChannelAxis:
    """Return where the channels are behind a node.

    Args:
        node: a node that `moves` accepts.
        place: where they are in its first input.
        channels: number of channels.

    Raises:
        Unfoldable: the node takes some of the channels only, or does not state its axes.
    """
    return _MOVERS[node.op_type](node, place, channels)


def _identity(node: NodeRef, place: ChannelAxis, channels: int) -> ChannelAxis:
    return place


def _transpose(node: NodeRef, place: ChannelAxis, channels: int) -> ChannelAxis:
    """Source: operator Transpose; without ``perm`` the axes are reversed."""
    order = list(node.attribute("perm", ()) or reversed(range(place.rank)))
    return ChannelAxis(order.index(place.axis), place.rank)


def _squeeze(node: NodeRef, place: ChannelAxis, channels: int) -> ChannelAxis:
    """Source: operator Squeeze; the axes are an input from opset 13 on, and may be left out."""
    axes = _numbers(node, 1, "axes")
    if axes is None:
        raise Unfoldable(f"{node.name} between the two removes axes that it does not name")
    gone = {axis % place.rank for axis in axes}
    if place.axis in gone:
        raise Unfoldable(f"{node.name} between the two removes the axis of the channels")
    return ChannelAxis(place.axis - sum(axis < place.axis for axis in gone), place.rank - len(gone))


def _unsqueeze(node: NodeRef, place: ChannelAxis, channels: int) -> ChannelAxis:
    """Source: operator Unsqueeze; the axes count in the result."""
    axes = _numbers(node, 1, "axes")
    if axes is None:
        raise Unfoldable(f"{node.name} between the two has computed axes")
    rank = place.rank + len(axes)
    fresh = {axis % rank for axis in axes}
    return ChannelAxis([axis for axis in range(rank) if axis not in fresh][place.axis], rank)


def _slice(node: NodeRef, place: ChannelAxis, channels: int) -> ChannelAxis:
    """Source: operator Slice; before opset 10 the bounds are attributes."""
    starts, ends = _numbers(node, 1, "starts"), _numbers(node, 2, "ends")
    axes, steps = _numbers(node, 3, "axes"), _numbers(node, 4, "steps")
    is_computed = (node.input(3) is not None and axes is None) or (
        node.input(4) is not None and steps is None
    )
    if starts is None or ends is None or is_computed:
        raise Unfoldable(f"{node.name} between the two has computed bounds")
    along = [axis % place.rank for axis in (range(len(starts)) if axes is None else axes)]
    for axis, start, end, step in zip(along, starts, ends, steps or [1] * len(starts), strict=True):
        part = slice(start, None if end >= _FAR else end, step)
        if axis == place.axis and part.indices(channels) != (0, channels, 1):
            raise Unfoldable(f"{node.name} between the two takes some of the channels only")
    return place


_MOVERS = {
    "Identity": _identity,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _numbers(node: NodeRef, index: int, attribute: str) -> list[int] | None:
    """Return whole numbers of a constant input or an attribute; None where they are computed or left out."""
    given = node.input(index)
    if given is None:
        stated = node.attribute(attribute)
        return None if stated is None else [int(number) for number in stated]
    array = given.constant()
    return None if array is None else [int(number) for number in array.reshape(-1)]


def layer_in_front(value: ValueRef | None) -> NodeRef | None:
    """Return the node that computes a value, up to operators that move elements."""
    node = None if value is None else value.producer()
    while node is not None and moves(node):
        value = node.input(0)
        node = None if value is None else value.producer()
    return node
