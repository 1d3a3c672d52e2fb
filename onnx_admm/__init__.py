"""onnx-admm: prune and quantise trained ONNX models by ADMM.

    >>> import onnx_admm
    >>> from onnx_admm.testing import model_family
    >>> result = onnx_admm.compress(model_family()["mlp_both_ways"].to_bytes(), threads=1)
    >>> result.report.file_ratio > 1
    True

Functions are imported on first use, so that ``import onnx_admm`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_admm.api.public import Compressed, annotate, compare, compress, costs, inspect, lint, sweep

__all__ = [
    "Compressed",
    "__version__",
    "annotate",
    "compare",
    "compress",
    "costs",
    "inspect",
    "lint",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("onnx-admm")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("onnx_admm.api.public"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
