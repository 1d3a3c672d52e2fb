"""Opset conversion: raised or lowered on a copy, node by node.

Where an operator means the same at both opsets (later versions often add element types, or attributes that
are not set), only the number changes. Elsewhere the node gets its newer form (``opset_steps``), which is
compared with the older one on made-up inputs (``opset_check``). Nodes of subgraphs and functions are
converted like any other; inputs, outputs, weights and metadata are not touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from onnx_admm.errors import ModelError, UnsupportedModel
from onnx_admm.model.analysis.shape_propagation import extents
from onnx_admm.model.analysis.shapes import infer
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import taken_names
from onnx_admm.model.loading.checker import check_input
from onnx_admm.model.loading.map_outputs import tail_of
from onnx_admm.model.loading.model_files import skeleton_of
from onnx_admm.model.names import label
from onnx_admm.model.opsets.check import Form, Known, difference
from onnx_admm.model.opsets.steps import STEPS, NodeEdit, NoStep
from onnx_admm.model.view import ModelView

_HINT = "Export the model again at that opset."

_OLDEST = 7
"""Opset before which operators had training modes and broadcast by attributes: only equal forms pass."""

_NAMED_SINCE = 13
"""Opset from which on the runtime's fusions need named nodes."""

_MOST_CONTENT = 1 << 16
"""Elements up to which a constant input takes part in a comparison with its own values."""


def convert_opset(view: ModelView, at_least: int | None = None, at_most: int | None = None) -> ModelView:
    """Return a copy whose default opset is in [at_least, at_most], changed no further than needed.

    Inputs, outputs and weights keep their names, types and shapes, so that weights can be written back by
    name. Every node that gets another form is run in both on made-up inputs.

    Raises:
        UnsupportedModel: an operator has no form at that opset, or none that computes the same; or the opset
            would rise above what the oldest runtime of the model's conditions loads.
    """
    opset = view.opset
    target = max(opset, at_least) if at_least is not None else opset
    target = min(target, at_most) if at_most is not None else target
    copy = view.fork()
    if target == opset:
        return copy
    where = f"converting opset {opset} to {target}"
    runtime = view.conditions.runtime
    if target > opset and runtime is not None and (why := runtime.why_not_opset(target)):
        raise UnsupportedModel(why, where=where)
    known = onnx.defs.onnx_opset_version()
    if opset > known:
        raise UnsupportedModel(
            "an opset the installed onnx does not know", where=where, expected=f"at most {known}"
        )
    _check_tail(copy.graph_ir, opset, target, where)
    _Conversion(copy, opset, target, where).run()
    _relabel(copy.graph_ir, target)
    if opset < _NAMED_SINCE <= target:
        for node in copy.graph_ir.graph:
            node.name = node.name or label(node)
    try:
        check_input(skeleton_of(copy.graph_ir), where)
    except ModelError as error:
        raise UnsupportedModel(error.what, where=where, hint=_HINT) from error
    return copy


def raise_opset(view: ModelView, needed: int) -> str | None:
    """Raise the opset in place as far as needed; return why it cannot be, with nothing done."""
    if needed > view.opset:
        try:
            view.become(convert_opset(view, at_least=needed))
        except UnsupportedModel as error:
            return str(error)
    return None


def _check_tail(model: ir.Model, opset: int, target: int, where: str) -> None:
    """Refuse where nodes behind map outputs, which are not converted, would change their meaning."""
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


# -- node by node ----------------------------------------------------------------------------


@dataclass
class _Conversion:
    """Conversion of one model to another opset, in place."""

    view: ModelView
    opset: int
    target: int
    where: str
    _shapes: dict[ir.Value, tuple[int | None, ...]] = field(default_factory=dict)
    _dtypes: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    _equal: set[bytes] = field(default_factory=set)

    def run(self) -> None:
        """Convert each node of the default domain to the target."""
        changing = [pair for pair in self._nodes() if self._changes_form(*pair)]
        if not changing:
            return
        inferred_copies = infer(self.view).inferred_copies  # while the model is still of one opset
        self._shapes = {
            value: extents(inferred)
            for value, inferred in inferred_copies.items()
            if inferred.shape is not None
        }
        self._dtypes = {
            value: inferred.dtype for value, inferred in inferred_copies.items() if inferred.dtype is not None
        }
        taken = taken_names(self.view.graph_ir)
        for node, opset in changing:
            edit = NodeEdit(node, self.target, self._shapes, self._dtypes, taken)
            older = Form([ir.to_proto(node)], opset)
            inputs = {value.name or "": self._known(value) for value in node.inputs if value is not None}
            self._step(edit, opset)
            self._check(edit, older, inputs)

    def _nodes(self) -> Iterator[tuple[ir.Node, int]]:
        """Yield every node, and its opset: a function has one of its own."""
        model = self.view.graph_ir
        bodies = [(model.graph, self.opset)]
        for function in model.functions.values():
            imports = function.opset_imports
            bodies.append((function.graph, imports.get("", imports.get("ai.onnx", self.opset))))
        for graph, opset in bodies:
            for node in graph.all_nodes():
                if node.domain in ("", "ai.onnx") and node.op_identifier() not in model.functions:
                    yield node, opset

    def _changes_form(self, node: ir.Node, opset: int) -> bool:
        """Return whether a step leads to the target; refuse where one is needed and missing."""
        if any((node.op_type, version) in STEPS for version in range(opset + 1, self.target + 1)):
            return True
        self._require_same(node, opset, self.target)
        return False

    def _step(self, edit: NodeEdit, opset: int) -> None:
        for version in range(opset + 1, self.target + 1):
            step = STEPS.get((edit.node.op_type, version))
            if step is None:
                self._require_same(edit.node, version - 1, version)
                continue
            try:
                step(edit)
            except NoStep as reason:
                raise self._refusal(edit.node, f"it means something else there: {reason}") from None

    def _require_same(self, node: ir.Node, opset: int, target: int) -> None:
        if not _means_the_same(node, opset, target):
            raise self._refusal(node, "it has no form of the same meaning there")

    def _check(self, edit: NodeEdit, older: Form, inputs: dict[str, Known]) -> None:
        newer = Form([ir.to_proto(node) for node in edit.fragment], self.target)
        key = _digest(older, newer, inputs)
        if key in self._equal:
            return
        why = difference(older, newer, inputs)
        if why is not None:
            raise self._refusal(edit.node, f"its newer form {why}", older.nodes[0])
        self._equal.add(key)

    def _known(self, value: ir.Value) -> Known:
        tensor = constant_tensor(value)
        if tensor is None:
            dtype = self._dtypes.get(value, ir.DataType.FLOAT)
            return Known(np.dtype(dtype.numpy()), self._shapes.get(value))
        shape = tuple(tensor.shape.numpy())
        content = np.asarray(tensor.numpy()) if tensor.size <= _MOST_CONTENT else None
        return Known(np.dtype(tensor.dtype.numpy()), shape, content)

    def _refusal(self, node: ir.Node, what: str, proto: onnx.NodeProto | None = None) -> UnsupportedModel:
        name = label(node) if proto is None else proto.name or proto.output[0]
        op_type = node.op_type if proto is None else proto.op_type
        where = f"{self.where}: node {name} ({op_type})"
        return UnsupportedModel(f"the opset cannot be changed: {what}", where=where, hint=_HINT)


