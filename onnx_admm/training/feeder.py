"""Feeds of a training epoch: drawn, batched, augmented, with targets, and cut to the model's input shapes."""

from __future__ import annotations

import itertools
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
        self._shapes = {
            port.name: tuple(None if _is_open(extent) else extent for extent in port.shape)
            for port in inputs
            if port.shape is not None
        }
        first = next(data.select(np.zeros(1, np.int64)).batches(1))
        self._fixed = fixed_step(self._shapes, first.feeds)
        fixed, size = self._fixed or 1, settings.batch_size
        self._size = max(fixed, size // fixed * fixed)
        self._drawn = min(len(data), settings.epoch_samples or len(data))
        self._samples = math.ceil(self._drawn / fixed) * fixed
        self._most: int | None = None

    @property
    def steps(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(self._samples / self._size)

    @property
    def run_size(self) -> int:
        """Samples in the first run of an epoch."""
        return self._parts(min(self._size, self._samples))[0][1]

    def limit_runs(self, samples: int | None) -> None:
        """Cut batches into runs of about equal size with no more samples each, where inputs allow it.

        None: a batch is one run.
        """
        self._most = samples

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
        for start, size in self._parts(len(batch)):
            fed = feed_of(self._shapes, augmented, start, size)
            chosen = slice(start, start + size)
            if (teacher := self._targets.teacher) is not None:
                plain = feed_of(self._shapes, batch.feeds, start, size)
                fed[TEACHER] = teacher.targets(indices[chosen], plain, fed)
            if self._targets.classes is not None and batch.labels is not None:
                fed[LABELS] = known_labels(batch.labels[chosen], self._targets.classes).reshape(-1)
            yield {name: np.ascontiguousarray(array) for name, array in fed.items()}

    def _parts(self, samples: int) -> list[tuple[int, int]]:
        """First sample and size of each run of a batch."""
        if self._fixed:
            return [(start, self._fixed) for start in range(0, samples, self._fixed)]
        count = 1 if self._most is None else math.ceil(samples / self._most)
        bounds = [samples * part // count for part in range(count + 1)]
        return [(start, stop - start) for start, stop in itertools.pairwise(bounds)]


def _is_open(extent: int | str | None) -> bool:
    """Whether an axis has no extent: some exporters write -1."""
    return extent is None or (isinstance(extent, int) and extent < 0)
