"""The only room that touches ONNX protobufs and the ONNX IR."""

from onnx_admm.model.decode import Decoded, decode_constant
from onnx_admm.model.edit import NodeRef, ValueRef
from onnx_admm.model.opset import convert_opset
from onnx_admm.model.profiles import LayerProfile, Operand, layer_profiles, node_profiles
from onnx_admm.model.runtime_limits import lower_ir_version
from onnx_admm.model.shapes import infer_shapes
from onnx_admm.model.sites import WeightSite
from onnx_admm.model.view import ModelView, PortSpec, Signature

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
    "decode_constant",
    "infer_shapes",
    "layer_profiles",
    "lower_ir_version",
    "node_profiles",
]
