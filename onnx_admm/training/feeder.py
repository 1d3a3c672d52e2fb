"""Feeds of a training epoch: drawn, batched, augmented, with targets, and cut to the model's input shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Array, Batch, Dataset, Feeds, ModelView, TrainingSettings
from onnx_admm.errors import RecipeError
from onnx_admm.model.rewrite.training_graph import LABELS, TEACHER
from onnx_admm.runtime.feeding import feed_of, fixed_step
from onnx_admm.runtime.labels import known_labels
from onnx_admm.training.augment import parse_augmentations
from onnx_admm.training.teacher import Teacher


@dataclass(frozen=True)
class Targets:
    """The targets of a loss.

    Attributes:
        teacher: returns the original's outputs; None where the loss does not need them.
        classes: number of classes of labels; None where the loss needs no labels.
    """

    teacher: Teacher | None = None
    classes: int | None = None


class Feeder:
    """Draws the batches of each epoch; the seed decides order, selection and augmentation.

    A model whose inputs fix the number of samples takes a batch in several runs, whose gradients add up. The
    batch is then the multiple of that number below ``batch_size``, at least the number itself; an epoch that
    is no multiple of it repeats its first samples.

    Raises:
        RecipeError: augmentations, and no input is a batch of images (n, channels, height, width).
        DataError: inputs whose first axes are fixed at different numbers.
    """

    def __init__(self, model: ModelView, data: Dataset, settings: TrainingSettings, targets: Targets) -> None:
        self._data, self._targets = data, targets
        self._augmentations = parse_augmentations(settings.augment)
        inputs = model.signature().inputs
        self._images = {port.name for port in inputs if port.shape is not None and len(port.shape) == 4}
        if self._augmentations and not self._images:
            expected = "an input of shape (n, channels, height, width)"
            raise RecipeError("augmentations are for images", where="augment", expected=expected)
        self._shapes = {port.name: port.shape for port in inputs if port.shape is not None}
        first = next(data.select(np.zeros(1, np.int64)).batches(1))
        self._fixed = fixed_step(self._shapes, first.feeds)
        fixed, size = self._fixed or 1, settings.batch_size
        self._size = max(fixed, size // fixed * fixed)
        self._drawn = min(len(data), settings.epoch_samples or len(data))
        self._samples = math.ceil(self._drawn / fixed) * fixed

    @property
    def steps(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(self._samples / self._size)

    def epoch(self, seed: int) -> Iterator[list[Feeds]]:
        """Yield the batches of one epoch, each as the runs of the model: one, or several of a fixed size."""
        rng = np.random.default_rng(seed)
        order = np.resize(rng.permutation(len(self._data))[: self._drawn], self._samples)
        batches = self._data.select(order).batches(self._size)
        for step, batch in enumerate(batches):
            indices = order[step * self._size :][: len(batch)]
            yield list(self._runs(batch, indices, self._augmented(batch.feeds, rng)))

    def first_run(self) -> Feeds:
        """Return the feeds of one run, for a trial."""
        return next(self.epoch(0))[0]

    def _augmented(self, feeds: Feeds, rng: np.random.Generator) -> Feeds:
        moved = dict(feeds)
        for name in sorted(self._images & moved.keys()):
            for augmentation in self._augmentations:
                moved[name] = augmentation(moved[name], rng)
        return moved

    def _runs(self, batch: Batch, indices: Array, augmented: Feeds) -> Iterator[Feeds]:
        size = self._fixed or len(batch)
        for start in range(0, len(batch), size):
            fed = feed_of(self._shapes, augmented, start, size)
            chosen = slice(start, start + size)
            if (teacher := self._targets.teacher) is not None:
                plain = feed_of(self._shapes, batch.feeds, start, size)
                fed[TEACHER] = teacher.targets(indices[chosen], plain, fed)
            if self._targets.classes is not None and batch.labels is not None:
                fed[LABELS] = known_labels(batch.labels[chosen], self._targets.classes).reshape(-1)
            yield {name: np.ascontiguousarray(array) for name, array in fed.items()}
