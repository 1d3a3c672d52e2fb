"""Whether two models are the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnx_admm.model.view import ModelView


def fingerprint(view: ModelView) -> str:
    """A digest of graph, weights and metadata.

    How a tensor is held (raw bytes, typed fields, a file beside the model) and what one inside a Constant
    node is called do not count.
    """
    digest = hashlib.sha256()
    skeleton = view.fork().graph_ir
    for graph in skeleton.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
                value.const_value = _take(value.const_value, value.name, digest)
    bodies: list[Iterable[ir.Node]] = [*skeleton.graphs(), *skeleton.functions.values()]
    for node in (node for body in bodies for node in body if node.op_type == "Constant"):
        held = node.attributes.get("value")
        if held is not None and held.type == ir.AttributeType.TENSOR and not held.is_ref():
            tensor = held.as_tensor()
            if tensor.dtype != ir.DataType.STRING:
                node.attributes.add(ir.AttrTensor("value", _take(tensor, node.outputs[0].name, digest)))
    digest.update(ir.to_proto(skeleton).SerializeToString(deterministic=True))
    return digest.hexdigest()


def _take(tensor: ir.TensorProtocol, name: str | None, digest: hashlib._Hash) -> ir.TensorProtocol:
    """Put a tensor's content into the digest; what stands for it in the skeleton."""
    notes = sorted(tensor.metadata_props.items())  # a tensor to be written sparse carries a mark
    digest.update(repr((name, tensor.dtype, tuple(tensor.shape.numpy()), notes)).encode())
    digest.update(tensor.tobytes())
    return ir.tensor(np.zeros(0, np.uint8), name=name)
