"""What a model file holds, layer by layer."""

from __future__ import annotations

import os

from onnx_admm.contracts import ModelView
from onnx_admm.report import ModelFacts, describe_model


def inspect_model(path: str | os.PathLike[str]) -> ModelFacts:
    """Operator, shape, parameters, nonzeros, bits, bytes and MACs of every weight, and the file's totals.

    Raises:
        ModelError: not a model, or not one that is safe to read.
    """
    return describe_model(ModelView.load(path), path)
