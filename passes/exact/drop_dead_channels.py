"""DropDeadChannels: remove channels and neurons that provably have no effect.

A channel is dead if nothing reads it (every weight that reads it is zero), or if it is constant (every weight
that computes it is zero). The effect of a constant k on the next layers is added to their biases, exactly:

    b'_o = b_o + k * sum(W[o, c, ...])

unless padding mixes zeros into it; k = 0, for example after a Relu, needs no change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_admm.contracts import Array, Edit, ModelView, PassContext, PassReport, Skip
from onnx_admm.model import ValueRef
from onnx_admm.model.channels.groups import ChannelGroup, Parameter, PassThrough, Port, channel_map
from onnx_admm.model.operators import Trait, operators_with

_CONVOLVING = operators_with(Trait.CONVOLVES)
_GRIDS = (16, 8)
"""Numbers of channels that a convolution of ONNX Runtime computes at a time, the largest first."""

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_KEEPS_CONSTANTS = operators_with(Trait.KEEPS_CONSTANTS)

Constants = dict[ValueRef, Array]
"""By value: the constant of each channel, float64; NaN where it is not one number."""


@dataclass(frozen=True, kw_only=True)
class DropDeadChannels:
    """Remove output channels and neurons that are dead, with the weights that write and read them.

    Channels that are joined (by an Add of two branches, by Flatten) are removed together or not at all. Graph
    outputs never change, and at least one channel of each layer stays. A layer whose channels pass through
    an unknown operator is left unchanged, with the reason in the report.
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
            channels = channel_map(model)
            groups = channels.groups
            keep = {i: ~_dead(group) for i, group in enumerate(groups) if group.blocked is None}
            keep = channels.allowed({i: mask for i, mask in keep.items() if not mask.all()})
            keep = {i: mask for i, mask in keep.items() if not mask.all()}
            if not keep:
                break
            absorbed = [_absorb_constants(model, groups[i], ~mask) for i, mask in keep.items()]
            channels = channel_map(model) if any(absorbed) else channels
            channels.remove(keep)
            for i, mask in keep.items():
                name = groups[i].name
                dropped[name] = dropped.get(name, 0) + int(np.count_nonzero(~mask))
        edits = tuple(Edit(name, f"{count} dead channels dropped") for name, count in dropped.items())
        skipped = tuple(Skip(group.name, group.blocked) for group in groups if group.blocked is not None)
        if edits:
            model.strip_unused()
        return PassReport(bool(edits), edits, skipped, {"channels_dropped": sum(dropped.values())})


def _dead(group: ChannelGroup) -> Array:
    """Return the dead units of a group, as many as leave it on the runtime's grid."""
    if not group.readers:
        return np.zeros(group.units, np.bool_)
    constants = _constants(group)
    dead = np.all([_is_unread(port, group) | _can_absorb(port, constants) for port in group.readers], axis=0)
    dead = np.asarray(dead & ~group.stays)
    if dead.all():
        dead[0] = False
    return _on_grid(dead, group)


def _absorb_constants(model: ModelView, group: ChannelGroup, dead: Array) -> bool:
    """Add the constants of dead units to the biases behind; return whether there were any."""
    constants = _constants(group)
    changed = False
    for port in group.readers:
        unknown = np.full(group.units, np.nan)
        known = constants.get(port.value, unknown)
        values = np.where(dead & ~_is_unread(port, group), known, 0.0)
        if np.any(values):
            _absorb(model, port, values)
            changed = True
    return changed


