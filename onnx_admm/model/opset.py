"""Opset and IR versions: raised or lowered on a copy.

Where every operator means the same at both opsets (later versions often add element types alone), only the
number changes. Elsewhere the ONNX version converter rewrites the graph; what it would drop is put back.
"""

from __future__ import annotations

import re
from functools import cache

import onnx
import onnx_ir as ir

from onnx_admm.errors import ModelError, UnsupportedModel
from onnx_admm.model.checker import check_input, first_line
from onnx_admm.model.default_inputs import unlist_mandatory
from onnx_admm.model.files import serialize_model, skeleton_of
from onnx_admm.model.map_tail import tail_of
from onnx_admm.model.sites import label
from onnx_admm.model.view import ModelView

_SAME_SCHEMA_SINCE = 13
"""From here on, operators of equal attributes, inputs and outputs differ in element types alone."""

_HINT = "Export the model again at that opset."

_ADDITIONS_ONLY_SINCE = 21
"""From here on, an attribute that was added and is not set changes nothing either."""


def convert_opset(view: ModelView, at_least: int | None = None, at_most: int | None = None) -> ModelView:
    """A copy whose default opset lies in [at_least, at_most], moved no further than it must be.

    Inputs, outputs and weights keep their names, so that weights can be written back by name.

    Raises:
        UnsupportedModel: an operator has no form at that opset, or none the version converter knows.
    """
    opset = view.opset
    target = max(opset, at_least) if at_least is not None else opset
    target = min(target, at_most) if at_most is not None else target
    copy = view.fork()
    if target == opset:
        return copy
    where = f"converting opset {opset} to {target}"
    known = onnx.defs.onnx_opset_version()
    if opset > known:
        raise UnsupportedModel(
            "an opset the installed onnx does not know", where=where, expected=f"at most {known}"
        )
    _check_tail(copy.graph_ir, opset, target, where)
    if _first_changed(copy.graph_ir, opset, target, everywhere=True) is None:
        _relabel(copy.graph_ir, target)
        converted = copy
    else:
        converted = ModelView(_rewrite(copy.graph_ir, opset, target, where))
    _check_converted(view, converted, where)
    return converted


def raise_opset(view: ModelView, needed: int) -> bool:
    """Raise the opset in place as far as is needed; False, and nothing done, where it cannot be."""
    if needed > view.opset:
        try:
            view.become(convert_opset(view, at_least=needed))
        except UnsupportedModel:
            return False
    return True


# -- the same meaning ------------------------------------------------------------------------


def _first_changed(model: ir.Model, opset: int, target: int, *, everywhere: bool) -> ir.Node | None:
    """The first node whose operator differs between the opsets: anywhere, or where no converter reaches."""
    main = {id(node) for node in model.graph} if not everywhere else set()
    bodies = (function.graph for function in model.functions.values())
    for node in (node for graph in (model.graph, *bodies) for node in graph.all_nodes()):
        in_default = node.domain in ("", "ai.onnx") and node.op_identifier() not in model.functions
        if in_default and id(node) not in main and not _same_meaning(node, opset, target):
            return node
    return None


def _same_meaning(node: ir.Node, opset: int, target: int) -> bool:
    low, high = sorted((opset, target))
    older, newer = _schema(node.op_type, low), _schema(node.op_type, high)
    if older is None or newer is None:
        return False
    if older.since_version == newer.since_version:
        return True
    if low < _SAME_SCHEMA_SINCE or _ports(older) != _ports(newer):
        return False
    before, after = _attributes(older), _attributes(newer)
    added = set(after) - set(before)
    if added and (low < _ADDITIONS_ONLY_SINCE or any(name in node.attributes for name in added)):
        return False
    return all(after.get(name) == known for name, known in before.items())


@cache
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _ports(schema: onnx.defs.OpSchema) -> tuple[list[object], list[object]]:
    return [port.option for port in schema.inputs], [port.option for port in schema.outputs]


def _attributes(schema: onnx.defs.OpSchema) -> dict[str, tuple[object, bool, bytes]]:
    return {
        name: (attribute.type, attribute.required, attribute.default_value.SerializeToString())
        for name, attribute in schema.attributes.items()
    }


def _check_tail(model: ir.Model, opset: int, target: int, where: str) -> None:
    """Refuse where what stands behind map outputs, which no conversion reaches, means something else."""
    tail = tail_of(model)
    for op_type in () if tail is None else sorted(tail.default_operators()):
        older, newer = _schema(op_type, opset), _schema(op_type, target)
        if older is None or newer is None or older.since_version != newer.since_version:
            raise UnsupportedModel(
                f"{op_type} behind a map means something else at opset {target}", where=where, hint=_HINT
            )


def _relabel(model: ir.Model, target: int) -> None:
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        for domain in ("", "ai.onnx"):
            if domain in imports:
                imports[domain] = target


# -- the version converter -------------------------------------------------------------------


def _rewrite(model: ir.Model, opset: int, target: int, where: str) -> ir.Model:
    out_of_reach = _first_changed(model, opset, target, everywhere=False)
    if out_of_reach is not None:
        raise UnsupportedModel(
            f"{out_of_reach.op_type} in a subgraph or function means something else at opset {target}",
            where=f"{where}: node {label(out_of_reach)}",
            hint=_HINT,
        )
    try:
        plain = onnx.load_from_string(serialize_model(model, sparse=False))
        proto = onnx.version_converter.convert_version(plain, target)
        converted = ir.from_proto(proto)
        unlist_mandatory(converted)
    except (RuntimeError, ValueError, IndexError) as error:  # onnx 1.19 ends in IndexError below opset 8
        reason = first_line(error).rpartition("failed: ")[2]
        culprit = next((node for node in model.graph if _names(reason, node.op_type)), None)
        raise UnsupportedModel(
            f"the ONNX version converter cannot convert the model ({reason})",
            where=where if culprit is None else f"{where}: node {label(culprit)} ({culprit.op_type})",
            hint=_HINT,
        ) from error
    _restore(model, converted, target)
    return converted


def _names(reason: str, op_type: str) -> bool:
    return re.search(rf"(?<![A-Za-z]){re.escape(op_type)}(?![A-Za-z])", reason) is not None


def _restore(model: ir.Model, converted: ir.Model, target: int) -> None:
    """Put back what the converter drops: functions, metadata, and weights held once for both."""
    converted.functions.update({name: function.clone() for name, function in model.functions.items()})
    converted.metadata_props.update(model.metadata_props)
    converted.graph.metadata_props.update(model.graph.metadata_props)
    converted.graph.meta.update(model.graph.meta)
    for domain, version in model.opset_imports.items():
        converted.opset_imports.setdefault(domain, version)
    _relabel(converted, target)
    for node in converted.graph:  # the runtime's fusions trip over nodes without names from opset 13 on
        node.name = node.name or label(node)
    for name, value in model.graph.initializers.items():
        twin = converted.graph.initializers.get(name)
        if twin is not None and twin.shape == value.shape and twin.dtype == value.dtype:
            twin.const_value = value.const_value


def _check_converted(view: ModelView, converted: ModelView, where: str) -> None:
    if view.signature() != converted.signature():
        raise UnsupportedModel("the conversion changed inputs or outputs", where=where)
    lost = {site.name for site in view.sites()} - {site.name for site in converted.sites()}
    if lost:
        raise UnsupportedModel("the conversion lost weights", where=where, got=", ".join(sorted(lost)))
    try:
        check_input(skeleton_of(converted.graph_ir), where)
    except ModelError as error:
        raise UnsupportedModel(error.what, where=where, hint=_HINT) from error
