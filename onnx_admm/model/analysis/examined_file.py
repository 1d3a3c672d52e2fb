"""A model file that is only looked at: what the checker refuses does not end the look."""

from __future__ import annotations

import os
from dataclasses import dataclass

from onnx_admm.errors import ModelError, reading
from onnx_admm.model.loading import model_files
from onnx_admm.model.view import ModelView


@dataclass(frozen=True, slots=True)
class ExaminedFile:
    """A model file.

    Attributes:
        model: its content.
        refusal: why the checker refuses it; empty where it does not.
    """

    model: ModelView
    refusal: str = ""


def examine_file(path: str | os.PathLike[str]) -> ExaminedFile:
    """Read a model file, also one that the ONNX checker refuses; limits and guards hold.

    Raises:
        ModelError: missing, not ONNX, unsafe paths or sizes, or so wrong that there is no graph.
    """
    refusals: list[ModelError] = []
    with reading(os.fspath(path), ModelError, "the model cannot be read"):
        model = ModelView(model_files.load_model(path, refusals))
    return ExaminedFile(model, refusals[0].what if refusals else "")
