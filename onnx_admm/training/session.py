"""OrtTrainer: fine-tuning sessions through onnxruntime-training."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnx_admm.contracts import Array, Batch, Blocks, Dataset, ModelView, TrainingSettings, WeightSite
from onnx_admm.errors import RecipeError, TrainingError
from onnx_admm.model.training_form import (
    LossSpec,
    cut_at_logits,
    fixed_name,
    free_name,
    rho_name,
    target_name,
    training_form,
)
from onnx_admm.runtime.sessions import Session, open_session
from onnx_admm.training.artifacts import training_modules, write_artifacts
from onnx_admm.training.augment import parse_augmentations


class OrtTrainer:
    """Opens fine-tuning sessions on the installed onnxruntime-training."""

    def open(
        self,
        model: ModelView,
        sites: Sequence[WeightSite],
        data: Dataset,
        settings: TrainingSettings,
        reference: ModelView,
    ) -> OrtTrainingRun:
        """See ``contracts.Trainer.open``."""
        return OrtTrainingRun(model, tuple(sites), data, settings, reference)


def loss_spec(settings: TrainingSettings, *, has_labels: bool, classifier: bool) -> LossSpec:
    """Factors of the loss terms that ``settings.loss`` names for this data and model.

    ``auto`` blends cross-entropy with distillation where there are labels; without labels it distils: by
    divergence where the model ends in a classifier's head, by squared error where it does not.

    Raises:
        TrainingError: a loss that needs labels, and there are none; or an unknown loss.
    """
    name, share = settings.loss, settings.distillation_weight
    if name == "auto":
        name = "blend" if has_labels else "distillation" if classifier else "mse"
    if name in ("blend", "cross_entropy") and not has_labels:
        hint = "Add `labels` to the data, or use the loss `distillation`."
        raise TrainingError(f"loss {name!r} needs labels, and the data has none", hint=hint)
    match name:
        case "blend":
            return LossSpec(
                label_weight=1.0 - share, divergence_weight=share, temperature=settings.temperature
            )
        case "cross_entropy":
            return LossSpec(label_weight=1.0)
        case "distillation":
            return LossSpec(divergence_weight=1.0, temperature=settings.temperature)
        case "mse":
            return LossSpec(squared_weight=1.0)
        case _:
            known = "auto, blend, cross_entropy, distillation, mse"
            raise RecipeError("unknown loss", got=name, expected=known)


class OrtTrainingRun:
    """One open session; see ``contracts.TrainingRun``."""

    def __init__(
        self,
        model: ModelView,
        sites: tuple[WeightSite, ...],
        data: Dataset,
        settings: TrainingSettings,
        reference: ModelView,
    ) -> None:
        self._model, self._sites, self._data, self._settings = model, sites, data, settings
        teacher, classifier = cut_at_logits(reference)
        self._loss = loss_spec(settings, has_labels=data.has_labels, classifier=classifier)
        self._form = training_form(model, sites, self._loss)
        self._fixed = _fixed_batch(model)
        self._augment = parse_augmentations(settings.augment)
        self._teacher: Session | None = None
        if "teacher" in self._form.inputs:
            self._teacher = open_session(teacher, threads=settings.threads or 1)
        self._folder = tempfile.TemporaryDirectory(prefix="onnx-admm-")
        try:
            self._build(Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise

    def _build(self, folder: Path) -> None:
        import onnxruntime

        write_artifacts(self._form, folder, self._settings.weight_decay)
        _, api, _ = training_modules()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # One thread by default: at the sizes trained on a CPU, more threads wait for one another.
        options.intra_op_num_threads = self._settings.threads or 1
        self._state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
        self._module = api.Module(str(folder / "training_model.onnx"), self._state, session_options=options)
        self._optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), self._module)
        self._module.train()
        self._order = list(self._module.input_names())

    def __enter__(self) -> OrtTrainingRun:
        return self

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()

    # -- steering ----------------------------------------------------------------------------

    def weights(self) -> Blocks:
        """See ``contracts.TrainingRun.weights``."""
        return {
            name: self._get(name) * self._get(free_name(name)) + self._get(fixed_name(name))
            for name in (site.name for site in self._sites)
        }

    def load(self, weights: Blocks) -> None:
        """See ``contracts.TrainingRun.load``."""
        for name, array in weights.items():
            self._set(name, array)

    def pull(self, targets: Blocks, rho: Mapping[str, float]) -> None:
        """See ``contracts.TrainingRun.pull``."""
        for name, target in targets.items():
            self._set(target_name(name), target)
            self._set(rho_name(name), np.array([rho.get(name, 0.0) / 2]))

    def freeze(self, free: Blocks, fixed: Blocks) -> None:
        """See ``contracts.TrainingRun.freeze``."""
        for name in free:
            self._set(free_name(name), free[name])
            self._set(fixed_name(name), fixed[name])

    def snapshot(self) -> Mapping[str, Array]:
        """See ``contracts.TrainingRun.snapshot``."""
        return {name: self._get(name) for name in (*self._form.trained, *self._form.steered)}

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """See ``contracts.TrainingRun.restore``."""
        for name, array in snapshot.items():
            self._set(name, array)

    def tensors(self) -> Mapping[str, Array]:
        """See ``contracts.TrainingRun.tensors``."""
        return {**{name: self._get(name) for name in self._form.trained}, **self.weights()}

    def export(self) -> ModelView:
        """See ``contracts.TrainingRun.export``."""
        model = self._model.fork()
        model.write_back(self.tensors())
        return model

    # -- training ----------------------------------------------------------------------------

    def epoch(self, start_rate: float, end_rate: float, *, seed: int) -> float:
        """See ``contracts.TrainingRun.epoch``."""
        size = self._settings.batch_size
        samples = min(len(self._data), self._settings.epoch_samples or len(self._data))
        steps = max(1, math.ceil(samples / size))
        rng = np.random.default_rng(seed)
        losses = []
        for step, batch in enumerate(islice(self._data.batches(size, seed=seed), steps)):
            self._optimizer.set_learning_rate(start_rate + (end_rate - start_rate) * step / steps)
            losses += [float(self._module(*self._inputs(part, rng))) for part in self._parts(batch)]
            self._optimizer.step()
            self._module.lazy_reset_grad()
        mean = float(np.mean(losses))
        if not math.isfinite(mean):
            raise TrainingError(
                "the loss is not finite", got=mean, hint="Lower the learning rate or rho, or check the data."
            )
        return mean

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The batch as the model can take it: whole, or cut to its fixed batch size (gradients add up)."""
        if self._fixed is None:
            yield batch
            return
        for start in range(0, len(batch) - self._fixed + 1, self._fixed):
            part = slice(start, start + self._fixed)
            feeds = {name: array[part] for name, array in batch.feeds.items()}
            yield Batch(feeds, None if batch.labels is None else batch.labels[part])

    def _inputs(self, batch: Batch, rng: np.random.Generator) -> list[Array]:
        feeds: dict[str, Any] = dict(batch.feeds)
        for augmentation in self._augment:
            feeds = {name: augmentation(array, rng) for name, array in feeds.items()}
        if batch.labels is not None:
            feeds.setdefault("labels", batch.labels.astype(np.int64))
        if self._teacher is not None:
            outputs = self._teacher.run({name: feeds[name] for name in self._teacher.input_names})
            feeds["teacher"] = self._soften(next(iter(outputs.values())))
        return [np.ascontiguousarray(feeds[name]) for name in self._order]

    def _soften(self, logits: Array) -> Array:
        """Teacher probabilities at the loss's temperature; plain outputs where the loss is squared."""
        if not self._loss.divergence_weight:
            return logits
        cooled = logits / self._loss.temperature
        grown = np.exp(cooled - cooled.max(axis=-1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=-1, keepdims=True), dtype=np.float32)

    def _get(self, name: str) -> Array:
        return np.array(self._state.parameters[name].data)

    def _set(self, name: str, array: Array) -> None:
        self._state.parameters[name].data = np.ascontiguousarray(array, dtype=np.float32)


def _fixed_batch(model: ModelView) -> int | None:
    """The batch size the model insists on, None where it takes any."""
    shape = model.signature().inputs[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else None
