"""Linear layers with dequantised weights, in the form that becomes an integer or low-bit kernel.

The runtime replaces DequantizeLinear and Gemm or MatMul by one kernel, unless

    a Relu or Clip follows that no QuantizeLinear makes redundant: ThresholdedRelu(alpha = 0), Max and Min do
      not stand in its way
    a Gemm reads its weight transposed and its data in fp32: the weight is stored transposed instead
    the bias is a matrix of one row: a vector is added to each row just so
    a float bias is added to a product of two dequantised matrices: a Gemm with an int32 bias has a kernel
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_admm.model.rewrite.for_runtime.expressions import is_inner, reader, scalar
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.quantised.dequantised import Dequantised, dequantised, stored_array
from onnx_admm.model.rewrite.for_runtime.replacing import constant_for, insert_before, replace

_THRESHOLDED_SINCE = 10
_PER_CHANNEL_SINCE = 13
_MOST_INT32 = 2**31 - 1
_CLOSE_SCALES = 1e-3
_LIMITED = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""Types that Max and Min are computed in behind a layer."""


# -- a Relu or Clip behind the layer ---------------------------------------------------------


def find_relus_behind_weights(context: RewriteContext) -> Iterator[Match]:
    """Yield Relu and Clip that keep a layer with a dequantised weight from its kernel."""
    for layer in context.nodes("Gemm", "MatMul"):
        weight = dequantised(layer.inputs[1], context.dtypes)
        if weight is None or weight.bits is None or not context.is_constant(weight.codes):
            continue
        last = layer
        if layer.op_type == "MatMul" and (added := reader(layer.outputs[0], "Add")) is not None:
            last = added
        limit = reader(last.outputs[0], "Relu", "Clip")
        if limit is None or limit.outputs[0].is_graph_output() or _reaches_quantize(layer, limit):
            continue
        bounds = _bounds(limit)
        if bounds is None or (bounds != (0.0, None) and _dtype(context, limit) is None):
            continue
        form = "ThresholdedRelu(alpha = 0)" if bounds == (0.0, None) else "Max and Min"
        what = f"{limit.op_type} behind {layer.op_type} with a dequantised weight is written as {form}"
        yield Match((layer, limit), what, _THRESHOLDED_SINCE, partial(_limit, context, limit, bounds))


def _reaches_quantize(layer: ir.Node, limit: ir.Node) -> bool:
    """Return whether the layer is integer through and through: quantised data in, QuantizeLinear behind."""
    if dequantised(layer.inputs[0]) is None:
        return False
    return any(use.node.op_type == "QuantizeLinear" for use in limit.outputs[0].uses())


def _bounds(limit: ir.Node) -> tuple[float | None, float | None] | None:
    """Return least and most value, None for an open one; None where they are computed."""
    if limit.op_type == "Relu":
        return 0.0, None
    if len(limit.inputs) == 1:
        low, high = limit.attributes.get_float("min", None), limit.attributes.get_float("max", None)
        return None if low is None and high is None else (low, high)
    given = (*limit.inputs[1:], None)[:2]
    numbers = tuple(scalar(value) for value in given)
    if any(number is None and value is not None for number, value in zip(numbers, given, strict=True)):
        return None
    return None if numbers == (None, None) else (numbers[0], numbers[1])


def _dtype(context: RewriteContext, limit: ir.Node) -> np.dtype | None:
    """Return the type of what is limited, and so of the constants of Max and Min; None where unknown."""
    data = limit.inputs[0]
    dtype = None if data is None else context.dtypes.get(data)
    return dtype.numpy() if dtype in _LIMITED else None


def _limit(context: RewriteContext, limit: ir.Node, bounds: tuple[float | None, float | None]) -> None:
    low, high = bounds
    if bounds == (0.0, None):
        replace(context, limit, "ThresholdedRelu", [limit.inputs[0]], {"alpha": 0.0})
        return
    dtype = _dtype(context, limit)
    steps = [
        (op_type, np.asarray(bound, dtype))
        for op_type, bound in (("Max", low), ("Min", high))
        if bound is not None
    ]
    value = limit.inputs[0]
    name = limit.outputs[0].name or limit.op_type
    for op_type, bound in steps[:-1]:
        value = insert_before(context, limit, op_type, [value, None])
        inserted = value.producer()
        if inserted is not None:
            constant_for(context, inserted, 1, bound, f"{name}_{op_type}")
    op_type, bound = steps[-1]
    node = replace(context, limit, op_type, [value, None])
    constant_for(context, node, 1, bound, f"{name}_{op_type}")


# -- weights that a Gemm reads transposed ----------------------------------------------------


