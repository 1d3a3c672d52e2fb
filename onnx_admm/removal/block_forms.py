"""Forms that can replace a residual block: its entry unchanged, or one linear layer.

A convolution that replaces several has their stride and the centres of their windows. With kernels k_i,
strides s_i, dilations d_i and pads (p_i, q_i) on the way from the entry, output o is centred at the input
place ``o * prod(s) + c``, with

    c = sum_i prod_{j<i}(s_j) * ((k_i - 1) d_i / 2 - p_i),

and a kernel K with dilation D needs the pad ``(K - 1) D / 2 - c`` at the beginning; the pad at the end
follows in the same way from q_i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from onnx_admm.calibration.windows import Windows, convolution_windows
from onnx_admm.contracts import Array, Feeds, ModelView
from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.model.analysis.shape_propagation import extents
from onnx_admm.model.analysis.shapes import Shape, infer
from onnx_admm.model.operators import Trait, operators_with
from onnx_admm.removal.residual_blocks import ResidualBlock

_WINDOWED = operators_with(Trait.WINDOWED) & (operators_with(Trait.POOLS) | {"Conv"})
_IN_PLACE = operators_with(Trait.UNARY, Trait.BROADCASTS, Trait.KEEPS_SHAPE, Trait.NORMALISES) - {
    "LayerNormalization"
}

Kind = Literal["dropped", "merged"]
DROPPED: Kind = "dropped"
MERGED: Kind = "merged"


@dataclass(frozen=True, eq=False)
class BlockForm:
    """One form that a block may take.

    Attributes:
        kind: ``"dropped"`` or ``"merged"``.
        what: the form in words.
        op_type: operator in the place of the Add: Identity, Conv, Gemm or MatMul.
        weights: weights before they are fitted, from which the ridge term measures the distance: the identity
            where the entry has the shape of the sum, else zeros; None for Identity.
        attributes: attributes of the operator.
    """

    kind: Kind
    what: str
    op_type: str
    weights: Array | None = None
    attributes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


_BATCH = 3
"""Extent of open first axes where shapes are compared."""


class NoForm(Exception):
    """The reason why a block has no linear form; its text ends a sentence."""


def shapes_by_name(model: ModelView) -> dict[str, Shape]:
    """Return inferred shapes of values; an open first axis counts as 3, so that it equals no axis of 1."""
    copies = infer(model, first_axis=_BATCH).inferred_copies
    return {
        value.name: extents(copy) for value, copy in copies.items() if value.name and copy.shape is not None
    }


def why_broadcast(block: ResidualBlock, shapes: Mapping[str, Shape]) -> str | None:
    """Return why a block's entry cannot replace its sum, where their shapes differ for some batch."""
    entry, total = shapes.get(block.entry.name), shapes.get(block.output.name)
    if not block.is_identity or entry is None or total is None or entry == total:
        return None
    return f"its sum is broadcast: {list(entry)} goes in, {list(total)} comes out (open first axes: {_BATCH})"


def forms_of(
    block: ResidualBlock, values: Feeds, kinds: Sequence[Kind]
) -> tuple[list[BlockForm], str | None]:
    """Return the forms of the requested kinds that fit a block, and the reasons against the others.

    Args:
        block: the block, in the original.
        values: entry, shortcut and sum for some samples, by name.
        kinds: requested kinds.
    """
    entry, total = values[block.entry.name], values[block.output.name]
    if not np.issubdtype(total.dtype, np.floating) or entry.dtype != total.dtype:
        return [], "its values are no floats of one type"
    forms, why = list[BlockForm](), None
    if block.is_identity and DROPPED in kinds:
        if entry.shape == total.shape:
            forms.append(BlockForm(DROPPED, "the branch removed", "Identity"))
        else:
            why = f"its branch changes the shape from {entry.shape} to {total.shape}"
    try:
        if not block.is_identity and DROPPED in kinds:
            forms += _linear(block, block.shortcut, values, DROPPED)[:1]
        if MERGED in kinds:
            forms += _linear(block, block.branch, values, MERGED)
    except NoForm as reason:
        why = str(reason)
    return forms, why


