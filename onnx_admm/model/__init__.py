"""The only room that touches ONNX protobufs and the ONNX IR."""

from onnx_admm.model.sites import WeightSite
from onnx_admm.model.view import ModelView, PortSpec, Signature

__all__ = ["ModelView", "PortSpec", "Signature", "WeightSite"]