def find_transposed_weights(context: RewriteContext) -> Iterator[Match]:
    """Yield Gemms with fp32 data and ``transB = 1`` whose weight is dequantised for them alone."""
    for layer in context.nodes("Gemm"):
        attributes = layer.attributes
        turned = {name: bool(attributes.get_int(name, 0)) for name in ("transA", "transB")}
        if not turned["transB"] or turned["transA"]:
            continue
        weight = dequantised(layer.inputs[1])
        if weight is None or weight.shape is None or len(weight.shape) != 2 or weight.bits is None:
            continue
        is_plain = attributes.get_float("alpha", 1.0) == 1.0 and attributes.get_float("beta", 1.0) == 1.0
        if not is_plain or dequantised(layer.inputs[0]) is not None:
            continue
        if not is_inner(weight.node.outputs[0]) or stored_array(weight.scale) is None:
            continue
        if weight.zero_point is not None and stored_array(weight.zero_point) is None:
            continue
        what = "the dequantised weight of a Gemm is stored transposed, and transB goes"
        yield Match((layer, weight.node), what, 10, partial(_transpose, context, layer, weight))


def _transpose(context: RewriteContext, layer: ir.Node, weight: Dequantised) -> None:
    codes = stored_array(weight.codes)
    if codes is None:
        return
    node, name = weight.node, weight.codes.name or "weight"
    output = node.outputs[0]
    constant_for(context, node, 0, np.ascontiguousarray(codes.T), f"{name}_transposed")
    for index, value in ((1, weight.scale), (2, weight.zero_point)):
        array = stored_array(value)
        if array is not None and array.ndim == 2:
            constant_for(context, node, index, np.ascontiguousarray(array.T), f"{name}_{index}_transposed")
    if not weight.is_per_tensor:
        axis = weight.axis % 2
        node.attributes.add(ir.AttrInt64("axis", 1 - axis))
    output.shape = None
    del layer.attributes["transB"]


# -- biases that are matrices of one row -----------------------------------------------------


def find_row_biases(context: RewriteContext) -> Iterator[Match]:
    """Yield biases of shape (1, N) behind fp32 data and a dequantised weight.

    The sum of a vector and such a bias has an axis more than that of two vectors, so what a bias is added to
    must have two axes or more.
    """
    for layer in context.nodes("Gemm", "MatMul"):
        weight = dequantised(layer.inputs[1], context.dtypes)
        if weight is None or weight.bits is None or dequantised(layer.inputs[0]) is not None:
            continue
        owner = layer if layer.op_type == "Gemm" else reader(layer.outputs[0], "Add")
        if owner is not layer and len(context.shapes.get(layer.outputs[0], ())) < 2:
            continue
        for place in _places_of_bias(owner, layer):
            bias = None if owner is None else stored_array(owner.inputs[place])
            if owner is not None and bias is not None and bias.ndim == 2 and bias.shape[0] == 1:
                what = f"a bias of shape {bias.shape} becomes a vector"
                yield Match((owner, layer), what, 7, partial(_flatten, context, owner, place, bias))


def _places_of_bias(owner: ir.Node | None, layer: ir.Node) -> Sequence[int]:
    if owner is None:
        return ()
    if owner is layer:
        return (2,) if len(layer.inputs) > 2 else ()
    return tuple(place for place, value in enumerate(owner.inputs) if value is not layer.outputs[0])


def _flatten(context: RewriteContext, owner: ir.Node, place: int, bias: np.ndarray) -> None:
    value = owner.inputs[place]
    name = "bias" if value is None or not value.name else value.name
    constant_for(context, owner, place, bias.reshape(-1), f"{name}_vector")


# -- float biases of integer products --------------------------------------------------------


def find_float_biases(context: RewriteContext) -> Iterator[Match]:
    """Yield matrix products of two dequantised values with a float bias, which a Gemm with int32 has not."""
    for layer in context.nodes("MatMul", "Gemm"):
        data, weight = dequantised(layer.inputs[0]), dequantised(layer.inputs[1])
        if data is None or weight is None or weight.shape is None or len(weight.shape) != 2:
            continue
        if not data.is_per_tensor or weight.bits != 8 or weight.block or data.is_stored:
            continue
        rank = context.shapes.get(data.node.outputs[0])
        if rank is None or len(rank) != 2 or not _is_plain(layer):
            continue
        root = layer if layer.op_type == "Gemm" else reader(layer.outputs[0], "Add")
        if root is None:
            continue
        bias = _bias(root, layer)
        codes = None if bias is None else _codes(bias, data, weight, layer)
        if codes is None or (codes[1].size > 1 and context.view.opset < _PER_CHANNEL_SINCE):
            continue
        what = f"{layer.op_type} with a float bias becomes Gemm with an int32 bias"
        nodes = (layer,) if root is layer else (layer, root)
        apply = partial(_quantise_bias, context, layer, root, codes)
        yield Match(nodes, what, 10, apply)


def _is_plain(layer: ir.Node) -> bool:
    attributes = layer.attributes
    scaled = attributes.get_float("alpha", 1.0) != 1.0 or attributes.get_float("beta", 1.0) != 1.0
    return not scaled and not attributes.get_int("transA", 0)


