"""Labels against the classes that a model's graph declares, before anything is run."""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.data.labels import Labels
from onnx_admm.data.ragged import RaggedSamples
from onnx_admm.data.samples import SampleSet
from onnx_admm.model.analysis.class_axis import class_axis
from onnx_admm.runtime.labels import VOID, known_labels
from onnx_admm.runtime.predictions import class_count


def check_class_numbers(data: Dataset, model: ModelView) -> None:
    """Refuse labels of classes that the model does not have, as far as its output's shape tells.

    Raises:
        DataError: states the label and the classes.
    """
    sets = data.sets if isinstance(data, RaggedSamples) else (data,) if isinstance(data, SampleSet) else ()
    for labels in (one.all_labels for one in sets):
        if labels is not None and (classes := _declared_classes(model, labels)) is not None:
            if labels.dense and labels.largest == VOID:
                continue  # no class, where the model has none of that number
            known_labels(np.array([labels.largest]), classes)


def _declared_classes(model: ModelView, labels: Labels) -> int | None:
    """How many classes the output has that predictions are read from; None where its shape leaves it open."""
    axis = class_axis(model)
    outputs = model.signature().outputs
    named = [port for port in outputs if axis is None or port.name == axis.name]
    if not named or named[0].shape is None or not named[0].shape:
        return None
    declared = named[0].shape[1:]
    extents = [extent for extent in declared if isinstance(extent, int)]
    if len(extents) < len(declared) or not named[0].dtype.startswith("float"):
        return None
    output = np.broadcast_to(np.zeros((), np.float32), (1, *extents))
    count = class_count(output, axis, (1, *labels.shape[1:]))
    return None if count is None or count < 2 else count
