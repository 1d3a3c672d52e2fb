"""Samples for models with one input, and what a smaller model has lost on others."""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.data import from_arrays
from onnx_admm.model import layer_profiles
from onnx_admm.runtime.sessions import open_session


def samples(view: ModelView, count: int = 96, seed: int = 0) -> Dataset:
    """Normal values for the model's only input."""
    (port,) = view.signature().inputs
    shape = [count, *(extent for extent in (port.shape or ())[1:] if isinstance(extent, int))]
    return from_arrays({port.name: np.random.default_rng(seed).normal(size=shape).astype(np.float32)})


def relative_error(before: ModelView, after: ModelView) -> float:
    """Relative squared error of the only output, on samples that no other seed gives."""
    (port,) = before.signature().inputs
    feeds = {port.name: next(samples(before, 64, seed=9).batches(64)).feeds[port.name]}
    one, other = (open_session(model, threads=1).run(feeds) for model in (before, after))
    ((name, expected),) = one.items()
    return float(((other[name] - expected) ** 2).sum() / (expected**2).sum())


def macs(view: ModelView) -> int:
    """Multiply-accumulates of one sample."""
    return sum(row.macs or 0 for row in layer_profiles(view))
