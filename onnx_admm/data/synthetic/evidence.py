"""Evidence of a graph about its inputs: tables that indices look up, ranges that a normalisation expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from onnx_admm.contracts import ModelView, PortSpec
from onnx_admm.data.synthetic.caches import is_cache
from onnx_admm.data.synthetic.draws import (
    Affine,
    Choice,
    Counting,
    Draw,
    Integers,
    Length,
    Noise,
    Smooth,
)
from onnx_admm.data.synthetic.normalisation import implied_scale
from onnx_admm.data.synthetic.shapes import MASK_NAME, image_axes, port_extents
from onnx_admm.data.synthetic.texts import text_draw
from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.model.operators import Trait, operators_with

_PASSING = operators_with(
    Trait.REARRANGES, Trait.CASTS, Trait.CUTS, Trait.LOOKS_UP, Trait.REPEATS, Trait.JOINS, Trait.PADS
) | {"Clip"}
"""Operators behind which an integer is still the same integer."""

_RECURRENT = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Inputs at which a recurrent operator takes its initial state."""

_STATE_NAME = re.compile(r"(^|[^a-z])([hc]_?0|h_?in|c_?in|state|states|hidden|cell|cache|past|memory)", re.I)
_POSITION_NAME = re.compile(r"position|pos_?ids", re.I)
_LENGTH_NAME = re.compile(
    r"(^|[^a-z])(x_?)?(len|lens|length|lengths|num_?(frames|tokens)|n_?frames)([^a-z]|$)", re.I
)
_LENGTH_RANK = 2

_PROBABLY_BELOW = (100, 2)
"""Bounds that are tried for integers about which the graph implies nothing."""

_STATE_DEVIATION = 0.1
_SIGNAL = Affine(deviation=np.array(0.1), low=-1.0, high=1.0)
_SHORTEST_SIGNAL = 512
_PIXELS = Affine(np.array(0.45 * 255), np.array(0.25 * 255), 0.0, 255.0)


def implied_draws(view: ModelView, ports: Sequence[PortSpec] | None = None) -> dict[str, tuple[Draw, ...]]:
    """Return how to make each input, by name: one way where the graph implies it, else several to try.

    Args:
        view: the model.
        ports: its inputs, with more extents than it states; None for those it states.
    """
    ports = view.signature().inputs if ports is None else ports
    names = {port.name for port in ports}
    values = {
        value.name: value
        for node in view.nodes()
        for value in node.inputs
        if value is not None and value.name in names
    }
    outputs = {(port.dtype, _sizes(port)) for port in view.signature().outputs[1:]}
    draws: dict[str, tuple[Draw, ...]] = {}
    for number, port in enumerate(ports):
        returned = number > 0 and (port.dtype, _sizes(port)) in outputs and len(port_extents(port)) > 2
        draws[port.name] = _draws(port, values.get(port.name), returned)
    return draws


def _draws(port: PortSpec, value: ValueRef | None, returned: bool) -> tuple[Draw, ...]:
    kind = np.dtype(port.dtype).kind
    if kind == "U":
        return (text_draw(port.name, value),)
    if MASK_NAME.search(port.name):
        return (Choice(np.ones(1)),)
    if kind == "f":
        return (_float_draw(port, value, returned),)
    if kind == "b":
        return (Integers(0, 2),)
    return _integer_draws(port, value)


def _sizes(port: PortSpec) -> tuple[int | None, ...]:
    return tuple(extent if isinstance(extent, int) else None for extent in port_extents(port))


# -- integers --------------------------------------------------------------------------------


def _integer_draws(port: PortSpec, value: ValueRef | None) -> tuple[Draw, ...]:
    bounds, compared = [], []
    for node, index in _readers(value):
        other = node.input(1 - index) if index < 2 else None
        match node.op_type, index:
            case ("Gather", 1) | ("GatherElements", 1):
                bounds.append(_extent(other, node.attribute("axis", 0)))
            case "OneHot", 0:
                depth = None if other is None else other.constant()
                bounds.append(None if depth is None else int(depth.item()))
            case "Equal", _ if other is not None and (constant := other.constant()) is not None:
                compared.append(constant.reshape(-1))
    known = [bound for bound in bounds if bound is not None and bound > 0]
    if _POSITION_NAME.search(port.name):
        return (Counting(below=min(known, default=None)),)
    if known:
        return (Integers(0, min(*known, np.iinfo(port.dtype).max + 1)),)
    if compared:
        return (Choice(np.unique(np.concatenate(compared))),)
    if port.dtype == "uint8":
        image = image_axes(port)
        return (Integers(0, 256),) if image is None else (Smooth(*image, scale=_PIXELS),)
    guesses = tuple(Integers(0, below) for below in _PROBABLY_BELOW)
    if _LENGTH_NAME.search(port.name) and len(port_extents(port)) <= _LENGTH_RANK:
        return (Length(), Length(largest=False), *guesses)
    return guesses


def _readers(value: ValueRef | None) -> Iterator[tuple[NodeRef, int]]:
    """Yield the nodes, with the input, that read a value, directly or behind nodes that pass it on."""
    pending = [] if value is None else [value]
    seen = set(pending)
    while pending:
        current = pending.pop()
        for node in current.uses():
            index = node.inputs.index(current)
            if node.op_type in _PASSING and (index == 0 or node.op_type == "Concat"):
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                pending.extend(fresh)
            else:
                yield node, index


def _extent(table: ValueRef | None, axis: int) -> int | None:
    if table is None:
        return None
    shape = table.shape
    if shape is None and (constant := table.constant()) is not None:
        shape = constant.shape
    extent = None if shape is None else shape[axis]
    return extent if isinstance(extent, int) else None


# -- floats ----------------------------------------------------------------------------------


def _float_draw(port: PortSpec, value: ValueRef | None, returned: bool) -> Draw:
    if returned or is_cache(port) or _STATE_NAME.search(port.name) or _starts_recurrence(value):
        return Noise(Affine(deviation=np.array(_STATE_DEVIATION)))
    image = image_axes(port)
    if image is not None:
        return Smooth(*image, scale=implied_scale(value, image=True))
    time = _time_axis(port, value)
    if time is not None:
        return Smooth((time,), scale=_SIGNAL)
    scale = implied_scale(value, image=False)
    return Noise(scale) if len(port_extents(port)) < 3 else Smooth((-2, -1), scale=scale)


def _time_axis(port: PortSpec, value: ValueRef | None) -> int | None:
    """Return the axis of a recording's samples, from the last: long, alone, not read by a dense layer."""
    shape = port_extents(port)
    long = [axis for axis in range(1 - len(shape), 0) if _is_long(shape[axis])]
    others = [shape[axis] for axis in range(1 - len(shape), 0) if axis not in long]
    if len(shape) not in (2, 3) or len(long) != 1 or any(extent != 1 for extent in others):
        return None
    dense = value is not None and any(node.op_type in ("Gemm", "MatMul") for node in value.uses())
    return None if dense else long[0]


def _is_long(extent: int | str | None) -> bool:
    return not isinstance(extent, int) or extent >= _SHORTEST_SIGNAL


def _starts_recurrence(value: ValueRef | None) -> bool:
    return any(index in _RECURRENT.get(node.op_type, ()) for node, index in _readers(value))
