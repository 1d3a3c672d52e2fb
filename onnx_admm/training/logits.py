"""Properties of a model's output for a loss: shape, class axis, and whether labels fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Array, Dataset, Feeds
from onnx_admm.errors import DataError
from onnx_admm.model.analysis.class_axis import ClassAxis, axis_by_labels
from onnx_admm.runtime.feeding import feed_of, fixed_step
from onnx_admm.runtime.sessions import Session


@dataclass(frozen=True)
class Logits:
    """The one output of a model that is cut at its logits.

    Attributes:
        shape: shape of one run.
        class_axis: not negative; 0, the axis of the samples, stands for none.
        is_classifier: whether the graph shows that these are scores of classes.
        by_sample: whether the first axis counts the samples of a run.
        fits_labels: whether the data's labels have one place for each place of the output.
    """

    shape: tuple[int, ...]
    class_axis: int
    is_classifier: bool
    by_sample: bool
    fits_labels: bool

    @property
    def classes(self) -> int:
        """Extent of the class axis; 1 where the output has none."""
        return self.shape[self.class_axis] if self.class_axis else 1


def look_at_logits(session: Session, data: Dataset, axis: ClassAxis | None) -> Logits:
    """Run the first sample and return the properties of the output.

    Args:
        session: the model, cut at its logits.
        data: samples; one is run.
        axis: the class axis that the graph determines; None: the shape of labels determines it, or it is the
            last.

    Raises:
        DataError: dense labels (of more than one place a sample) that do not fit the output.
    """
    batch = next(data.select(np.zeros(2, np.int64)).batches(2))
    shapes = session.input_shapes
    fixed = fixed_step(shapes, batch.feeds)
    shape = _run(session, feed_of(shapes, batch.feeds, 0, fixed or 1))
    by_sample = bool(shape) and shape[0] == (fixed or 1)
    if fixed is None:  # two samples must give two rows
        by_sample = by_sample and _run(session, batch.feeds)[0] == 2
    labels = None if batch.labels is None else batch.labels.shape[1:]
    found = None if labels is None or not by_sample else axis_by_labels(shape, (shape[0], *labels))
    stated = found if axis is None else axis.scores
    class_axis = -1 if stated is None else stated
    class_axis += len(shape) if class_axis < 0 else 0
    if not 0 <= class_axis < len(shape):
        return Logits(shape, 0, is_classifier=False, by_sample=by_sample, fits_labels=False)
    places = [*shape[:class_axis], *shape[class_axis + 1 :]]
    fits = labels is not None and by_sample and class_axis > 0 and _long(places[1:]) == _long(labels)
    if labels is not None and not fits and (_long(labels) or axis is not None):
        raise DataError(
            "labels of another shape than the predictions",
            where="labels",
            got=str(["n", *labels]),
            expected=str(["n", *places[1:]]) if by_sample else "an output with an axis for the samples",
        )
    return Logits(shape, class_axis, axis is not None, by_sample, fits)


def _run(session: Session, feeds: Feeds) -> tuple[int, ...]:
    named = {name: feeds[name] for name in session.input_names}
    output: Array = session.run(named)[session.output_names[0]]
    return output.shape


def _long(shape: tuple[int, ...] | list[int]) -> list[int]:
    return [extent for extent in shape if extent != 1]