def _bias(root: ir.Node, layer: ir.Node) -> np.ndarray | None:
    """Return the bias as a vector; None where it is none, or not stored in fp32."""
    if root is layer:
        value = layer.inputs[2] if len(layer.inputs) > 2 else None
    else:
        value = next((value for value in root.inputs if value is not layer.outputs[0]), None)
    array = stored_array(value)
    if array is None or array.dtype != np.float32 or array.ndim > 2:
        return None
    is_row = array.ndim == 1 or (array.ndim == 2 and array.shape[0] == 1)
    return array.reshape(-1) if is_row else None


def _codes(
    bias: np.ndarray, data: Dequantised, weight: Dequantised, layer: ir.Node
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the bias as int32, and its scale: that of the data times that of the weight."""
    data_scale, weight_scale = stored_array(data.scale), stored_array(weight.scale)
    shape = weight.shape
    if data_scale is None or weight_scale is None or shape is None:
        return None
    out_axis = 0 if layer.attributes.get_int("transB", 0) else 1
    columns = shape[out_axis]
    if weight_scale.size > 1 and weight.axis % 2 != out_axis:
        return None
    scale = (data_scale.reshape(-1) * weight_scale.reshape(-1)).astype(np.float32)
    if bias.size != columns or scale.size not in (1, columns) or not (scale > 0).all():
        return None
    codes = np.rint(bias.astype(np.float64) / scale)
    if not np.isfinite(codes).all() or np.abs(codes).max(initial=0) > _MOST_INT32:
        return None
    return codes.astype(np.int32), scale if scale.size > 1 else scale.reshape(())


def _quantise_bias(
    context: RewriteContext, layer: ir.Node, root: ir.Node, codes: tuple[np.ndarray, np.ndarray]
) -> None:
    bias, scale = codes
    name = root.outputs[0].name or "bias"
    attributes = {"axis": 0} if scale.ndim else {}
    value = insert_before(context, root, "DequantizeLinear", [None, None, None], attributes)
    node = value.producer()
    if node is None:
        return
    constant_for(context, node, 0, bias, f"{name}_bias")
    constant_for(context, node, 1, scale, f"{name}_bias_scale")
    constant_for(context, node, 2, np.zeros_like(bias, shape=scale.shape), f"{name}_bias_zero_point")
    kept = {"transB": 1} if layer.attributes.get_int("transB", 0) else {}
    replace(context, root, "Gemm", [layer.inputs[0], layer.inputs[1], value], kept)


# -- int32 biases of another scale -----------------------------------------------------------


def find_bias_scales(context: RewriteContext) -> Iterator[Match]:
    """Yield int32 biases whose scale is not that of the data times that of the weight.

    The integer Gemm adds them as they are, and so computes something else than the graph says; a Conv with
    one stays in fp32.
    """
    for layer in context.nodes("Gemm", "Conv"):
        data, weight = dequantised(layer.inputs[0]), dequantised(layer.inputs[1])
        bias = dequantised(layer.inputs[2]) if len(layer.inputs) > 2 else None
        if data is None or weight is None or bias is None or not data.is_per_tensor or weight.block:
            continue
        if bias.dtype != ir.DataType.INT32 or (bias.zero_point is not None and _is_shifted(bias)):
            continue
        codes, scale = stored_array(bias.codes), stored_array(bias.scale)
        data_scale, weight_scale = stored_array(data.scale), stored_array(weight.scale)
        if codes is None or scale is None or data_scale is None or weight_scale is None:
            continue
        right = (data_scale.reshape(-1) * weight_scale.reshape(-1)).astype(np.float32)
        if codes.ndim != 1 or scale.size not in (1, codes.size) or right.size not in (1, codes.size):
            continue
        if np.allclose(scale.reshape(-1), right, rtol=_CLOSE_SCALES, atol=0) or not (right > 0).all():
            continue
        exact = codes.astype(np.float64) * scale.reshape(-1) / right
        if np.abs(exact).max(initial=0) > _MOST_INT32 or (right.size > 1 and context.view.opset < 13):
            continue
        what = f"the int32 bias of a {layer.op_type} gets the scale that its kernel adds it with"
        new = np.rint(exact).astype(np.int32), right if right.size > 1 else right.reshape(())
        yield Match((layer, bias.node), what, 10, partial(_rescale, context, bias, new))


def _is_shifted(bias: Dequantised) -> bool:
    point = stored_array(bias.zero_point)
    return point is None or bool(point.any())


def _rescale(context: RewriteContext, bias: Dequantised, new: tuple[np.ndarray, np.ndarray]) -> None:
    codes, scale = new
    name = bias.node.outputs[0].name or "bias"
    constant_for(context, bias.node, 0, codes, f"{name}_codes")
    constant_for(context, bias.node, 1, scale, f"{name}_scale")
    constant_for(context, bias.node, 2, np.zeros(scale.shape, np.int32), f"{name}_zero_point")
    bias.node.attributes.pop("axis", None)
    if scale.ndim:
        bias.node.attributes.add(ir.AttrInt64("axis", 0))