def put_form(model: ModelView, block: ResidualBlock, form: BlockForm) -> str | None:
    """Put a form in the place of a block; return the name of its new weight, if any.

    The node that computes the block's sum at present is replaced, so that names of values stay.
    """
    output, entry = _value(model, block.output.name), _value(model, block.entry.name)
    place = output.producer()
    if place is None:
        raise ValueError(f"no node computes {block.output.name}")
    if form.weights is None:
        model.replace_node(place, form.op_type, [entry])
        model.strip_unused()
        return None
    bias = np.zeros(form.weights.shape[0 if form.op_type == "Conv" else 1], form.weights.dtype)
    if form.op_type == "MatMul":
        layer = model.insert_before(place, "MatMul", [entry], f"{block.name}_product")
        sum_node = model.replace_node(place, "Add", [layer.outputs[0]])
        model.add_constant(sum_node, 1, bias, f"{block.name}_bias")
    else:
        layer = model.replace_node(place, form.op_type, [entry], dict(form.attributes))
    name = model.add_constant(layer, 1, form.weights, f"{block.name}_weight").name
    if form.op_type != "MatMul":
        model.add_constant(layer, 2, bias, f"{block.name}_bias")
    model.strip_unused()
    return name


def has_value(model: ModelView, name: str) -> bool:
    """Return whether a node of the main graph computes a value of that name."""
    return any(value.name == name for node in model.nodes() if not node.scope for value in node.outputs)


def _value(model: ModelView, name: str) -> ValueRef:
    for node in model.nodes():
        for value in (*node.outputs, *node.inputs):
            if value is not None and value.name == name and not node.scope:
                return value
    raise ValueError(f"no value {name}")


# -- linear forms ----------------------------------------------------------------------------


def _linear(block: ResidualBlock, end: ValueRef, values: Feeds, kind: Kind) -> list[BlockForm]:
    """Return the linear layers that can replace the path from the entry to one operand.

    Raises:
        NoForm: none can.
    """
    operators = {node.op_type for node in block.nodes}
    if "Conv" in operators:
        return _convolutions(block, end, values, kind)
    if not operators.isdisjoint(("Gemm", "MatMul")):
        return [_product(block, values, kind)]
    raise NoForm("its branch has no convolution or product")


def _product(block: ResidualBlock, values: Feeds, kind: Kind) -> BlockForm:
    entry, total = values[block.entry.name], values[block.output.name]
    if entry.ndim < 2 or entry.shape[:-1] != total.shape[:-1]:
        raise NoForm(f"its branch changes the shape from {entry.shape} to {total.shape}")
    weights = np.zeros((entry.shape[-1], total.shape[-1]), total.dtype)
    if block.is_identity and entry.shape == total.shape:
        np.fill_diagonal(weights, 1)
    return BlockForm(kind, "one product", "Gemm" if entry.ndim == 2 else "MatMul", weights)


def _convolutions(block: ResidualBlock, end: ValueRef, values: Feeds, kind: Kind) -> list[BlockForm]:
    """Return a convolution with the largest kernel on the path, and one with a kernel of 1."""
    entry, total = values[block.entry.name], values[block.output.name]
    if entry.ndim < 3 or entry.ndim != total.ndim:
        raise NoForm(f"its branch changes the shape from {entry.shape} to {total.shape}")
    way = _windows(block, end, entry.shape[2:])
    largest = tuple(
        max(
            ((each.kernel[axis], each.dilations[axis]) for each in way),
            key=lambda pair: (pair[0] - 1) * pair[1],
        )
        for axis in range(entry.ndim - 2)
    )
    kernels = dict.fromkeys((largest, ((1, 1),) * len(largest)))
    forms = [_convolution(block, way, kernel, values, kind) for kernel in kernels]
    found = [form for form in forms if form is not None]
    if not found:
        raise NoForm("no convolution reads the same places as its branch")
    return found


