"""Activations that exporters write out: Gelu, HardSigmoid and Sigmoid in the operators that have kernels.

    Gelu, tanh   0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
    Gelu, erf    0.5 x (1 + erf(x / sqrt(2)))
    HardSigmoid  clip(x + 3, 0, 6) / 6
    Sigmoid      1 / (1 + exp(-x)), and x / (1 + exp(-x)) = x sigmoid(x)

Source: ONNX operators Gelu (opset 20), HardSigmoid (6), Sigmoid (6).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import onnx_ir as ir

from onnx_admm.model.rewrite.for_runtime.expressions import (
    Product,
    close,
    inner_producer,
    producer,
    product_of,
    scalar,
    sum_of,
)
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.replacing import insert_before, replace

_GELU_OPSET = 20
_TANH_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715
_ERF_SCALE = math.sqrt(0.5)


# -- Gelu ------------------------------------------------------------------------------------


def find_gelus(context: RewriteContext) -> Iterator[Match]:
    """Yield Gelus that the runtime does not fuse by itself: all with tanh, and unusual forms with erf."""
    for root in context.nodes("Mul"):
        whole = product_of(root.outputs[0])
        if len(whole.factors) != 2:
            continue
        for data, gate in (whole.factors, whole.factors[::-1]):
            found = _gelu(whole, data, gate)
            if found is None:
                continue
            approximate, inner = found
            nodes = (root, *whole.nodes[1:], *inner)
            if not context.keeps_form(data, root.outputs[0]):
                continue
            if approximate == "none" and _is_fused_erf(root, inner):
                continue
            what = f"{len(nodes)} nodes that compute a Gelu become one"
            attributes = {"approximate": approximate}
            yield Match(
                nodes, what, _GELU_OPSET, partial(_replace, context, root, "Gelu", [data], attributes)
            )
            break


def _gelu(whole: Product, data: ir.Value, gate: ir.Value) -> tuple[str, tuple[ir.Node, ...]] | None:
    """Return the form of ``constant * data * gate`` and the nodes of the gate, where it is a Gelu."""
    total = sum_of(gate)
    if len(total.addends) != 1:
        return None
    part = product_of(total.addends[0]) if inner_producer(total.addends[0], "Mul", "Div") else None
    part = part or Product(1.0, total.addends, ())
    if len(part.factors) != 1:
        return None
    if not (close(whole.constant * total.constant, 0.5) and close(whole.constant * part.constant, 0.5)):
        return None
    curve = inner_producer(part.factors[0], "Tanh", "Erf")
    if curve is None or curve.inputs[0] is None:
        return None
    argument = product_of(curve.inputs[0])
    nodes = (*total.nodes, *part.nodes, curve, *argument.nodes)
    if curve.op_type == "Erf":
        is_erf = argument.factors == (data,) and close(argument.constant, _ERF_SCALE)
        return ("none", nodes) if is_erf else None
    cubic = _cubic_nodes(argument, data)
    return None if cubic is None else ("tanh", (*nodes, *cubic))


def _cubic_nodes(argument: Product, data: ir.Value) -> tuple[ir.Node, ...] | None:
    """Return the nodes of ``x + 0.044715 x^3`` or ``1 + 0.044715 x^2`` within the argument of tanh."""
    if not close(argument.constant, _TANH_SCALE):
        return None
    rest = [factor for factor in argument.factors if factor is not data]
    is_factored = len(argument.factors) == 2 and len(rest) == 1
    if len(rest) != 1 or len(argument.factors) > 2:
        return None
    total = sum_of(rest[0])
    powers = [addend for addend in total.addends if addend is not data]
    if len(powers) != 1 or not (close(total.constant, 1.0) if is_factored else total.constant == 0.0):
        return None
    if len(total.addends) != (1 if is_factored else 2):
        return None
    power = product_of(powers[0])
    is_power = power.factors == (data,) * (2 if is_factored else 3) and close(power.constant, _CUBIC)
    return (*total.nodes, *power.nodes) if is_power else None


def _is_fused_erf(root: ir.Node, inner: Sequence[ir.Node]) -> bool:
    """Return whether the runtime fuses it: ``x / sqrt(2)`` by Div, Erf, Add 1, then two Mul."""
    kinds = sorted(node.op_type for node in inner)
    scale = next((node for node in inner if node.op_type == "Div"), None)
    return root.op_type == "Mul" and kinds == ["Add", "Div", "Erf"] and scale is not None


# -- HardSigmoid and Sigmoid -----------------------------------------------------------------


def find_hard_sigmoids(context: RewriteContext) -> Iterator[Match]:
    """Yield ``clip(x + 3, 0, 6) / 6``, alone or times ``x`` (HardSwish)."""
    for root in context.nodes("Mul", "Div"):
        whole = product_of(root.outputs[0])
        if not close(whole.constant, 1 / 6) or len(whole.factors) > 2:
            continue
        for clipped in whole.factors:
            found = _clipped_input(clipped)
            others = [factor for factor in whole.factors if factor is not clipped]
            if found is None or len(others) != len(whole.factors) - 1:
                continue
            data, inner = found
            if not context.keeps_form(data, root.outputs[0] if not others else clipped):
                continue
            what = f"{len(whole.nodes) + len(inner)} nodes that compute a HardSigmoid become one"
            apply = partial(_to_hard_sigmoid, context, root, data, others)
            yield Match((root, *whole.nodes[1:], *inner), what, 6, apply)
            break


def _clipped_input(value: ir.Value) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """Return ``x`` of ``clip(x + 3, 0, 6)`` and its nodes."""
    clip = inner_producer(value, "Clip")
    if clip is None or clip.inputs[0] is None or _clip_limits(clip) != (0.0, 6.0):
        return None
    shifted = sum_of(clip.inputs[0]) if inner_producer(clip.inputs[0], "Add") else None
    if shifted is None or shifted.constant != 3.0 or len(shifted.addends) != 1:
        return None
    return shifted.addends[0], (clip, *shifted.nodes)


def _clip_limits(clip: ir.Node) -> tuple[float | None, float | None]:
    """Return the limits of a Clip, from attributes (opset 6) or inputs (11)."""
    if len(clip.inputs) == 1:
        least, most = clip.attributes.get_float("min", None), clip.attributes.get_float("max", None)
        return least, most
    low, high = (*clip.inputs[1:], None)[:2]
    return scalar(low), scalar(high)


def _to_hard_sigmoid(
    context: RewriteContext, root: ir.Node, data: ir.Value, others: Sequence[ir.Value]
) -> None:
    attributes = {"alpha": 1 / 6, "beta": 0.5}
    if not others:
        _replace(context, root, "HardSigmoid", [data], attributes)
        return
    gate = insert_before(context, root, "HardSigmoid", [data], attributes)
    _replace(context, root, "Mul", [others[0], gate], {})


def find_sigmoids(context: RewriteContext) -> Iterator[Match]:
    """Yield ``1 / (1 + exp(-x))`` and ``y / (1 + exp(-x))``."""
    for root in context.nodes("Div", "Reciprocal"):
        below = root.inputs[-1]
        if below is None or not inner_producer(below, "Add"):
            continue
        total = sum_of(below)
        if total.constant != 1.0 or len(total.addends) != 1:
            continue
        exponential = inner_producer(total.addends[0], "Exp")
        negated = None if exponential is None else exponential.inputs[0]
        argument = None if negated is None or producer(negated, "Neg", "Mul") is None else product_of(negated)
        if exponential is None or argument is None or argument.constant != -1.0 or len(argument.factors) != 1:
            continue
        if not context.keeps_form(argument.factors[0], below):
            continue
        above = root.inputs[0] if root.op_type == "Div" else None
        nodes = (root, *total.nodes, exponential, *argument.nodes)
        what = f"{len(nodes)} nodes that compute a Sigmoid become one"
        apply = partial(_to_sigmoid, context, root, above, argument.factors[0])
        yield Match(nodes, what, 6, apply)


def _to_sigmoid(context: RewriteContext, root: ir.Node, above: ir.Value | None, data: ir.Value) -> None:
    if above is None or scalar(above) == 1.0:
        _replace(context, root, "Sigmoid", [data], {})
        return
    gate = insert_before(context, root, "Sigmoid", [data])
    _replace(context, root, "Mul", [above, gate], {})


def _replace(
    context: RewriteContext,
    root: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    attributes: Mapping[str, float | str],
) -> None:
    replace(context, root, op_type, inputs, attributes)
