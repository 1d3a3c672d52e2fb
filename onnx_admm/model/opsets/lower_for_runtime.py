"""Lowers what a model states, and its opset, to what an older ONNX Runtime loads."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedOpsetsPass

from onnx_admm.errors import UnsupportedModel
from onnx_admm.model.constants import stored_tensor
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.model.runtimes import BLOCKED, INT4, OldestRuntime
from onnx_admm.model.scopes import named_scopes
from onnx_admm.model.view import ModelView

_ML = "ai.onnx.ml"
_INT4 = (ir.DataType.INT4, ir.DataType.UINT4)
_ON_GRIDS = ("QuantizeLinear", "DequantizeLinear")


def lower_for_runtime(view: ModelView, runtime: OldestRuntime) -> tuple[str, ...]:
    """Lower a model in place: opset, version of ``ai.onnx.ml``, IR version; return what was lowered.

    A runtime refuses a newer version of a domain that no node uses too, so unused domains are left out.

    Raises:
        UnsupportedModel: an operator has no form at these versions, or the model has weights in a form that
            the runtime does not load.
    """
    for form in forms_in(view):
        if (why := runtime.why_not(form)) is not None:
            raise UnsupportedModel(why)
    before = _versions(view)
    view.become(convert_opset(view, at_most=runtime.opset))
    model = view.graph_ir
    if not view.has_maps:  # the nodes of maps are set aside, and may use a domain
        RemoveUnusedOpsetsPass()(model)
    stated = model.opset_imports.get(_ML, 0)
    if stated > runtime.ml:
        _check_ml(view, stated, runtime)
        model.opset_imports[_ML] = runtime.ml
    model.ir_version = min(model.ir_version, runtime.ir_version)
    after = _versions(view)
    return tuple(
        f"{what} from {old} to {after[what]}" if after[what] else f"{what} {old}, which no node uses"
        for what, old in before.items()
        if after[what] != old
    )


def forms_in(view: ModelView) -> tuple[str, ...]:
    """Return the forms of ``runtimes.FORMS`` in a model that loading depends on, whatever its opset."""
    graphs = [graph for _, graph in named_scopes(view.graph_ir)]
    stored = [
        value.const_value
        for graph in graphs
        if isinstance(graph, ir.Graph)
        for value in graph.initializers.values()
    ]
    nodes = [node.ir_node for node in view.nodes()]
    stored += [stored_tensor(node.outputs[0]) for node in nodes if node.op_type == "Constant"]
    has_int4 = any(tensor is not None and tensor.dtype in _INT4 for tensor in stored)
    has_blocks = any(node.attributes.get_int("block_size", 0) for node in nodes if node.op_type in _ON_GRIDS)
    return (*([INT4] if has_int4 else []), *([BLOCKED] if has_blocks else []))


def _versions(view: ModelView) -> dict[str, int]:
    stated = view.graph_ir.opset_imports.get(_ML, 0)
    return {"opset": view.opset, _ML: stated, "IR version": view.ir_version}


def _check_ml(view: ModelView, stated: int, runtime: OldestRuntime) -> None:
    """Refuse operators that an older version of ``ai.onnx.ml`` does not have, or has in another form."""
    for node in view.nodes():
        op_type = node.ir_node.op_type
        older = _since(op_type, runtime.ml)
        if node.ir_node.domain == _ML and (older is None or older != _since(op_type, stated)):
            raise UnsupportedModel(
                f"{op_type} has another form at {_ML} {runtime.ml}, the newest that {runtime} loads",
                where=node.name,
            )


def _since(op_type: str, version: int) -> int | None:
    try:
        return int(onnx.defs.get_schema(op_type, version, _ML).since_version)
    except onnx.defs.SchemaError:
        return None