def _convolution(
    block: ResidualBlock, way: Sequence[Windows], kernel: Sequence[tuple[int, int]], values: Feeds, kind: Kind
) -> BlockForm | None:
    entry, total = values[block.entry.name], values[block.output.name]
    extents = tuple(size for size, _ in kernel)
    dilations = tuple(dilation for _, dilation in kernel)
    strides, pads = [], []
    for axis, (size, dilation) in enumerate(kernel):
        step, front, behind = 1, 0.0, 0.0
        for each in way:
            half = (each.kernel[axis] - 1) * each.dilations[axis] / 2
            front += step * (half - each.pads[axis][0])
            behind += step * (half - each.pads[axis][1])
            step *= each.strides[axis]
        half = (size - 1) * dilation / 2
        strides.append(step)
        pads.append((math.floor(half - front), math.ceil(half - behind)))
    if set(extents) == {1} and min(map(min, pads)) < 0:  # the middle of a causal branch lies in the past
        pads = [(0, 0)] * len(pads)
    windows = Windows(extents, tuple(strides), dilations, tuple(pads))
    if min(map(min, pads)) < 0 or windows.extents(entry.shape[2:]) != total.shape[2:]:
        return None
    weights = np.zeros((total.shape[1], entry.shape[1], *extents), total.dtype)
    at = [divmod(front, dilation) for (front, _), dilation in zip(pads, dilations, strict=True)]
    if block.is_identity and entry.shape == total.shape and not any(rest for _, rest in at):
        middle = np.zeros(extents, total.dtype)  # the output's own place among the kernel's
        middle[tuple(np.s_[tap : tap + 1] for tap, _ in at)] = 1
        weights += (
            np.eye(len(weights), dtype=total.dtype).reshape(*weights.shape[:2], *(1,) * len(extents)) * middle
        )
    attributes = {
        "kernel_shape": extents,
        "strides": tuple(strides),
        "dilations": dilations,
        "pads": (*(pair[0] for pair in pads), *(pair[1] for pair in pads)),
    }
    what = f"one convolution of {'x'.join(map(str, extents))}"
    return BlockForm(kind, what, "Conv", weights, attributes)


def _windows(block: ResidualBlock, end: ValueRef, spatial: Sequence[int]) -> list[Windows]:
    """Return the windows on one path from the entry to an operand, in graph order.

    Raises:
        NoForm: every path has an operator that neither keeps positions nor slides a window.
    """
    nodes, known = set(block.nodes), dict[ValueRef, list[Windows] | str]()
    for node in block.nodes:
        for output in node.outputs:
            known[output] = f"{node.op_type} in its branch is not followed by windows"
        ways = [
            [] if value == block.entry else known[value]
            for value in node.inputs
            if value is not None and (value == block.entry or value.producer() in nodes)
        ]
        if node.op_type in _WINDOWED:
            before = ways[0]
            known[node.outputs[0]] = (
                before if isinstance(before, str) else [*before, _window(node, before, spatial)]
            )
        elif node.op_type in _IN_PLACE:
            followed = [way for way in ways if not isinstance(way, str)]
            known[node.outputs[0]] = max(followed, key=len) if followed else ways[0]
    way = [] if end == block.entry else known[end]
    if isinstance(way, str):
        raise NoForm(way)
    return way


def _window(node: NodeRef, before: Sequence[Windows], spatial: Sequence[int]) -> Windows:
    for each in before:
        spatial = each.extents(spatial)
    weight = node.input(1) if node.op_type == "Conv" else None
    stored = None if weight is None else weight.constant_shape
    kernel = node.attribute("kernel_shape", stored[2:] if stored else None)
    if kernel is None or node.attribute("ceil_mode", 0):
        raise NoForm(f"the windows of {node.name} are not known")
    return convolution_windows(node, tuple(kernel), spatial)
