"""Padding in a batch, as an attention mask marks it: it does not count in comparisons."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array, Feeds

Places = npt.NDArray[np.bool_]

_MASK = re.compile(r"^(attention|input|padding|pad|token|src|text)_?mask$|^mask$", re.IGNORECASE)


def real_places(feeds: Mapping[str, Array]) -> Places | None:
    """Return a mask of places that are not padding, (n, t); None where no input marks padding.

    Args:
        feeds: feeds of one run; a mask is an input with such a name, (n, t), of ones at tokens and zeros at
            padding.
    """
    for name, array in feeds.items():
        if _MASK.search(name) and array.ndim == 2:
            real: Places = array != 0
            if real.any() and not real.all() and np.isin(array, (0, 1)).all():
                return real
    return None


def without_padding(outputs: Mapping[str, Array], places: Places | None) -> Feeds:
    """Return the outputs of a run with zeros at padding, where an output has an item for each place.

    Args:
        outputs: outputs by name; those of shape (n, t, ...) have items for places.
        places: as ``real_places``.
    """
    return {name: _hidden(array, places) for name, array in outputs.items()}


def _hidden(array: Array, places: Places | None) -> Array:
    if places is None or array.shape[:2] != places.shape or array.dtype.kind not in "fiub":
        return array
    return np.where(places.reshape(*places.shape, *[1] * (array.ndim - 2)), array, array.dtype.type(0))


def counted(predictions: Array, places: Places | None) -> Array:
    """Return the predictions at real places, (k,); all where there is not one for each place."""
    return predictions if places is None or predictions.shape != places.shape else predictions[places]
