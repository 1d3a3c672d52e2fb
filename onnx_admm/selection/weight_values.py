"""Values with which a weight can be compressed: one check for every pass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.sets.scale import LEAST_PEAK
from onnx_admm.selection.fixed_transforms import transform_in

_SMALLEST = {name: float(np.finfo(name).tiny) for name in ("float16", "float32", "float64")}
"""Supported types, and the least magnitude with full precision of each."""

_LARGEST = 1e15
"""Magnitude from which on float32 cannot hold a square times the number of weights."""


def why_unusable(values: npt.NDArray[np.generic]) -> str | None:
    """Return why no pass can work on a weight of these values, as a sentence's end; else None.

    Types without arithmetic here, no elements, NaN and infinities, magnitudes whose squares overflow, and
    weights of denormal numbers alone (or nearly so), whose scales cannot be represented with the digits they
    need.
    """
    if values.dtype.name not in _SMALLEST:
        return f"{values.dtype.name} weights have no smaller form here"
    if values.size == 0:
        return "has no elements"
    largest = max(float(values.max()), -float(values.min()))  # no copy is made; NaN stays NaN
    if not np.isfinite(largest):
        return "holds values that are not finite"
    if largest >= _LARGEST:
        return f"holds magnitudes up to {largest:.3g}, whose squares overflow"
    if 0 < largest < max(_SMALLEST[values.dtype.name], LEAST_PEAK):
        return f"holds magnitudes up to {largest:.3g} alone, too small for a scale"
    return None


def why_left(values: npt.NDArray[np.generic], *, is_named: bool = False) -> str | None:
    """Return why a weight is left unchanged, as a sentence's end; None for one to work on.

    Args:
        values: values of the weight.
        is_named: whether the user named it; then it may be a transform too (see ``transforms``).
    """
    why = why_unusable(values)
    return why if why is not None or is_named else transform_in(values)
