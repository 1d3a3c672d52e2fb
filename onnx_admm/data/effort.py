"""What a run over samples takes, in multiply-accumulates: how many samples a measurement can afford.

Counted and not timed, so that the same model and data give the same answer on any machine.
"""

from __future__ import annotations

from math import prod

import numpy as np

from onnx_admm.contracts import Dataset, Feeds, ModelView
from onnx_admm.model import layer_profiles

_IMAGES = 4  # axes
_MOST_BYTES = 64 << 20


def macs_per_sample(model: ModelView, data: Dataset) -> int:
    """Multiply-accumulates of the layers for one sample, at least 1.

    Where shapes behind operators that inference does not know hide a layer's, it is taken to work at every
    pixel of the largest image that goes in, or once.
    """
    feeds = next(data.select(np.arange(1)).batches(1)).feeds
    pixels = max((prod(array.shape[2:]) for array in feeds.values() if array.ndim == _IMAGES), default=1)
    profiles = layer_profiles(model, _open_extents(model, feeds))
    pixels = max(pixels, 1)
    return max(1, sum(p.parameters * pixels if p.macs is None else p.macs for p in profiles))


def affordable(model: ModelView, data: Dataset, most_macs: int, least: int = 2) -> Dataset:
    """The first samples that take at most ``most_macs`` and 64 MiB; ``least``, where those take more."""
    feeds = next(data.select(np.arange(1)).batches(1)).feeds
    sample_bytes = max(1, sum(array.nbytes for array in feeds.values()))
    count = max(least, min(most_macs // macs_per_sample(model, data), _MOST_BYTES // sample_bytes))
    return data.select(np.arange(min(len(data), count)))


def _open_extents(model: ModelView, feeds: Feeds) -> dict[str, int]:
    """What a sample makes of the inputs' open extents."""
    bindings: dict[str, int] = {}
    for port in model.signature().inputs:
        stated = port.shape or ()
        met = feeds[port.name].shape[feeds[port.name].ndim - len(stated) :]
        bindings |= {
            f"{port.name}[{axis}]": max(extent, 1)  # a cache may begin empty
            for axis, extent in enumerate(met)
            if not isinstance(stated[axis], int)
        }
    return bindings
