"""Equal constants stored once: in several places, in branches of an If, or transposed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import stored_tensor, why_fixed
from onnx_admm.model.edit import free_name, taken_names
from onnx_admm.model.names import label
from onnx_admm.model.view import ModelView

_LEAST_BYTES = 256
_LEAST_TRANSPOSED_BYTES = 4096
"""Size from which on a Transpose pays: it takes some forty bytes; a runtime folds it at load."""


@dataclass(frozen=True, slots=True)
class SharedConstant:
    """A constant that is no longer stored.

    Attributes:
        name: its name; of a Constant node without an output name, the node's.
        kept: the constant that replaces it.
        nbytes: its bytes.
        is_transposed: whether the other is its transpose.
    """

    name: str
    kept: str
    nbytes: int
    is_transposed: bool


def share_equal_constants(view: ModelView) -> tuple[SharedConstant, ...]:
    """Store each matrix once for all graphs; functions are left, since they see no other graph.

    A vector stays even where another is equal: passes change vectors (biases, statistics) one by one.
    Outputs, and defaults that a caller may override, stay too.
    """
    model = view.graph_ir
    shared: list[SharedConstant] = []
    for values in _candidates(model).values():
        kept: dict[bytes, ir.Value] = {}
        for value in values:
            array = _array(value)
            same, turned = _digest(array), _digest(array.T) if array.ndim == 2 else None
            if same in kept:
                shared.append(_note(value, kept[same], array, is_transposed=False))
                _replace(value, _as_initializer(model, kept, same))
            elif turned in kept and turned is not None and array.nbytes >= _LEAST_TRANSPOSED_BYTES:
                shared.append(_note(value, kept[turned], array, is_transposed=True))
                _replace(value, _transpose(model, _as_initializer(model, kept, turned), array, value))
            else:
                kept[same] = value
    return tuple(shared)


def _candidates(model: ir.Model) -> Mapping[tuple[str, tuple[int, ...]], list[ir.Value]]:
    """Return constants of one type and the same extents in any order, where there are two or more."""
    found: dict[tuple[str, tuple[int, ...]], list[ir.Value]] = defaultdict(list)
    for graph in (model.graph, *(graph for graph in model.graphs() if graph is not model.graph)):
        for value in _stored(graph):
            tensor = stored_tensor(value)
            shape = () if tensor is None else tuple(tensor.shape.numpy())
            if tensor is None or tensor.nbytes < _LEAST_BYTES or sum(extent > 1 for extent in shape) < 2:
                continue
            if tensor.dtype == ir.DataType.STRING or tensor.metadata_props or why_fixed(value) is not None:
                continue
            found[tensor.dtype.name, tuple(sorted(shape))].append(value)
    return {key: values for key, values in found.items() if len(values) > 1}


def _stored(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        if node.op_type == "Constant":
            yield from node.outputs


def _array(value: ir.Value) -> np.ndarray:
    tensor = stored_tensor(value)
    if tensor is None:
        raise ValueError(f"{value.name} is no constant")
    return np.asarray(tensor.numpy())


def _digest(array: np.ndarray) -> bytes:
    content = hashlib.sha256(str(array.shape).encode())
    content.update(np.ascontiguousarray(array).data)
    return content.digest()


def _note(value: ir.Value, kept: ir.Value, array: np.ndarray, *, is_transposed: bool) -> SharedConstant:
    return SharedConstant(_name(value), _name(kept), array.nbytes, is_transposed)


def _name(value: ir.Value) -> str:
    producer = value.producer()
    return value.name or ("" if producer is None else label(producer))


def _replace(value: ir.Value, other: ir.Value) -> None:
    """Redirect all readers to another value, and remove the constant."""
    value.replace_all_uses_with(other)
    producer = value.producer()
    if producer is not None and producer.graph is not None:
        producer.graph.remove(producer, safe=True)
    elif (graph := value.graph) is not None and value.name is not None:
        graph.initializers.pop(value.name, None)


def _as_initializer(model: ir.Model, kept: dict[bytes, ir.Value], key: bytes) -> ir.Value:
    """Return the kept constant as an initializer of the main graph, visible to all graphs but functions."""
    value = kept[key]
    if value.is_initializer() and value.graph is model.graph:
        return value
    tensor = stored_tensor(value)
    producer = value.producer()
    if producer is None and value.graph is not None:
        value.graph.initializers.pop(value.name or "", None)
    base, value.name = _name(value), None  # another branch may have a value of the same name
    name = free_name(base, taken_names(model))
    lifted = ir.Value(name=name)
    if tensor is not None:
        tensor.name = name
        lifted.const_value, lifted.dtype = tensor, tensor.dtype
        lifted.shape = ir.Shape(tensor.shape.numpy())
    model.graph.register_initializer(lifted)
    value.replace_all_uses_with(lifted)
    if producer is not None and producer.graph is not None:
        producer.graph.remove(producer, safe=True)
    kept[key] = lifted
    return lifted


def _transpose(model: ir.Model, source: ir.Value, array: np.ndarray, replaced: ir.Value) -> ir.Value:
    """Return the transpose of a constant, computed at the beginning of the main graph."""
    node = ir.node("Transpose", [source], {"perm": [1, 0]})
    output = node.outputs[0]
    output.name = free_name(_name(replaced), taken_names(model) - {replaced.name})
    output.type, output.shape = source.type, ir.Shape(array.shape)
    if len(model.graph):
        model.graph.insert_before(model.graph[0], node)
    else:
        model.graph.append(node)
    return output
