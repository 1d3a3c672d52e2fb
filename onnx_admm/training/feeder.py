"""Feeds of a training epoch: drawn, batched, augmented, taught, and cut to what the model takes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from onnx_admm.contracts import Array, Batch, Dataset, Feeds, ModelView, TrainingSettings
from onnx_admm.errors import RecipeError
from onnx_admm.training.augment import parse_augmentations
from onnx_admm.training.teacher import Teacher


class Feeder:
    """Draws the batches of each epoch; the seed decides order, selection and augmentation.

    Raises:
        RecipeError: augmentations, and no input is a batch of images (n, channels, height, width).
    """

    def __init__(
        self, model: ModelView, data: Dataset, settings: TrainingSettings, teacher: Teacher | None
    ) -> None:
        self._data, self._size, self._teacher = data, settings.batch_size, teacher
        self._samples = min(len(data), settings.epoch_samples or len(data))
        self._augmentations = parse_augmentations(settings.augment)
        inputs = model.signature().inputs
        self._images = {port.name for port in inputs if port.shape is not None and len(port.shape) == 4}
        if self._augmentations and not self._images:
            expected = "an input of shape (n, channels, height, width)"
            raise RecipeError("augmentations are for images", where="augment", expected=expected)
        first = inputs[0].shape
        self._fixed = first[0] if first and isinstance(first[0], int) else None

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self._samples / self._size)

    def epoch(self, seed: int) -> Iterator[list[Feeds]]:
        """The batches of one epoch, each as the parts the model takes: one, or several of a fixed size."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self._data))[: self._samples]
        batches = self._data.select(order).batches(self._size)
        for step, batch in enumerate(batches):
            feeds = self._feeds(batch, order[step * self._size :][: len(batch)], rng)
            yield list(self._parts(feeds, len(batch)))

    def _feeds(self, batch: Batch, indices: Array, rng: np.random.Generator) -> Feeds:
        feeds = dict(batch.feeds)
        for name in sorted(self._images & feeds.keys()):
            for augmentation in self._augmentations:
                feeds[name] = augmentation(feeds[name], rng)
        if self._teacher is not None:
            feeds["teacher"] = self._teacher.targets(indices, batch.feeds, feeds)
        if batch.labels is not None:
            feeds.setdefault("labels", batch.labels.astype(np.int64))
        return {name: np.ascontiguousarray(array) for name, array in feeds.items()}

    def _parts(self, feeds: Feeds, count: int) -> Iterator[Feeds]:
        """The batch whole, or cut to the model's fixed size, a remainder left out (gradients add up)."""
        size = self._fixed or count
        for start in range(0, count - size + 1, size):
            yield {name: array[start : start + size] for name, array in feeds.items()}
