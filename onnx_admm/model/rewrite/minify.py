"""Removes what a model file does not need: names, doc strings, defaults, implied shapes."""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Iterator, MutableMapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedOpsetsPass

from onnx_admm.model.edit import bypass, free_name
from onnx_admm.model.files.tensor_proto import tensor_proto
from onnx_admm.model.files.wire_sizes import LEAST_IR_VERSION, prefers_varints
from onnx_admm.model.loading.map_outputs import tail_of
from onnx_admm.model.operators import Trait, operators_with
from onnx_admm.model.view import ModelView

_LETTERS = string.ascii_letters + "_"
_REST = _LETTERS + string.digits
_NEUTRAL = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
"""List attributes that mean nothing where every entry is this; their defaults are not in the schema."""

_WINDOWED = operators_with(Trait.WINDOWED)
_WEIGHTED = operators_with(Trait.CONVOLVES) - operators_with(Trait.INTEGER)
_GRAPH_NAME = "g"
_OWN_KEYS = "onnx_admm."
_EXPORTER_KEYS = "pkg."
"""Stack traces, class names and rewriting rules, as PyTorch's exporters note them on each node."""


def lift_constants(view: ModelView) -> None:
    """Convert Constant nodes of the main graph to initializers, which takes about 25 bytes less each."""
    if view.ir_version >= LEAST_IR_VERSION:
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(view.graph_ir)


def erase_defaults(view: ModelView) -> None:
    """Remove attributes that equal the operator set's defaults, and kernel shapes that the weight implies."""
    model = view.graph_ir
    bodies = [(function.all_nodes(), function.opset_imports) for function in model.functions.values()]
    for nodes, imports in ((model.graph.all_nodes(), model.opset_imports), *bodies):
        for node in nodes:
            opset = imports.get(node.domain) if node.domain else imports.get("", imports.get("ai.onnx"))
            if opset is None or node.op_identifier() in model.functions:
                continue
            for name in list(node.attributes):
                if _is_default(node, node.attributes[name], opset):
                    del node.attributes[name]


def erase_noops(view: ModelView) -> None:
    """Remove nodes of the main graph that only pass their input on: Identity, Dropout outside training."""
    for node in list(view.graph_ir.graph):
        source = node.inputs[0] if node.inputs else None
        if source is not None and _is_noop(node):
            bypass(node, source)


def erase_text(view: ModelView) -> None:
    """Remove names of nodes, inner shapes, unused opset imports, and doc strings other than the model's."""
    model = view.graph_ir
    model.graph.name = _GRAPH_NAME
    for graph in model.graphs():
        graph.doc_string = None
        kept = {*graph.inputs, *graph.outputs}
        for value in (*kept, *graph.initializers.values()):
            value.doc_string = None
        for node in graph:
            node.name, node.doc_string = "", None  # with None it would get a name
            for attribute in node.attributes.values():
                attribute.doc_string = None
            for value in node.outputs:
                value.doc_string = None
                if value not in kept:
                    value.shape = value.type = None
    RemoveUnusedOpsetsPass()(model)


def erase_metadata(view: ModelView) -> None:
    """Remove ``metadata_props`` everywhere, the model's doc string, and the producer.

    Keys that start with ``onnx_admm.`` stay: their writers decide about them.
    """
    model = view.graph_ir
    model.producer_name = model.producer_version = model.domain = None
    model.model_version = model.doc_string = None
    _strip(model.metadata_props)
    for graph in model.graphs():
        _strip(graph.metadata_props)
        for value in (*graph.inputs, *graph.initializers.values()):
            _strip(value.metadata_props)
        for node in graph:
            _strip(node.metadata_props)
            for value in node.outputs:
                _strip(value.metadata_props)


