"""Folding of what follows a linear layer into the layer: conditions, and the place of its bias.

What follows is one number per channel, on axis 1 of the layer's output. Everything is computed in float64 and
stored in the type of the layer's weight.
"""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.model import ModelView, NodeRef, ValueRef
from onnx_admm.model.operators import biased_operators

BIASED = tuple(biased_operators())
"""Linear operators whose third input is a bias."""

OLDEST_OPSET = 7
"""Before it, Add and Gemm broadcast by attributes, and BatchNormalization had a mode of its own."""


class Unfoldable(Exception):
    """The reason why a node stays; its text becomes the Skip's sentence."""


# -- what must hold --------------------------------------------------------------------------


def sole_producer(reader: NodeRef, value: ValueRef | None) -> NodeRef:
    """Return the node that computes ``value`` for ``reader`` alone.

    Raises:
        Unfoldable: another node reads it too, or no node of the same graph computes it.
    """
    producer = None if value is None else value.producer()
    if value is None or producer is None or not producer.shares_graph(reader):
        raise Unfoldable("nothing in the same graph computes its input")
    if value.is_output or len(value.uses()) != 1:
        raise Unfoldable(f"{value.name}, the value before it, is used elsewhere too")
    return producer


def stored(value: ValueRef | None, what: str) -> Array:
    """Return the constant in float64.

    Raises:
        Unfoldable: it is computed or left out; ``what`` names it.
    """
    array = None if value is None else value.constant()
    if array is None:
        raise Unfoldable(f"{what} is not a stored constant")
    return array.astype(np.float64)


def per_channel(array: Array, rank: int, channels: int, axis: int = 1) -> Array:
    """Return the addend of a value of ``rank`` axes, channels on ``axis``, as one number per channel, (c,).

    Raises:
        Unfoldable: it differs within a channel, or has another number of channels.
    """
    aligned = (1,) * (rank - array.ndim) + array.shape
    if len(aligned) != rank or any(extent != 1 for place, extent in enumerate(aligned) if place != axis):
        raise Unfoldable("what is added is not one number per channel")
    if array.size not in (1, channels):
        raise Unfoldable(f"{array.size} numbers are added to {channels} channels")
    return np.broadcast_to(array.reshape(-1), (channels,))


def fitting(array: Array, like: ValueRef | None) -> Array:
    """Return ``array`` in the type of a stored constant.

    Raises:
        Unfoldable: a value is beyond its range.
    """
    constant = None if like is None else like.constant()
    with np.errstate(over="ignore"):
        kept = array if constant is None else array.astype(constant.dtype)
    if not np.isfinite(kept.astype(np.float64)).all():
        raise Unfoldable(f"a folded value does not fit {kept.dtype}")
    return kept


# -- the bias --------------------------------------------------------------------------------


def bias_of(layer: NodeRef, channels: int) -> Array:
    """Return the layer's own bias of each channel, (c,): 0 without a bias, ``beta * C`` for Gemm.

    Raises:
        Unfoldable: it is computed, or not one number per channel.
    """
    bias = layer.input(2)
    if bias is None:
        return np.zeros(channels)
    array = stored(bias, "the layer's bias")
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
        raise Unfoldable("the layer's bias differs from row to row")
    scaled: Array = float(layer.attribute("beta", 1.0)) * np.broadcast_to(array.reshape(-1), (channels,))
    return scaled


def store_bias(model: ModelView, layer: NodeRef, bias: Array) -> None:
    """Make ``bias``, (c,), the whole bias of the layer."""
    store_constant(model, layer, 2, bias)
    if layer.attribute("beta", 1.0) != 1.0:
        model.set_attribute(layer, "beta", 1.0)


def store_constant(model: ModelView, node: NodeRef, place: int, array: Array) -> None:
    """Write a constant input of a node; a constant that others read too stays the same for them."""
    old = node.input(place)
    if old is not None and len(old.uses()) == 1 and not old.is_output:
        model.write(old, array)
    else:
        model.add_constant(node, place, array, f"{node.name}_bias")
