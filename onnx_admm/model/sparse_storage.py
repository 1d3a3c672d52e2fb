"""Initializers that are to be written as ``sparse_initializer``, the standard's own sparse form.

The IR knows no sparse tensors, so in memory a weight stays dense and carries a mark; writing turns marked ones
sparse, reading makes them dense again. Therefore this form belongs into the last write.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from onnx_admm.errors import UsageError
from onnx_admm.model.builder import tensor_proto
from onnx_admm.model.fragment import Array, content_bytes
from onnx_admm.model.view import ModelView

STORAGE_KEY = "onnx_admm.storage"
_SPARSE = "sparse"


def mark_sparse(view: ModelView, names: Iterable[str]) -> None:
    """Have these initializers of the main graph written sparse.

    Raises:
        UsageError: no initializer of that name.
    """
    initializers = view.graph_ir.graph.initializers
    for name in names:
        if name not in initializers:
            raise UsageError("no initializer of that name", where=name)
        initializers[name].metadata_props[STORAGE_KEY] = _SPARSE


def index_bytes(array: Array) -> int:
    """Bytes of the indices in the sparse form."""
    return content_bytes(np.flatnonzero(array))


def write_sparse(proto: onnx.ModelProto) -> None:
    """Turn the marked initializers of a model about to be written into sparse ones; the marks go."""
    marked = set()
    for info in proto.graph.value_info:
        kept = [entry for entry in info.metadata_props if entry.key != STORAGE_KEY]
        if len(kept) < len(info.metadata_props):
            marked.add(info.name)
            del info.metadata_props[:]
            info.metadata_props.extend(kept)
    tensors = list(proto.graph.initializer)
    sparse = [tensor for tensor in tensors if tensor.name in marked and not tensor.external_data]
    if not sparse:
        return
    gone = {tensor.name for tensor in sparse}
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensor for tensor in tensors if tensor.name not in gone)
    proto.graph.sparse_initializer.extend(map(_sparse_proto, sparse))


def _sparse_proto(tensor: onnx.TensorProto) -> onnx.SparseTensorProto:
    """Linear indices (as varints where smaller) and the values at them; the name stands on the values."""
    dense = onnx.numpy_helper.to_array(tensor)
    positions = np.flatnonzero(dense)
    values = tensor_proto(tensor.name, dense.reshape(-1)[positions])
    return onnx.SparseTensorProto(
        values=values, indices=tensor_proto("", positions.astype(np.int64)), dims=list(tensor.dims)
    )
