"""Fingerprints of models, to compare two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnx_admm.model.files.file_tensor import FileTensor, bytes_of
from onnx_admm.model.loading.map_outputs import tail_of
from onnx_admm.model.view import ModelView


class _Parts(NamedTuple):
    """A model without its tensors, descriptions of these, and the tensors."""

    skeleton: bytes
    notes: list[str]
    tensors: list[ir.TensorProtocol]


def fingerprint(view: ModelView) -> str:
    """Return a digest of graph, weights and metadata.

    It does not depend on the storage of a tensor (raw bytes, typed fields, an external file), on the name of
    a tensor in a Constant node, or on the order of initializers and of shapes of values.
    """
    parts, digest = _parts(view), _Digest()
    for note, tensor in zip(parts.notes, parts.tensors, strict=True):
        digest.write(note.encode())
        if isinstance(tensor, FileTensor):
            tensor.tofile(digest)
        else:
            digest.write(tensor.tobytes())
    digest.write(parts.skeleton)
    return digest.text()


def same_model(one: ModelView, other: ModelView) -> bool:
    """Return whether the fingerprints are equal; weights that the two share are not read."""
    ours, theirs = _parts(one), _parts(other)
    if (ours.skeleton, ours.notes) != (theirs.skeleton, theirs.notes):
        return False
    return all(map(_same_content, ours.tensors, theirs.tensors))


def _same_content(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    return one is other or np.array_equal(bytes_of(one.numpy()), bytes_of(other.numpy()))


class _Digest:
    """SHA-256 of what is written to it."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self._sum.update(data)

    def text(self) -> str:
        return self._sum.hexdigest()


def _parts(view: ModelView) -> _Parts:
    skeleton = view.fork().graph_ir
    notes, tensors = list[str](), list[ir.TensorProtocol]()

    def take(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
        marks = sorted(tensor.metadata_props.items())  # a tensor to be written sparse carries a mark
        notes.append(repr((name, tensor.dtype, tuple(tensor.shape.numpy()), marks)))
        tensors.append(tensor)
        return ir.tensor(np.zeros(0, np.uint8), name=name)

    for graph in skeleton.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
                value.const_value = take(value.const_value, value.name)
    bodies: list[Iterable[ir.Node]] = [*skeleton.graphs(), *skeleton.functions.values()]
    for node in (node for body in bodies for node in body if node.op_type == "Constant"):
        content = node.attributes.get("value")
        if content is not None and content.type == ir.AttributeType.TENSOR and not content.is_ref():
            tensor = content.as_tensor()
            if tensor.dtype != ir.DataType.STRING:
                node.attributes.add(ir.AttrTensor("value", take(tensor, node.outputs[0].name)))
    proto = ir.to_proto(skeleton)
    proto.graph.initializer.sort(key=lambda tensor: tensor.name)
    proto.graph.value_info.sort(key=lambda info: info.name)
    data = proto.SerializeToString(deterministic=True)
    pairs = sorted(zip(notes, tensors, strict=True), key=lambda pair: pair[0])
    return _Parts(
        data + repr(tail_of(skeleton)).encode(),
        [note for note, _ in pairs],
        [content for _, content in pairs],
    )
