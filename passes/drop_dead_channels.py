"""DropDeadChannels: remove channels and neurons that provably have no effect.

A channel is dead where nothing reads it (every weight behind it is zero), or where it is constant (every
weight before it is zero). The effect of a constant k on the layers behind is exact, so their biases absorb
it:

    b'_o = b_o + k * sum(W[o, c, ...])

unless padding mixes zeros into it; k = 0, as behind a Relu, needs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_admm.contracts import Array, Edit, ModelView, PassContext, PassReport, Skip
from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.model.analysis.channel_groups import ChannelGroup, Port, find_channel_groups
from onnx_admm.model.analysis.shapes import forget_shapes
from onnx_admm.model.operators import Trait, operators_with

_CONVOLVING = operators_with(Trait.CONVOLVES)
_GRIDS = (16, 8)
"""Numbers of channels that a convolution of ONNX Runtime computes at a time, the largest first."""

_KEEPS_CONSTANTS = operators_with(Trait.KEEPS_CONSTANTS)

Constants = dict[ValueRef, Array]
"""By value: the constant of each channel, float64; NaN where it is not one number."""


@dataclass(frozen=True, kw_only=True)
class DropDeadChannels:
    """Remove output channels and neurons that are dead, with the weights that write and read them.

    Channels that are joined (by an Add of two branches, by Flatten) are removed together or not at all. Graph
    outputs never change, at least one channel of each layer stays, and where an operator is not understood
    the layer is left unchanged, with the reason in the report.
    """

    name: ClassVar[str] = "drop_dead_channels"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``; any model will do."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Remove channels until none is dead: a removed channel may leave another one unread."""
        dropped: dict[str, int] = {}
        while True:
            groups = find_channel_groups(model)
            counts = {group.name: _drop(model, group) for group in groups if group.blocked is None}
            if not any(counts.values()):
                break
            forget_shapes(model)
            for name, count in counts.items():
                if count:
                    dropped[name] = dropped.get(name, 0) + count
        edits = tuple(Edit(name, f"{count} dead channels dropped") for name, count in dropped.items())
        skipped = tuple(Skip(group.name, group.blocked) for group in groups if group.blocked is not None)
        if edits:
            model.strip_unused()
        return PassReport(bool(edits), edits, skipped, {"channels_dropped": sum(dropped.values())})


def _drop(model: ModelView, group: ChannelGroup) -> int:
    """Remove the dead channels of one group; return their number."""
    if not group.readers:
        return 0
    constants = _constants(group)
    dead = np.all([_is_unread(port, group) | _can_absorb(port, constants) for port in group.readers], axis=0)
    if dead.all():
        dead[0] = False
    dead = _on_grid(dead, group)
    if not dead.any():
        return 0
    for port in group.readers:
        values = np.where(dead & ~_is_unread(port, group), constants[port.value], 0.0)
        if np.any(values):
            _absorb(model, port, values)
    _cut(model, group, ~dead)
    return int(dead.sum())