def erase_exporter_text(view: ModelView) -> int:
    """Remove exporters' text for people: doc strings below the model, ``pkg.*`` notes on nodes.

    The model's own doc string and metadata stay, and so does other metadata of nodes and values: users put it
    there.

    Returns:
        Characters removed.
    """
    model, removed = view.graph_ir, 0
    bodies = (*model.graphs(), *(function.graph for function in model.functions.values()))
    for graph in bodies:
        values = (*graph.inputs, *graph.initializers.values(), *graph.outputs)
        nodes = list(graph)
        texts: list[ir.Graph | ir.Value | ir.Node] = [graph, *values, *nodes]
        texts += [output for node in nodes for output in node.outputs]
        for item in texts:
            removed += _strip_notes(item.metadata_props) + len(item.doc_string or "")
            item.doc_string = None
        for attribute in (entry for node in nodes for entry in node.attributes.values()):
            removed += len(attribute.doc_string or "")
            attribute.doc_string = None
    return removed


def _strip_notes(metadata: MutableMapping[str, str]) -> int:
    """Remove an exporter's notes; return their number of characters."""
    notes = [key for key in metadata if key.startswith(_EXPORTER_KEYS) or key == "namespace"]
    return sum(len(key) + len(metadata.pop(key)) for key in notes)


def _strip(metadata: MutableMapping[str, str]) -> None:
    for key in [key for key in metadata if not key.startswith(_OWN_KEYS)]:
        del metadata[key]


def shorten_value_names(view: ModelView) -> None:
    """Name inner values by use, the most used the shortest; names of inputs and outputs stay.

    Function bodies keep their names: they are few, and their inputs are part of their interface.
    """
    model = view.graph_ir
    fixed = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    if (tail := tail_of(model)) is not None:
        fixed |= tail.names
    inner = [value for value in _values(model) if value.name and value.name not in fixed]
    mentions = Counter({value: 1 + len(value.uses()) for value in inner})
    ranked = sorted(mentions, key=lambda value: -mentions[value])
    names = [name for name, _ in zip(_short_names(fixed), ranked, strict=False)]
    if [value.name for value in ranked] == names:
        return
    taken: set[str | None] = {value.name for value in inner} | set(names)
    for number, value in enumerate(ranked):
        value.name = free_name(f"value_{number}", taken)
    for value, name in zip(ranked, names, strict=True):
        value.name = name


def compact_integers(view: ModelView) -> None:
    """Store integer initializers as varints where that is smaller than raw bytes."""
    for graph in view.graph_ir.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or isinstance(tensor, ir.ExternalTensor) or _is_varints(tensor):
                continue
            if tensor.dtype.is_integer() and tensor.dtype.bitwidth >= 8 and prefers_varints(tensor.numpy()):
                value.const_value = _tensor(value.name or "", tensor.numpy())


def _is_varints(tensor: ir.TensorProtocol) -> bool:
    return isinstance(tensor, ir.serde.TensorProtoTensor) and not tensor.raw.HasField("raw_data")


def _is_default(node: ir.Node, attribute: ir.Attr, opset: int) -> bool:
    if attribute.is_ref():
        return False
    neutral = _NEUTRAL.get(attribute.name)
    if neutral is not None and node.op_type in _WINDOWED and node.domain in ("", "ai.onnx"):
        return all(item == neutral for item in attribute.as_ints())
    if attribute.name == "kernel_shape" and node.op_type in _WEIGHTED and node.domain in ("", "ai.onnx"):
        return True
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return False
    declared = schema.attributes.get(attribute.name)
    if declared is None or declared.required or not declared.default_value.ByteSize():
        return False
    default = ir.from_proto(declared.default_value)
    return bool(default.type == attribute.type and default.value == attribute.value)


def _is_noop(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        unread = all(not output.uses() and not output.is_graph_output() for output in node.outputs[1:])
        return training is None and unread
    return node.op_type == "Identity"


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        if graph is not model.graph:
            yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _short_names(fixed: set[str | None]) -> Iterator[str]:
    for length in itertools.count(1):
        for letters in itertools.product(_LETTERS, *[_REST] * (length - 1)):
            name = "".join(letters)
            if name not in fixed:
                yield name


def _tensor(name: str, array: np.ndarray) -> ir.TensorProtocol:
    return ir.serde.deserialize_tensor(tensor_proto(name, array))
