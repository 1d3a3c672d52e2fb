"""Operators written out: functions of the model, and function bodies that ONNX defines.

An operator without a gradient rule has one if the operators of its body do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx
from onnx import defs, helper, inliner

from onnx_admm.model.differentiation.read_graph import standard_opset
from onnx_admm.model.operators import STANDARD

HasRule = Callable[[str, str], bool]
"""Whether there is a gradient rule, or none is needed, by domain and operator."""

_DEEPEST = 6
"""Bodies hold operators that have bodies."""

_PREFIX = "admm::inlined"


def write_out(proto: onnx.ModelProto, has_rule: HasRule) -> onnx.ModelProto:
    """Return a copy in which operators without a rule are written out, as far as they can be.

    Args:
        proto: every extent of its inputs is known.
        has_rule: says what stays as it is.
    """
    copy = inliner.inline_local_functions(proto) if proto.functions else proto
    for depth in range(_DEEPEST):
        typed = onnx.shape_inference.infer_shapes(copy)
        nodes = list(_written_out(typed, has_rule, f"{_PREFIX}{depth}"))
        if nodes == list(copy.graph.node):
            break
        replaced = onnx.ModelProto()
        replaced.CopyFrom(copy)
        del replaced.graph.node[:], replaced.graph.value_info[:]
        replaced.graph.node.extend(nodes)
        copy = replaced
    return copy


def _written_out(typed: onnx.ModelProto, has_rule: HasRule, prefix: str) -> Iterable[onnx.NodeProto]:
    opset, types = standard_opset(typed), _types(typed.graph)
    for index, node in enumerate(typed.graph.node):
        domain = "" if node.domain in STANDARD else node.domain
        body = None if domain or has_rule(domain, node.op_type) else _body(node, opset, types)
        if body is None:
            yield node
        else:
            yield from _instance(node, body, opset, f"{prefix}_{index}")


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    types = {port.name: port.type for port in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return types


def _body(node: onnx.NodeProto, opset: int, types: Mapping[str, onnx.TypeProto]) -> onnx.FunctionProto | None:
    """Return the function body that ONNX defines for a node; None where there is none."""
    try:
        schema: Any = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None
    if schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        known = [types[name].SerializeToString() if name in types else b"" for name in node.input]
        if not versions or any(name and not given for name, given in zip(node.input, known, strict=True)):
            return None
        content = schema.get_context_dependent_function_with_opset_version(
            max(versions), node.SerializeToString(), known
        )
        return onnx.FunctionProto.FromString(content) if content else None
    versions = [version for version in schema.function_opset_versions if version <= opset]
    if not schema.has_function or not versions:
        return None
    body: onnx.FunctionProto | bytes = schema.get_function_with_opset_version(max(versions))
    return onnx.FunctionProto.FromString(body) if isinstance(body, bytes) else body


def _instance(
    node: onnx.NodeProto, body: onnx.FunctionProto, opset: int, prefix: str
) -> Iterable[onnx.NodeProto]:
    """Return the nodes of a body in the place of the node that calls it."""
    given = {attribute.name: attribute for attribute in node.attribute}
    for default in body.attribute_proto:
        given.setdefault(default.name, default)
    for name, attribute in defs.get_schema(node.op_type, opset, "").attributes.items():
        if name not in given and attribute.default_value.name:
            given[name] = attribute.default_value
    inputs = [*node.input, *[""] * (len(body.input) - len(node.input))]
    outputs = [
        name or f"{prefix}::{inner}"
        for name, inner in zip([*node.output, *[""] * len(body.output)], body.output, strict=False)
    ]
    names = dict(zip([*body.input, *body.output], [*inputs, *outputs], strict=True))
    for inner in body.node:
        yield _renamed(inner, names, given, prefix, node.name or node.op_type)


def _renamed(
    inner: onnx.NodeProto,
    names: dict[str, str],
    given: Mapping[str, onnx.AttributeProto],
    prefix: str,
    caller: str,
) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(inner)
    copy.name = f"{caller}::{prefix}::{inner.output[0]}"

    def renamed(values: Sequence[str]) -> list[str]:
        return [name and names.setdefault(name, f"{prefix}::{name}") for name in values]

    inputs, outputs = renamed(inner.input), renamed(inner.output)
    del copy.input[:], copy.output[:], copy.attribute[:]
    copy.input.extend(inputs)
    copy.output.extend(outputs)
    for attribute in inner.attribute:
        if not attribute.ref_attr_name:
            copy.attribute.add().CopyFrom(attribute)
        elif attribute.ref_attr_name in given:
            added = copy.attribute.add()
            added.CopyFrom(given[attribute.ref_attr_name])
            added.name = attribute.name
    return copy
