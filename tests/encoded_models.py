"""Encoding a model and running it, for tests of the forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime.sessions import open_session


def encode(view: ModelView, **settings: object) -> tuple[ModelView, PassReport]:
    """A fork, encoded."""
    fork, context = view.fork(), PassContext(reference=view)
    step = Encode(**settings)  # type: ignore[arg-type]
    step.requires(fork, context)
    return fork, step.run(fork, context)


def feeds(view: ModelView) -> dict[str, np.ndarray]:
    """Three random samples."""
    (port,) = view.signature().inputs
    shape = [extent if isinstance(extent, int) else 3 for extent in port.shape or ()]
    return {port.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def run(model: ModelView | Path, samples: dict[str, np.ndarray], *, optimize: bool = True) -> np.ndarray:
    return next(iter(open_session(model, threads=1, optimize=optimize).run(samples).values()))


def folded_operators(path: Path, tmp_path: Path) -> set[str]:
    """Operators left after basic optimisation."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    runtime.InferenceSession(str(path), options)
    return {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
