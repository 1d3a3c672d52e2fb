"""What a run over samples takes, in multiply-accumulates: how many samples a measurement can afford.

Counted and not timed, so that the same model and data give the same answer on any machine.
"""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.model import layer_profiles


def macs_per_sample(model: ModelView, data: Dataset) -> int:
    """Multiply-accumulates of the layers for one sample, at least 1; what nobody can count is left out."""
    profiles = layer_profiles(model, _open_extents(model, data))
    return max(1, sum(profile.macs or 0 for profile in profiles))


def affordable(model: ModelView, data: Dataset, most_macs: int, least: int = 2) -> Dataset:
    """The first samples that take at most ``most_macs``; ``least``, where those alone take more."""
    count = max(least, most_macs // macs_per_sample(model, data))
    return data.select(np.arange(min(len(data), count)))


def _open_extents(model: ModelView, data: Dataset) -> dict[str, int]:
    """What the first sample makes of the inputs' open extents."""
    feeds = next(data.select(np.arange(1)).batches(1)).feeds
    bindings: dict[str, int] = {}
    for port in model.signature().inputs:
        stated = port.shape or ()
        met = feeds[port.name].shape[feeds[port.name].ndim - len(stated) :]
        bindings |= {
            f"{port.name}[{axis}]": extent
            for axis, extent in enumerate(met)
            if not isinstance(stated[axis], int)
        }
    return bindings