def _on_grid(dead: Array, group: ChannelGroup) -> Array:
    """Return the channels to remove: as many as leave a convolution on the runtime's grid.

    ONNX Runtime computes 16 channels of a convolution at a time (8 without AVX512) where their number is a
    multiple, and uses slower code where it is not: 31 channels take 1.4 times as long as 32.
    """
    convolves = any(port.node.op_type in _CONVOLVING for port in (*group.writers, *group.readers))
    grid = next((width for width in _GRIDS if group.units % width == 0), 1) if convolves else 1
    alive = int(np.count_nonzero(~dead))
    stay = min(group.units, -(-alive // grid) * grid) - alive
    kept = dead.copy()
    kept[np.flatnonzero(dead)[:stay]] = False
    return kept


# -- what is dead ----------------------------------------------------------------------------


def _is_zero(port: Port, group: ChannelGroup) -> Array:
    """Return the units for which every entry of the layer's weight is zero."""
    array = port.weight.constant()
    if array is None:
        return np.zeros(group.units, np.bool_)
    filled = np.any(np.moveaxis(array, port.axis, 0).reshape(len(port.units), -1), axis=1)
    nonzero = np.zeros(group.units, np.bool_)
    nonzero[port.units[filled & (port.units >= 0)]] = True
    return ~nonzero


_is_unread = _is_zero


def _can_absorb(port: Port, constants: Constants) -> Array:
    """Return the units whose constant the layer's bias can absorb, or that are zero."""
    values, node = constants.get(port.value, np.array(np.nan)), port.node
    if node.op_type == "Conv":
        pads, auto_pad = node.attribute("pads", ()), node.attribute("auto_pad", "NOTSET")
        able = not any(pads) and auto_pad in ("NOTSET", "VALID") and node.attribute("group", 1) == 1
    else:
        able = node.op_type == "Gemm" and node.attribute("beta", 1.0) != 0.0 and node.input(1) == port.weight
    return np.asarray((values == 0.0) | (np.isfinite(values) & able))


def _constants(group: ChannelGroup) -> Constants:
    """Return the constants of the units at each value of the group, as far as they are known."""
    known: Constants = {}
    for port in group.writers:
        written = np.where(_is_zero(port, group), _bias(port, group), np.nan)
        known[port.value] = written if port.node.op_type in _LAYERS else np.full(group.units, np.nan)
    joined: set[ValueRef] = set()
    for through in group.pass_through:
        unknown = np.full(group.units, np.nan)
        with np.errstate(all="ignore"):
            values = _through(through, known.get(through.source, unknown))
        if through.target in joined:
            values = values + known[through.target]
        joined.add(through.target)
        known[through.target] = values
    return known


def _bias(port: Port, group: ChannelGroup) -> Array:
    """Return the outputs of a layer of zero weights by unit."""
    bias, count = port.node.input(2), len(port.units)
    array = np.zeros(1) if bias is None else bias.constant()
    if array is None:
        return np.full(group.units, np.nan)
    beta = port.node.attribute("beta", 1.0) if port.node.op_type == "Gemm" else 1.0
    scaled = beta * array.astype(np.float64)
    rows = scaled.reshape(-1, scaled.shape[-1] if scaled.ndim else 1)  # Gemm's C may differ from row to row
    constant = np.all(rows == rows[:1], axis=0)
    numbers = np.broadcast_to(np.where(constant, rows[0], np.nan), count)
    return _by_unit(numbers[:, None], port.units, group.units)


def _through(through: PassThrough, values: Array) -> Array:
    """Return the constant of a unit behind a node; NaN where it is no longer one number, or unknown."""
    node = through.node
    match node.op_type:
        case "Relu":
            return np.maximum(values, 0.0)
        case "LeakyRelu":
            return np.where(values < 0, node.attribute("alpha", 0.01) * values, values)
        case "Tanh":
            return np.asarray(np.tanh(values))
        case "Sigmoid":
            return np.asarray(1.0 / (1.0 + np.exp(-values)))
        case "BatchNormalization" if len(through.parameters) == 4:
            gamma, beta, mean, variance = (_numbers(each, len(values)) for each in through.parameters)
            spread = np.sqrt(variance + node.attribute("epsilon", 1e-5))
            return np.asarray(gamma * (values - mean) / spread + beta)
        case "Add":
            return _added(through, values)
        case name if name in _KEEPS_CONSTANTS:
            return values
        case "AveragePool" | "Elu":
            mixes = node.op_type == "Elu" or node.attribute("count_include_pad", 0)
            return np.where(values == 0.0, 0.0, np.nan) if mixes else values
        case _:
            return np.full_like(values, np.nan)


def _added(through: PassThrough, values: Array) -> Array:
    """Return the part of one operand in the constants behind an Add."""
    operands = [value for value in through.node.inputs if value is not None]
    constants = [value for value in operands if value.constant_shape is not None]
    if not constants and len(set(operands)) == len(operands):
        return values  # the other operand is a branch of its own, or has no known constants
    if len(constants) == 1 and len(through.parameters) == 1:
        return np.asarray(values + _numbers(through.parameters[0], len(values)))
    return np.full_like(values, np.nan)


def _numbers(parameter: Parameter, count: int) -> Array:
    """Return a parameter by unit; NaN for a unit with several numbers."""
    array = parameter.value.constant()
    if array is None:
        return np.full(count, np.nan)
    rows = np.moveaxis(array.astype(np.float64), parameter.axis, 0).reshape(len(parameter.units), -1)
    return _by_unit(rows, parameter.units, count)


def _by_unit(rows: Array, units: Array, count: int) -> Array:
    """Return the one number of each unit in (positions, n); NaN for a unit with several numbers."""
    least, largest = np.full(count, np.inf), np.full(count, -np.inf)
    own = units >= 0
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        np.minimum.at(least, units[own], rows[own].min(axis=1))
        np.maximum.at(largest, units[own], rows[own].max(axis=1))
    return np.where(least == largest, least, np.nan)


# -- taking it out ---------------------------------------------------------------------------


def _absorb(model: ModelView, port: Port, values: Array) -> None:
    """Add to the layer's bias the effect of units with these constants (zero for the others)."""
    node, weight = port.node, _array(port.weight)
    rows = np.moveaxis(weight.astype(np.float64), port.axis, 0)  # (position, out, kernel...)
    own = np.where(port.units >= 0, values[port.units], 0.0)
    total = np.tensordot(own, rows.sum(axis=tuple(range(2, rows.ndim))), axes=1)
    if node.op_type == "Gemm":
        total = total * node.attribute("alpha", 1.0) / node.attribute("beta", 1.0)
    old = node.input(2)
    if old is None:
        model.add_constant(node, 2, total.astype(weight.dtype), f"{port.weight.name}_bias")
    else:
        model.write(old, (_array(old).astype(np.float64) + total).astype(weight.dtype))


def _array(value: ValueRef | None) -> Array:
    array = None if value is None else value.constant()
    if array is None:
        raise ValueError("a channel group with a weight that is no constant")
    return array