def _on_grid(dead: Array, group: ChannelGroup) -> Array:
    """Return the channels to remove: as many as leave a convolution on the runtime's grid.

    ONNX Runtime computes 16 channels of a convolution at a time (8 without AVX512) where their number is a
    multiple, and uses slower code where it is not: 31 channels take 1.4 times as long as 32.
    """
    convolves = any(port.node.op_type in _CONVOLVING for port in (*group.writers, *group.readers))
    grid = next((width for width in _GRIDS if group.channels % width == 0), 1) if convolves else 1
    alive = int(np.count_nonzero(~dead))
    stay = min(group.channels, -(-alive // grid) * grid) - alive
    kept = dead.copy()
    kept[np.flatnonzero(dead)[:stay]] = False
    return kept


# -- what is dead ----------------------------------------------------------------------------


def _is_zero(port: Port, group: ChannelGroup) -> Array:
    """Return the channels for which every entry of the layer's weight is zero."""
    rows = np.moveaxis(_array(port.weight), port.axis, 0)
    return np.asarray(~np.any(rows.reshape(group.channels, -1), axis=1))


_is_unread = _is_zero


def _can_absorb(port: Port, constants: Constants) -> Array:
    """Return the channels whose constant the layer's bias can absorb, or that are zero."""
    values, node = constants[port.value], port.node
    if node.op_type == "Conv":
        pads, auto_pad = node.attribute("pads", ()), node.attribute("auto_pad", "NOTSET")
        able = not any(pads) and auto_pad in ("NOTSET", "VALID")
    else:
        able = node.op_type == "Gemm" and node.attribute("beta", 1.0) != 0.0
    return np.asarray((values == 0.0) | (np.isfinite(values) & able))


def _constants(group: ChannelGroup) -> Constants:
    """Return the constants of the channels at each value of the group."""
    known: Constants = {
        port.value: np.where(_is_zero(port, group), _bias(port, group.channels), np.nan)
        for port in group.writers
    }
    joined: set[ValueRef] = set()
    for through in group.pass_through:
        with np.errstate(all="ignore"):
            values = _through(through.node, known[through.source])
        if through.target in joined:
            values = values + known[through.target]
        joined.add(through.target)
        known[through.target] = values
    return known


def _bias(port: Port, channels: int) -> Array:
    """Return the outputs of a layer of zero weights."""
    bias = port.node.input(2)
    if bias is None:
        return np.zeros(channels)
    beta = port.node.attribute("beta", 1.0) if port.node.op_type == "Gemm" else 1.0
    array = beta * _array(bias).astype(np.float64)
    rows = array.reshape(-1, array.shape[-1] if array.ndim else 1)  # Gemm's C may differ from row to row
    constant = np.all(rows == rows[:1], axis=0)
    return np.broadcast_to(np.where(constant, rows[0], np.nan), channels)


def _through(node: NodeRef, values: Array) -> Array:
    """Return the constant of a channel behind a node; NaN where it is no longer one number, or unknown."""
    match node.op_type:
        case "Relu":
            return np.maximum(values, 0.0)
        case "LeakyRelu":
            return np.where(values < 0, node.attribute("alpha", 0.01) * values, values)
        case "Tanh":
            return np.asarray(np.tanh(values))
        case "Sigmoid":
            return np.asarray(1.0 / (1.0 + np.exp(-values)))
        case "BatchNormalization":
            count = len(values)
            gamma, beta, mean, variance = (_per_channel(value, count) for value in node.inputs[1:5])
            spread = np.sqrt(variance + node.attribute("epsilon", 1e-5))
            return np.asarray(gamma * (values - mean) / spread + beta)
        case "Add":
            added = [value for value in node.inputs if value is not None and value.constant() is not None]
            return np.asarray(values + _per_channel(added[0], len(values)) if added else values)
        case name if name in _KEEPS_CONSTANTS:
            return values
        case "AveragePool" | "Elu":
            mixes = node.op_type == "Elu" or node.attribute("count_include_pad", 0)
            return np.where(values == 0.0, 0.0, np.nan) if mixes else values
        case _:
            return np.full_like(values, np.nan)


def _per_channel(value: ValueRef | None, count: int) -> Array:
    """Return a parameter by channel; NaN for a channel whose block of columns has several numbers."""
    rows = _array(value).astype(np.float64).reshape(count, -1)
    return np.where(np.all(rows == rows[:, :1], axis=1), rows[:, 0], np.nan)


# -- taking it out ---------------------------------------------------------------------------


def _absorb(model: ModelView, port: Port, values: Array) -> None:
    """Add to the layer's bias the effect of channels with these constants (zero for the others)."""
    node, weight = port.node, _array(port.weight)
    rows = np.moveaxis(weight.astype(np.float64), port.axis, 0)
    blocks = rows.reshape(len(values), -1, *rows.shape[1:]).sum(axis=1)  # (channel, out, kernel...)
    total = np.tensordot(values, blocks.sum(axis=tuple(range(2, blocks.ndim))), axes=1)
    if node.op_type == "Gemm":
        total = total * node.attribute("alpha", 1.0) / node.attribute("beta", 1.0)
    old = node.input(2)
    if old is None:
        model.add_constant(node, 2, total.astype(weight.dtype), f"{port.weight.name}_bias")
    else:
        model.write(old, (_array(old).astype(np.float64) + total).astype(weight.dtype))


def _cut(model: ModelView, group: ChannelGroup, keep: Array) -> None:
    for port in group.writers:
        _take(model, port.weight, port.axis, keep)
        bias = port.node.input(2)
        if bias is not None and _array(bias).shape[-1:] == keep.shape:  # one of extent 1 is broadcast
            _take(model, bias, -1, keep)
    for port in group.readers:
        _take(model, port.weight, port.axis, keep)
    for through in group.pass_through:
        for value, axis in through.parameters:
            _take(model, value, axis, keep)
        if through.node.op_type == "Reshape":
            _reshape(model, through.node, keep)


def _take(model: ModelView, value: ValueRef, axis: int, keep: Array) -> None:
    """Keep the entries of channels along an axis; each channel may be a block of columns."""
    array = _array(value)
    kept = np.repeat(keep, array.shape[axis] // len(keep))
    model.write(value, np.compress(kept, array, axis=axis))


def _reshape(model: ModelView, node: NodeRef, keep: Array) -> None:
    target = node.input(1)
    rows, columns = (int(extent) for extent in _array(target))
    if columns > 0:
        shape = np.array([rows, columns // len(keep) * int(keep.sum())], np.int64)
        model.add_constant(node, 1, shape, f"{node.name}_shape")


def _array(value: ValueRef | None) -> Array:
    array = None if value is None else value.constant()
    if array is None:
        raise ValueError("a channel group with a weight that is no constant")
    return array
