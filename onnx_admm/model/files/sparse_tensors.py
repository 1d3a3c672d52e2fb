"""Tensors stored as sparse ones (``sparse_initializer``, a Constant's ``sparse_value``), read and written.

The IR has no sparse tensors, so in memory a weight is dense and its tensor carries a mark, the bytes of its
sparse form. Reading makes sparse tensors dense and marks them, writing makes the marked ones sparse: the form
survives a load and a save. New values are a new tensor, without the mark.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from onnx_admm.errors import ModelError, UnsupportedModel
from onnx_admm.limits import current_budget
from onnx_admm.model.files.guards import all_graphs, all_nodes, count_elements, expansion_limit
from onnx_admm.model.files.tensor_proto import stored_bytes, tensor_proto
from onnx_admm.model.files.wire_sizes import Array, content_bytes

SPARSE_BYTES = "onnx_admm.sparse_bytes"
"""The mark: key in a tensor's ``metadata_props``; its value is the bytes of values and indices."""

_SPARSE_KINDS = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)


def index_bytes(array: Array) -> int:
    """Return the bytes of the indices in the sparse form."""
    return content_bytes(np.flatnonzero(array))


def densify_sparse(proto: onnx.ModelProto, folder: Path | None, where: str) -> int:
    """Replace every ``sparse_initializer`` and sparse Constant by a dense one with a mark.

    Returns:
        Bytes of the dense tensors.

    Raises:
        ModelError: indices outside the shape, or a dense form out of proportion to the stored one.
        LimitReached: all of them together take more than the run may use.
        UnsupportedModel: a sparse tensor anywhere else.
    """
    dense_bytes = 0

    def dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
        nonlocal dense_bytes
        place = f"{where}: sparse tensor {sparse.values.name}"
        tensor = _dense(sparse, folder, place, dense_bytes)
        dense_bytes += len(tensor.raw_data)
        return tensor

    for graph in all_graphs(proto):
        graph.initializer.extend(map(dense, graph.sparse_initializer))
        del graph.sparse_initializer[:]
    for node in all_nodes(proto):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                tensor = dense(attribute.sparse_tensor)
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
            elif attribute.type in _SPARSE_KINDS:
                raise UnsupportedModel(
                    "a sparse tensor as an attribute", where=f"{where}: {node.op_type} {node.name}"
                )
    return dense_bytes


def write_sparse(proto: onnx.ModelProto) -> None:
    """Convert the marked tensors of a model to be written to sparse ones; remove the marks."""
    for graph in all_graphs(proto):
        marked = [tensor for tensor in graph.initializer if _take_mark(tensor)]
        if marked:
            graph.sparse_initializer.extend(map(_sparse, marked))
            gone = {tensor.name for tensor in marked}
            kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
            del graph.initializer[:]
            graph.initializer.extend(kept)
    for node in all_nodes(proto):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t") and _take_mark(attribute.t):
                attribute.CopyFrom(onnx.helper.make_attribute("sparse_value", _sparse(attribute.t)))


def forget_marks(proto: onnx.ModelProto) -> None:
    """Leave every tensor dense, for readers without sparse tensors."""
    for graph in all_graphs(proto):
        for tensor in graph.initializer:
            _take_mark(tensor)
    for node in all_nodes(proto):
        for attribute in node.attribute:
            _take_mark(attribute.t)


def _take_mark(tensor: onnx.TensorProto) -> bool:
    """Remove the mark; return whether there was one on a tensor inside the model."""
    props = [entry for entry in tensor.metadata_props if entry.key != SPARSE_BYTES]
    if len(props) == len(tensor.metadata_props):
        return False
    del tensor.metadata_props[:]
    tensor.metadata_props.extend(props)
    return tensor.data_location != onnx.TensorProto.EXTERNAL


def _sparse(tensor: onnx.TensorProto) -> onnx.SparseTensorProto:
    """Return linear indices (as varints where smaller) and their values; the name belongs to the values."""
    dense = onnx.numpy_helper.to_array(tensor)
    positions = np.flatnonzero(dense)
    values = tensor_proto(tensor.name, dense.reshape(-1)[positions])
    return onnx.SparseTensorProto(
        values=values, indices=tensor_proto("", positions.astype(np.int64)), dims=list(tensor.dims)
    )


def _dense(
    sparse: onnx.SparseTensorProto, folder: Path | None, place: str, reserved: int
) -> onnx.TensorProto:
    """Return the dense tensor, with ``reserved`` bytes counted for others."""
    base = str(folder) if folder is not None else ""
    values = onnx.numpy_helper.to_array(sparse.values, base)
    indices = onnx.numpy_helper.to_array(sparse.indices, base)
    shape = tuple(int(extent) for extent in sparse.dims)
    elements = count_elements(sparse.dims, place)
    stored = values.nbytes + indices.nbytes
    if elements * values.dtype.itemsize > expansion_limit(stored):
        raise ModelError(
            "a sparse tensor out of proportion to what is stored",
            where=place,
            got=f"shape {shape} from {stored} bytes",
            expected=f"at most {expansion_limit(stored)} bytes",
        )
    current_budget().reserve(
        reserved + elements * values.dtype.itemsize, f"{place}: making sparse tensors dense"
    )
    limits = np.array(shape if indices.ndim == 2 else (elements,), np.int64)
    rows = indices if indices.ndim == 2 else indices[:, None]
    fits = rows.ndim == 2 and rows.shape == (values.size, len(limits))
    if not fits or (rows < 0).any() or (rows >= limits).any():
        raise ModelError("sparse indices outside the shape", where=place, got=f"shape {shape}")
    dense = np.zeros(shape, values.dtype)
    flat = np.ravel_multi_index(tuple(rows.T), shape) if indices.ndim == 2 else indices
    dense.reshape(-1)[flat] = values.reshape(-1)
    tensor = onnx.numpy_helper.from_array(dense, sparse.values.name)
    mark = tensor.metadata_props.add()
    mark.key, mark.value = SPARSE_BYTES, str(_bytes(sparse.values, values) + _bytes(sparse.indices, indices))
    return tensor


def _bytes(tensor: onnx.TensorProto, array: Array) -> int:
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    return array.nbytes if external else stored_bytes(tensor)
