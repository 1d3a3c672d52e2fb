"""The teacher: the original model's outputs on the training samples, computed once where they fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.model.rewrite.training_graph import LossSpec
from onnx_admm.runtime.sessions import Session

_MOST_KEPT_BYTES = 256 * 2**20


class Teacher:
    """Returns the original's outputs of one run, as targets of the loss.

    A divergence teaches classes, and an augmentation keeps the class: its targets are those of the sample
    without augmentation, so they are kept from one epoch to the next. A squared error teaches the outputs
    themselves, which change with the sample: those are computed again wherever samples are augmented. Outputs
    whose first axis does not count the samples are never kept.

    Args:
        session: the original, cut before its closing Softmax.
        samples: number of training samples.
        loss: decides which target is computed.
        augmented: whether samples are augmented.
        by_sample: whether the first axis of the output counts the samples.
    """

    def __init__(
        self, session: Session, samples: int, loss: LossSpec, *, augmented: bool, by_sample: bool
    ) -> None:
        self._session, self._samples, self._loss = session, samples, loss
        self._fixed = bool(loss.divergence_weight) or not augmented
        self._keeps = self._fixed and by_sample
        self._known = np.zeros(samples, np.bool_)
        self._kept: Array | None = None

    def targets(self, indices: Array, original: Mapping[str, Array], augmented: Mapping[str, Array]) -> Array:
        """Return the targets of one run, of the logits' shape: teacher probabilities, or plain outputs.

        Args:
            indices: (n,), numbers of the run's samples.
            original: inputs of the run, without augmentation.
            augmented: inputs of the student.
        """
        if not self._keeps:
            return self._answer(original if self._fixed else augmented)
        if self._kept is not None and self._known[indices].all():
            return self._kept[indices]
        answer = self._answer(original)
        if self._kept is None and answer.nbytes // len(answer) * self._samples <= _MOST_KEPT_BYTES:
            self._kept = np.empty((self._samples, *answer.shape[1:]), answer.dtype)
        if self._kept is not None:
            self._kept[indices], self._known[indices] = answer, True
        return answer

    def _answer(self, feeds: Mapping[str, Array]) -> Array:
        [output] = self._session.output_names
        logits = self._session.run({name: feeds[name] for name in self._session.input_names})[output]
        if not self._loss.divergence_weight:
            return logits.astype(np.float32, copy=False)
        cooled = logits / self._loss.temperature
        axis = self._loss.class_axis
        grown = np.exp(cooled - cooled.max(axis=axis, keepdims=True))
        return np.asarray(grown / grown.sum(axis=axis, keepdims=True), dtype=np.float32)
