"""Marks on weights that are to be written as sparse tensors (see ``sparse_tensors``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model.constants import replace_constant, stored_tensor
from onnx_admm.model.files.sparse_tensors import SPARSE_BYTES, index_bytes
from onnx_admm.model.files.wire_sizes import content_bytes
from onnx_admm.model.view import ModelView


def mark_sparse(view: ModelView, names: Iterable[str]) -> None:
    """Mark these initializers of the main graph to be written sparse.

    Raises:
        UsageError: no initializer of that name.
    """
    initializers = view.graph_ir.graph.initializers
    for name in names:
        tensor = initializers[name].const_value if name in initializers else None
        if tensor is None:
            raise UsageError("no initializer of that name", where=name)
        array = tensor.numpy()
        size = content_bytes(array[array != 0]) + index_bytes(array)
        initializers[name].const_value = ir.Tensor(array, name=name, metadata_props={SPARSE_BYTES: str(size)})


def initializer_names(view: ModelView) -> frozenset[str]:
    """Return the names that can be marked: initializers of the main graph."""
    return frozenset(view.graph_ir.graph.initializers)


def mark_dense(view: ModelView) -> None:
    """Mark every tensor of the model to be written dense, those of subgraphs and Constant nodes too."""
    for value, tensor in list(_marked(view)):
        replace_constant(value, tensor.numpy())


def marked_sparse(view: ModelView) -> frozenset[str]:
    """Return the names of the constants that will be written sparse."""
    return frozenset(value.name or "" for value, _ in _marked(view))


def _marked(view: ModelView) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    model = view.graph_ir
    graphs = list(model.graphs())
    values = [value for graph in graphs for value in graph.initializers.values()]
    values += [
        output for body in (*graphs, *model.functions.values()) for node in body for output in node.outputs
    ]
    for value in values:
        tensor = stored_tensor(value)
        if tensor is not None and SPARSE_BYTES in tensor.metadata_props:
            yield value, tensor
