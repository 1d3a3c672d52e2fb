"""The public functions: the commands with typed arguments, for models on disk and in memory."""

from onnx_admm.api.compressed import Compressed
from onnx_admm.api.public.compression import compress
from onnx_admm.api.public.frontier import sweep
from onnx_admm.api.public.questions import annotate, compare, costs, inspect

__all__ = ["Compressed", "annotate", "compare", "compress", "costs", "inspect", "sweep"]
