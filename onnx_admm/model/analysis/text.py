"""Models from text, for readable tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_admm.errors import ModelError
from onnx_admm.model.files.wire_sizes import LEAST_IR_VERSION
from onnx_admm.model.view import ModelView


def parse_text(
    text: str,
    seed: int = 0,
    *,
    constants: Mapping[str, npt.ArrayLike] | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    is_checked: bool = True,
) -> ModelView:
    """Return a model from ``onnx.parser`` text.

    An initializer declared without values gets seeded random ones: weights from N(0, 2 / fan-in), where a
    matrix's fan-in is its longer side, and vectors from N(0, 0.1^2). Before IR version 4 initializers are
    listed among the inputs.

    Args:
        text: the model; graphs of subgraphs may declare initializers too.
        seed: decides the values.
        constants: initializers to add, by name; the text need not declare them.
        shapes: stored shapes of inner fp32 values, by name.
        is_checked: whether the model must be valid.

    Raises:
        ModelError: not the text of a model, or not a valid one.
    """
    try:
        proto = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise ModelError(f"not the text of a model ({error})") from error
    rng = np.random.default_rng(seed)
    for graph in _graphs(proto.graph):
        for value in list(graph.value_info):
            shape = [extent.dim_value for extent in value.type.tensor_type.shape.dim]
            fan_in = max(shape) if len(shape) == 2 else np.prod(shape[1:])
            deviation = 0.1 if len(shape) < 2 else np.sqrt(2 / fan_in)
            array = rng.normal(0.0, deviation, shape).astype(np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        del graph.value_info[:]
    for name, values in (constants or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    for name, extents in (shapes or {}).items():
        proto.graph.value_info.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(extents))
        )
    if proto.ir_version < LEAST_IR_VERSION:
        listed = {value.name for value in proto.graph.input}
        proto.graph.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in proto.graph.initializer
            if tensor.name not in listed
        )
    return ModelView.from_bytes(proto.SerializeToString()) if is_checked else ModelView(ir.from_proto(proto))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