def _digest(older: Form, newer: Form, inputs: dict[str, Known]) -> bytes:
    """Return a digest that is equal for nodes that differ in names alone."""
    names: dict[str, str] = {}
    digest = hashlib.sha256()
    for form in (older, newer):
        for proto in form.nodes:
            plain = onnx.NodeProto()
            plain.CopyFrom(proto)
            plain.name = ""
            for ports in (plain.input, plain.output):
                ports[:] = [name and names.setdefault(name, str(len(names))) for name in ports]
            digest.update(plain.SerializeToString(deterministic=True))
    for known in inputs.values():
        digest.update(repr((known.dtype, known.shape)).encode())
        digest.update(b"" if known.content is None else known.content.tobytes())
    return digest.digest()


# -- what schemas say ------------------------------------------------------------------------


def _means_the_same(node: ir.Node, opset: int, target: int) -> bool:
    """Return whether no version of the operator between the two opsets changes the node's meaning."""
    low, high = sorted((opset, target))
    older = _schema(node.op_type, low)
    if older is None:
        return False
    for version in range(low + 1, high + 1):
        newer = _schema(node.op_type, version)
        if newer is None:
            return False
        if newer.since_version != older.since_version:
            if not _only_adds(older, newer) or not _uses_only(node, newer if opset < target else older):
                return False
            older = newer
    return True


def _only_adds(older: onnx.defs.OpSchema, newer: onnx.defs.OpSchema) -> bool:
    """Return whether everything that both versions can express means the same."""
    before, after = _attributes(older), _attributes(newer)
    if (newer.name, newer.since_version) in STEPS:
        return False
    if newer.since_version <= _OLDEST and (before, _ports(older)) != (after, _ports(newer)):
        return False
    return all(after.get(name) == meaning for name, meaning in before.items())


def _uses_only(node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
    """Return whether a version has all that the node uses, and the node has all that it requires."""
    required = {name for name, attribute in schema.attributes.items() if attribute.required}
    return (
        required <= set(node.attributes) <= set(schema.attributes)
        and _fits(node.inputs, schema.inputs)
        and _fits(node.outputs, schema.outputs)
    )


def _takes(port: onnx.defs.OpSchema.FormalParameter, value: ir.Value) -> bool:
    """Return whether a port takes the element type of a value; an unknown type fits."""
    tensor = constant_tensor(value)
    dtype = value.dtype if tensor is None else tensor.dtype
    is_tensor = tensor is not None or isinstance(value.type, ir.TensorType)
    return dtype is None or not is_tensor or f"tensor({dtype.name.lower()})" in port.types


def _fits(values: Sequence[ir.Value | None], ports: Sequence[onnx.defs.OpSchema.FormalParameter]) -> bool:
    options = onnx.defs.OpSchema.FormalParameterOption
    used = [value is not None and bool(value.name) for value in values]
    while used and not used[-1]:
        used.pop()
    if len(used) > len(ports) and not (ports and ports[-1].option == options.Variadic):
        return False
    if not all(_takes(port, value) for port, value in zip(ports, values, strict=False) if value is not None):
        return False
    missing = [not used[at] if at < len(used) else True for at in range(len(ports))]
    return not any(gone and port.option == options.Single for gone, port in zip(missing, ports, strict=True))


@cache
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        found: onnx.defs.OpSchema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


def _ports(schema: onnx.defs.OpSchema) -> tuple[list[object], list[object]]:
    return [port.option for port in schema.inputs], [port.option for port in schema.outputs]


def _attributes(schema: onnx.defs.OpSchema) -> dict[str, tuple[object, bytes]]:
    return {
        name: (attribute.type, attribute.default_value.SerializeToString())
        for name, attribute in schema.attributes.items()
    }
