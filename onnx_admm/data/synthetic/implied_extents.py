"""Extents of inputs that the first operators imply: channels of a Conv, the inner axis of a MatMul."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx_admm.contracts import ModelView, PortSpec
from onnx_admm.data.synthetic.caches import is_sequence
from onnx_admm.data.synthetic.shapes import Extent, port_extents
from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.model.operators import Trait, operators_with, second_operands

_SAME_SHAPE = operators_with(Trait.KEEPS_SHAPE) | {"ImageScaler"}
_SAME_CHANNELS = operators_with(Trait.KEEPS_CHANNELS)
_BROADCASTING = operators_with(Trait.BROADCASTS) - operators_with(Trait.DISCRETE)
_CONVOLUTIONS = second_operands(Trait.CONVOLVES)
_CONVOLUTIONS.pop("ConvTranspose")  # its weight begins with the input channels
_PRODUCTS = {name: index for name, index in second_operands(Trait.MULTIPLIES).items() if name != "Gemm"}
_RECURRENT = operators_with(Trait.RECURRENT)
_FIRST_SPATIAL = 2
_TIME = "frames"
"""Symbol of a first axis that counts no samples."""

Axes = tuple[int | None, ...]
"""For each axis of a value the corresponding axis of the input; None where there is none."""


@dataclass
class _Extents:
    """What is known of an input's axes.

    Attributes:
        found: extents by axis.
        products: products of the extents of several axes.
        begins_inside: whether the first axis is one inside a sample, such as time, and counts no samples.
    """

    found: dict[int, int] = field(default_factory=dict)
    products: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    begins_inside: bool = False

    def set(self, axis: int | None, extent: Extent) -> None:
        """Record an extent; the first axis counts samples and stays open."""
        if axis is not None and axis > 0 and isinstance(extent, int) and extent > 0:
            self.found.setdefault(axis, extent)


@dataclass(frozen=True)
class _Place:
    """A value on the path from an input.

    Attributes:
        value: the value.
        axes: axes of the input; empty behind a Reshape that makes rows of a sample.
        row: axes of the input whose product its last extent is; empty otherwise.
    """

    value: ValueRef
    axes: Axes
    row: tuple[int, ...] = ()


def with_implied_extents(model: ModelView, stated: Mapping[str, int] | None = None) -> tuple[PortSpec, ...]:
    """Return the model's inputs, with open extents as the first operators imply.

    An extent that one input shares with another by its symbol applies to both. First axes stay open; one that
    operators use as an axis inside a sample, such as time, gets the symbol of a sequence.

    Args:
        model: the model.
        stated: extents by symbol that are stated already; these symbols stay.
    """
    ports = model.signature().inputs
    values = _values(model, {port.name for port in ports})
    shapes = {site.name: site.shape for site in model.sites()}
    symbols: dict[str, int] = {}
    filled = []
    for port in ports:
        shape = list(port_extents(port))
        implied = _implied(port, values.get(port.name), shapes)
        if implied.begins_inside and not isinstance(shape[0], int) and shape[0] not in (stated or {}):
            shape[0] = shape[0] if shape[0] is not None and is_sequence(shape[0]) else _TIME
        for axis, extent in implied.found.items():
            symbol = shape[axis]
            if not isinstance(symbol, int) and symbol not in (stated or {}):
                shape[axis] = extent
                if symbol is not None:
                    symbols.setdefault(symbol, extent)
        filled.append(shape)
    return tuple(
        port
        if port.shape is None
        else replace(port, shape=tuple(_of_symbol(extent, symbols) for extent in shape))
        for port, shape in zip(ports, filled, strict=True)
    )


def _of_symbol(extent: Extent, symbols: Mapping[str, int]) -> Extent:
    return symbols.get(extent, extent) if isinstance(extent, str) else extent


def _values(model: ModelView, names: set[str]) -> dict[str, ValueRef]:
    return {
        value.name: value
        for node in model.nodes()
        for value in node.inputs
        if value is not None and value.name in names
    }


def _implied(port: PortSpec, value: ValueRef | None, shapes: Mapping[str, tuple[int, ...]]) -> _Extents:
    """Return what operators imply."""
    stated = port_extents(port)
    known = _Extents({axis: extent for axis, extent in enumerate(stated) if isinstance(extent, int)})
    pending = [] if value is None else [_Place(value, tuple(range(len(stated))))]
    seen = {place.value for place in pending}
    while pending:
        place = pending.pop(0)
        for node in place.value.uses():
            for index, operand in enumerate(node.inputs):
                if operand == place.value:
                    further = _read(node, index, place, known, shapes)
                    if further is not None and further.value not in seen:
                        seen.add(further.value)
                        pending.append(further)
    for axes, product in known.products:
        _solve(axes, product, known)
    return known


def _read(
    node: NodeRef, index: int, place: _Place, known: _Extents, shapes: Mapping[str, tuple[int, ...]]
) -> _Place | None:
    """Record what a node implies about its input ``index``; return what it passes on."""
    axes, kind = place.axes, node.op_type
    output = node.outputs[0] if node.outputs else None
    if kind in _PRODUCTS and index in (0, _PRODUCTS[kind]):
        _read_product(node, index, place, known, shapes)
    elif kind == "Gemm" and index == 0:
        weight = _shape(node.input(1), shapes)
        if len(weight) == 2:
            axis = 0 if node.attribute("transA", 0) else 1
            inner = weight[1 if node.attribute("transB", 0) else 0]
            _set_or_divide(place, axis, inner, known)
    elif not axes or output is None or index != 0:
        return _broadcast(node, place, known, shapes) if axes and kind in _BROADCASTING and output else None
    elif kind in _CONVOLUTIONS:
        weight = _shape(node.input(_CONVOLUTIONS[kind]), shapes)
        if len(weight) > 2 and isinstance(weight[1], int):
            known.set(_at(axes, 1), weight[1] * node.attribute("group", 1))
            known.begins_inside |= 0 in axes[_FIRST_SPATIAL:]
    elif kind == "ConvTranspose":
        known.set(_at(axes, 1), _at(_shape(node.input(1), shapes), 0))
        known.begins_inside |= 0 in axes[_FIRST_SPATIAL:]
    elif kind in ("BatchNormalization", "InstanceNormalization"):
        known.set(_at(axes, 1), _at(_shape(node.input(1), shapes), 0))
        return replace(place, value=output)
    elif kind in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"):
        _align(axes, _shape(node.input(1), shapes), known)
        return replace(place, value=output)
    elif kind in _RECURRENT:
        known.set(_at(axes, 2), _at(_shape(node.input(1), shapes), 2))
        time = node.attribute("layout", 0)
        known.begins_inside |= _at(axes, time) == 0 and _at(axes, 1 - time) is None
    elif kind in _SAME_SHAPE:
        return replace(place, value=output)
    elif kind in _BROADCASTING:
        return _broadcast(node, place, known, shapes)
    elif kind in _SAME_CHANNELS:
        return _Place(output, tuple(a if n < _FIRST_SPATIAL else None for n, a in enumerate(axes)))
    elif kind == "Transpose":
        turn = node.attribute("perm", tuple(reversed(range(len(axes)))))
        return _Place(output, tuple(_at(axes, n) for n in turn))
    elif kind in ("Squeeze", "Unsqueeze", "Slice"):
        passed = _moved(node, axes)
        return None if passed is None else _Place(output, passed)
    elif kind in ("Flatten", "Reshape"):
        return _read_reshape(node, place, known)
    return None


def _moved(node: NodeRef, axes: Axes) -> Axes | None:
    """Return the axes behind a Squeeze, an Unsqueeze or a Slice; None where those it works on are not told.

    What a Slice cuts has no axis of the input any more.
    """
    named = node.attribute("axes", None) or _integers(node.input(3 if node.op_type == "Slice" else 1))
    if not named:
        return None
    if node.op_type == "Unsqueeze":
        rank, rest = len(axes) + len(named), iter(axes)
        new = {axis % rank for axis in named}
        return tuple(None if axis in new else next(rest, None) for axis in range(rank))
    worked_on = {axis % len(axes) for axis in named}
    if node.op_type == "Squeeze":
        return tuple(axis for place, axis in enumerate(axes) if place not in worked_on)
    return tuple(None if place in worked_on else axis for place, axis in enumerate(axes))


def _read_product(
    node: NodeRef, index: int, place: _Place, known: _Extents, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    other = _shape(node.input(_PRODUCTS[node.op_type] if index == 0 else 0), shapes)
    if other:
        inner = other[-1] if index or len(other) == 1 else other[-2]
        rank = len(place.axes) or 2
        _set_or_divide(place, rank - 2 if index and rank > 1 else rank - 1, inner, known)


def _set_or_divide(place: _Place, axis: int, extent: Extent, known: _Extents) -> None:
    if place.row and axis == 1 and isinstance(extent, int) and extent > 0:
        known.products.append((place.row, extent))
    else:
        known.set(_at(place.axes, axis), extent)


def _broadcast(
    node: NodeRef, place: _Place, known: _Extents, shapes: Mapping[str, tuple[int, ...]]
) -> _Place | None:
    """Record extents above 1 of constants that are added, multiplied and the like."""
    others = [other for other in node.inputs if other is not None and other != place.value]
    for other in others:
        shape = _shape(other, shapes)
        if len(shape) > len(place.axes):
            return None
        if other.constant_shape is not None:
            _align(place.axes, shape, known)
    return replace(place, value=node.outputs[0])


def _align(axes: Axes, shape: Sequence[Extent], known: _Extents) -> None:
    for axis, extent in zip(reversed(axes), reversed(shape), strict=False):
        if extent != 1:
            known.set(axis, extent)


def _read_reshape(node: NodeRef, place: _Place, known: _Extents) -> _Place | None:
    """Record the number of a sample's elements from a Reshape or Flatten that keeps samples apart."""
    inner = tuple(axis for axis in place.axes[1:] if axis is not None)
    if place.axes[:1] != (0,) or len(inner) != len(place.axes) - 1:
        return None
    rows = _Place(node.outputs[0], (), inner)
    if node.op_type == "Flatten":
        return rows if node.attribute("axis", 1) == 1 else None
    target = _integers(node.input(1))
    if not target or target[0] not in (-1, 0, 1) or node.attribute("allowzero", 0):
        return None
    rest = [
        known.found.get(inner[n]) if size == 0 and n < len(inner) else size
        for n, size in enumerate(target[1:])
    ]
    if rest and all(size is not None and size > 0 for size in rest):
        known.products.append((inner, math.prod(size for size in rest if size is not None)))
        return None
    return rows if len(target) == 2 else None


def _solve(axes: Iterable[int], product: int, known: _Extents) -> None:
    """Solve for the open extents among axes of a known product; two open ones are assumed equal."""
    axes = tuple(axes)
    missing = [axis for axis in axes if axis not in known.found]
    rest, remainder = divmod(product, math.prod(known.found.get(axis, 1) for axis in axes) or 1)
    if remainder or not missing:
        return
    if len(missing) == 1:
        known.set(missing[0], rest)
    elif len(missing) == 2 and math.isqrt(rest) ** 2 == rest:
        for axis in missing:
            known.set(axis, math.isqrt(rest))


def _shape(value: ValueRef | None, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Extent, ...]:
    """Return the shape of a constant or a decoded weight; () for anything else."""
    if value is None:
        return ()
    return value.constant_shape or shapes.get(value.name, ())


def _integers(value: ValueRef | None) -> list[int]:
    shape = None if value is None else value.constant_shape
    if value is None or shape is None or len(shape) != 1 or shape[0] > 64:
        return []
    array = value.constant()
    return [] if array is None else [int(size) for size in array]


def _at(items: Sequence[int | None] | Sequence[Extent], index: int) -> int | None:
    item = items[index] if -len(items) <= index < len(items) else None
    return item if isinstance(item, int) else None
