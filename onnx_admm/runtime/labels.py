"""Labels for losses and accuracies: class numbers, and ignored places."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import IGNORED, Array
from onnx_admm.errors import DataError

VOID = 255
"""Label of pixels without a class in common segmentation masks (8-bit images)."""


def known_labels(labels: Array, classes: int | None) -> npt.NDArray[np.int64]:
    """Return the labels as int64, ignored ones as ``IGNORED``.

    These are negative labels, and in dense labels (one for each place of a sample) ``VOID`` too, unless the
    model has a class of that number.

    Args:
        labels: integers of shape (n,), or (n, ...) for dense ones.
        classes: number of the model's classes; None: unknown.

    Raises:
        DataError: a label the model has no class for.
    """
    known = labels.astype(np.int64)
    known[known < 0] = IGNORED
    if labels.ndim > 1 and (classes is None or classes <= VOID):
        known[known == VOID] = IGNORED
    if classes is not None and known.size and int(known.max()) >= classes:
        expected = f"0 to {classes - 1}"
        raise DataError("a label the model has no class for", got=int(known.max()), expected=expected)
    return known
