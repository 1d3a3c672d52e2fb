"""Choice of calibration samples: equally many of each predicted class.

Weights that no sample needs are pruned first. With many classes a random draw misses some and repeats others,
so the original predicts the classes, and samples are taken from the classes in turn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_admm.calibration.row_sampling import Positions
from onnx_admm.contracts import Dataset, PassContext
from onnx_admm.data import synthetic_dataset
from onnx_admm.model.analysis.class_axis import class_axis
from onnx_admm.runtime.evaluation import predicted_classes

_LOOKED_AT = 4
"""Samples that are predicted for each one that is taken."""


def calibration_samples(context: PassContext, count: int) -> Dataset:
    """Return ``count`` samples of the training data, or all; random inputs where there is no data.

    They are drawn by ``context.seed``, and kept in order. Where the original assigns each sample to one
    class, equally many of each predicted class are drawn; labels are not used.
    """
    train = context.train
    if train is None:
        return synthetic_dataset(context.reference, count, context.seed)
    order = np.random.default_rng(context.seed).permutation(len(train))
    if len(order) > count:
        order = order[: _LOOKED_AT * count]
        seen = train.select(order)
        classes = predicted_classes(
            context.reference,
            seen,
            classes=class_axis(context.reference),
            threads=context.settings.threads,
        )
        turns = np.arange(len(order)) if classes is None else in_turn(classes)
        order = order[turns[:count]]
    return train.select(np.sort(order))


def in_turn(classes: npt.NDArray[np.int64]) -> Positions:
    """Return the positions of all samples: the first of each class, then the second of each, and so on.

    Args:
        classes: classes of the samples, (n,).
    """
    turn = np.empty(len(classes), np.int64)
    for each in np.unique(classes):
        of_class = np.flatnonzero(classes == each)
        turn[of_class] = np.arange(len(of_class))
    return np.argsort(turn, kind="stable")
