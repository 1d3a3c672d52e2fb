"""What the command line does, as functions."""

from onnx_admm.api.annotate import annotate
from onnx_admm.api.compare import compare
from onnx_admm.api.compress import Compression, Plan, compress
from onnx_admm.api.inspect import inspect_costs, inspect_model

__all__ = ["Compression", "Plan", "annotate", "compare", "compress", "inspect_costs", "inspect_model"]
