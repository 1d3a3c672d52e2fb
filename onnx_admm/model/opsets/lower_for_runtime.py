"""Lowers what a model states, and its opset, to what an older ONNX Runtime loads."""

from __future__ import annotations

import onnx
from onnx_ir.passes.common import RemoveUnusedOpsetsPass

from onnx_admm.errors import UnsupportedModel
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.model.runtimes import OldestRuntime
from onnx_admm.model.view import ModelView

_ML = "ai.onnx.ml"


def lower_for_runtime(view: ModelView, runtime: OldestRuntime) -> tuple[str, ...]:
    """Lower a model in place: opset, version of ``ai.onnx.ml``, IR version; return what was lowered.

    A runtime refuses a newer version of a domain that no node uses too, so unused domains are left out.

    Raises:
        UnsupportedModel: an operator has no form at these versions.
    """
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
