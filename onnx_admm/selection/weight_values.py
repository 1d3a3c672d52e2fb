"""Which values a weight can be compressed with: one check that every pass asks before it works on one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.sets.scale import LEAST_PEAK
from onnx_admm.selection.fixed_transforms import transform_in

_SMALLEST = {name: float(np.finfo(name).tiny) for name in ("float16", "float32", "float64")}
"""Types that are worked on, and the least magnitude of theirs that has all its digits."""

_LARGEST = 1e15
"""From here on float32 holds no square times the number of weights."""


def why_unusable(values: npt.NDArray[np.generic]) -> str | None:
    """Why no pass can work on a weight of these values, as a sentence's end; None where every pass can.

    Types without arithmetic here, no elements, NaN and infinities, magnitudes whose squares overflow, and
    weights of denormal numbers alone (or nearly so), whose scales no float holds with the digits they need.
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
    """Why a weight is left alone, as a sentence's end; None for one to work on.

    Args:
        values: of the weight.
        is_named: whether the user asked for it by name; then it may be a transform too (see ``transforms``).
    """
    why = why_unusable(values)
    return why if why is not None or is_named else transform_in(values)
