"""The teacher: the original model's outputs on the training samples, computed once where they fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_admm.contracts import Array, Feeds
from onnx_admm.model.training_form import LossSpec
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.sessions import Session

_MOST_KEPT_BYTES = 256 * 2**20


class Teacher:
    """Answers with what the original says of each sample, as the loss takes it.

    A divergence teaches classes, and an augmentation keeps the class: its targets are those of the sample
    as it is, so they are kept from one epoch to the next. A squared error teaches the outputs themselves,
    which move with the sample: those are computed anew wherever samples are augmented.

    Args:
        session: the original, cut before its closing Softmax.
        samples: number of training samples.
        loss: says which target is wanted.
        augmented: whether samples are augmented.
    """

    def __init__(self, session: Session, samples: int, loss: LossSpec, *, augmented: bool) -> None:
        self._session, self._samples, self._loss = session, samples, loss
        self._fixed = bool(loss.divergence_weight) or not augmented
        self._known = np.zeros(samples, np.bool_)
        self._kept: Array | None = None

    def targets(self, indices: Array, original: Mapping[str, Array], augmented: Mapping[str, Array]) -> Array:
        """Targets (n, ...) of the samples at ``indices``: teacher probabilities, or plain outputs.

        Args:
            indices: (n,) which samples these are.
            original: the model's inputs, as the data gives them.
            augmented: the same as the student is fed them.
        """
        if not self._fixed:
            return self._answer(augmented)
        if self._kept is not None and self._known[indices].all():
            return self._kept[indices]
        answer = self._answer(original)
        if self._kept is None and answer.nbytes // len(answer) * self._samples <= _MOST_KEPT_BYTES:
            self._kept = np.empty((self._samples, *answer.shape[1:]), answer.dtype)
        if self._kept is not None:
            self._kept[indices], self._known[indices] = answer, True
        return answer

    def _answer(self, feeds: Mapping[str, Array]) -> Array:
        wanted: Feeds = {name: feeds[name] for name in self._session.input_names}
        output = self._session.output_names[0]
        logits = np.concatenate([run.outputs[output] for run in run_samples(self._session, wanted)])
        if not self._loss.divergence_weight:
            return logits
        cooled = logits / self._loss.temperature
        grown = np.exp(cooled - cooled.max(axis=-1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=-1, keepdims=True), dtype=np.float32)
