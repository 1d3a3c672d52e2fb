"""Initializers that are to be written as ``sparse_initializer``, the standard's own sparse form.

The IR knows no sparse tensors, so in memory a weight stays dense and carries a mark; writing turns marked
ones sparse, reading makes them dense again. Therefore this form belongs into the last write.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnx_admm.errors import UsageError
from onnx_admm.model.fragment import Array, content_bytes
from onnx_admm.model.tensor_form import tensor_proto

if TYPE_CHECKING:
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
    infos = list(proto.graph.value_info)
    marked = {info.name for info in infos if any(entry.key == STORAGE_KEY for entry in info.metadata_props)}
    if not marked:
        return
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(info for info in infos if info.name not in marked)
    tensors = list(proto.graph.initializer)
    sparse = [tensor for tensor in tensors if tensor.name in marked and not tensor.external_data]
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
