"""The commands as functions."""

from onnx_admm.api.annotate import annotate
from onnx_admm.api.compare import compare
from onnx_admm.api.compress import Compression, compress
from onnx_admm.api.inspect import inspect_costs, inspect_model
from onnx_admm.api.linting.lint import lint_file
from onnx_admm.api.preparing import Plan
from onnx_admm.api.sweep import Sweep
from onnx_admm.limits import RunLimits, run_within

__all__ = [
    "Compression",
    "Plan",
    "RunLimits",
    "Sweep",
    "annotate",
    "compare",
    "compress",
    "inspect_costs",
    "inspect_model",
    "lint_file",
    "run_within",
]
