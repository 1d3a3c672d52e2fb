"""Weights that no integer kernel takes are computed once, as the file is loaded, and not in every run.

The runtime keeps DequantizeLinear nodes for its integer kernels. Where none takes a weight, it is dequantised
in every run. ``(Cast (codes) - zero point) * scale`` gives the same numbers and is folded into a constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.quantised.dequantised import Dequantised, dequantised, stored_array
from onnx_admm.model.rewrite.for_runtime.replacing import constant_for, insert_before, replace

_CAST_BITS = 8
"""Released runtimes have no Cast from narrower codes."""


def find_unfused_weights(context: RewriteContext) -> Iterator[Match]:
    """Yield dequantised weights of convolutions with data in fp32."""
    for layer in context.nodes("Conv", "ConvTranspose"):
        weight = dequantised(layer.inputs[1], context.dtypes)
        if weight is None or weight.bits != _CAST_BITS or not context.is_constant(weight.codes):
            continue
        if dequantised(layer.inputs[0]) is not None or weight.block:
            continue
        output, scale = weight.node.outputs[0], stored_array(weight.scale)
        point = stored_array(weight.zero_point)
        is_known = weight.zero_point is None or point is not None
        shape = weight.shape or context.shapes.get(weight.codes)
        if scale is None or scale.dtype != np.float32 or not is_known or shape is None:
            continue
        if any(use.node.op_type not in ("Conv", "ConvTranspose") for use in output.uses()):
            continue
        what = f"the weight of a {layer.op_type} is dequantised as the file is loaded"
        apply = partial(_decode_by_cast, context, weight, (scale, point), len(shape))
        yield Match((layer, weight.node), what, 10, apply)


def _decode_by_cast(
    context: RewriteContext,
    weight: Dequantised,
    parameters: tuple[np.ndarray, np.ndarray | None],
    rank: int,
) -> None:
    node, (scale, point) = weight.node, parameters
    name = node.outputs[0].name or "weight"
    value = insert_before(context, node, "Cast", [weight.codes], {"to": ir.DataType.FLOAT.value})
    if point is not None and point.astype(np.float32).any():
        value = insert_before(context, node, "Sub", [value, None])
        shifted = value.producer()
        if shifted is not None:
            constant_for(context, shifted, 1, _along(point, weight, rank), f"{name}_zero_point")
    product = replace(context, node, "Mul", [value])
    constant_for(context, product, 1, _along(scale, weight, rank), f"{name}_scale")


def _along(array: np.ndarray, weight: Dequantised, rank: int) -> np.ndarray:
    """Return scales or zero points in fp32, of a shape that broadcasts over the codes."""
    if array.size == 1:
        return array.astype(np.float32).reshape(())
    shape = [1] * rank
    shape[weight.axis % rank] = array.size
    return array.astype(np.float32).reshape(shape)
