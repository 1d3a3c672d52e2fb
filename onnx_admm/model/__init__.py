"""The only package that touches ONNX protobufs and the ONNX IR.

Its exports are imported on first use: the worker process runs one of its modules and needs no other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_admm.model.analysis.profiles import LayerProfile, Operand, layer_profiles, node_profiles
    from onnx_admm.model.analysis.shapes import infer_shapes
    from onnx_admm.model.edit import NodeRef, ValueRef
    from onnx_admm.model.folding.decoder import Decoded
    from onnx_admm.model.opsets.convert_opset import convert_opset
    from onnx_admm.model.rewrite.lower_ir_version import lower_ir_version
    from onnx_admm.model.sites import WeightSite
    from onnx_admm.model.view import ModelView, PortSpec, Signature

_MODULES = {
    "Decoded": "folding.decoder",
    "LayerProfile": "analysis.profiles",
    "ModelView": "view",
    "NodeRef": "edit",
    "Operand": "analysis.profiles",
    "PortSpec": "view",
    "Signature": "view",
    "ValueRef": "edit",
    "WeightSite": "sites",
    "convert_opset": "opsets.convert_opset",
    "infer_shapes": "analysis.shapes",
    "layer_profiles": "analysis.profiles",
    "lower_ir_version": "rewrite.lower_ir_version",
    "node_profiles": "analysis.profiles",
}

__all__ = [
    "Decoded",
    "LayerProfile",
    "ModelView",
    "NodeRef",
    "Operand",
    "PortSpec",
    "Signature",
    "ValueRef",
    "WeightSite",
    "convert_opset",
    "infer_shapes",
    "layer_profiles",
    "lower_ir_version",
    "node_profiles",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
