"""Places of a batch that only fill it up, as an attention mask tells: they do not count in comparisons."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array, Feeds

Places = npt.NDArray[np.bool_]

_MASK = re.compile(r"^(attention|input|padding|pad|token|src|text)_?mask$|^mask$", re.IGNORECASE)


def real_places(feeds: Mapping[str, Array]) -> Places | None:
    """Which places of which samples are no padding, (n, t); None where no mask says that some are.

    Args:
        feeds: of one run; a mask is an input named so, (n, t), of ones at tokens and zeros at padding.
    """
    for name, array in feeds.items():
        if _MASK.search(name) and array.ndim == 2:
            real: Places = array != 0
            if real.any() and not real.all() and np.isin(array, (0, 1)).all():
                return real
    return None


def without_padding(outputs: Mapping[str, Array], places: Places | None) -> Feeds:
    """Outputs of a run with nothing at padding: zeros where an output has an item for each place.

    Args:
        outputs: by name; those of shape (n, t, ...) have items for places.
        places: as ``real_places``.
    """
    return {name: _hidden(array, places) for name, array in outputs.items()}


def _hidden(array: Array, places: Places | None) -> Array:
    if places is None or array.shape[:2] != places.shape or array.dtype.kind not in "fiub":
        return array
    return np.where(places.reshape(*places.shape, *[1] * (array.ndim - 2)), array, array.dtype.type(0))


def counted(predictions: Array, places: Places | None) -> Array:
    """Predictions at real places, (k,); all where they are not one for each place."""
    return predictions if places is None or predictions.shape != places.shape else predictions[places]
