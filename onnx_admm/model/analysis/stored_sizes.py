"""Stored constants of a model file, and the weights that each of them feeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.model.constants import stored_tensor
from onnx_admm.model.files.sparse_tensors import SPARSE_BYTES
from onnx_admm.model.files.tensor_proto import stored_bytes
from onnx_admm.model.folding.decoder import Workspace, subgraph_of
from onnx_admm.model.view import ModelView


@dataclass(frozen=True, slots=True)
class StoredConstant:
    """One constant of a file.

    Attributes:
        name: its value's name.
        dtype: element type, as numpy names it.
        elements: number of elements.
        bits: bits of one element.
        bytes: bytes of its content in the file, without names: small integers may take a byte each, a sparse
            tensor takes its values and indices.
        weights: names of the weight sites it feeds, directly or through a decoder.
        is_weight: whether it is such a weight itself.
    """

    name: str
    dtype: str
    elements: int
    bits: int
    bytes: int
    weights: tuple[str, ...]
    is_weight: bool


def stored_constants(view: ModelView) -> tuple[StoredConstant, ...]:
    """Return every constant of the model, in graph order, subgraphs and functions included."""
    feeds: dict[ir.Value, list[str]] = {}
    weights: set[ir.Value] = set()
    for name, found in view.found_sites().items():
        sources = [found.value]
        if found.lookup is None:
            weights.add(found.value)
        elif found.lookup.scale is not None:
            sources.append(found.lookup.scale)
        for source in sources:
            subgraph = subgraph_of(source, Workspace())
            for constant in subgraph.constants if subgraph is not None else ():
                feeds.setdefault(constant, []).append(name)
    return tuple(
        StoredConstant(
            name=value.name or "",
            dtype=str(tensor.dtype.numpy()) if tensor.dtype != ir.DataType.STRING else "string",
            elements=tensor.size,
            bits=int(tensor.dtype.bitwidth) if tensor.dtype != ir.DataType.STRING else 8,
            bytes=_content_bytes(tensor),
            weights=tuple(feeds.get(value, ())),
            is_weight=value in weights,
        )
        for value, tensor in _constants(view)
    )


def _content_bytes(tensor: ir.TensorProtocol) -> int:
    mark = tensor.metadata_props.get(SPARSE_BYTES)
    if mark is not None:
        return int(mark)
    if isinstance(tensor, ir.TensorProtoTensor):
        return stored_bytes(tensor.raw)
    return 0 if tensor.dtype == ir.DataType.STRING else tensor.nbytes


def _constants(view: ModelView) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    seen: set[ir.Value] = set()
    model = view.graph_ir
    stored = [value for graph in model.graphs() for value in graph.initializers.values()]
    bodies: list[Iterable[ir.Node]] = [*model.graphs(), *model.functions.values()]
    for values in (stored, (output for body in bodies for node in body for output in node.outputs)):
        for value in values:
            tensor = stored_tensor(value)
            if tensor is not None and value not in seen:
                seen.add(value)
                yield value, tensor
