"""OrtTrainer: fine-tuning sessions through onnxruntime-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnx_admm.contracts import Array, Blocks, Dataset, ModelView, TrainingSettings, WeightSite
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.model.rewrite.training_graph import (
    LABELS,
    TEACHER,
    cut_at_logits,
    fixed_name,
    rho_name,
    target_name,
    training_form,
    weight_input_name,
)
from onnx_admm.runtime.sessions import open_session, require_training
from onnx_admm.training.artifacts import Request, build_artifacts
from onnx_admm.training.bindings import TrainingSession
from onnx_admm.training.feeder import Feeder, Targets
from onnx_admm.training.logits import look_at_logits
from onnx_admm.training.loss import loss_spec
from onnx_admm.training.run import EpochRun, mean_loss
from onnx_admm.training.teacher import Teacher


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


class OrtTrainingRun(EpochRun):
    """One open session; see ``contracts.TrainingRun``."""

    def __init__(
        self,
        model: ModelView,
        sites: tuple[WeightSite, ...],
        data: Dataset,
        settings: TrainingSettings,
        reference: ModelView,
    ) -> None:
        super().__init__(model)
        self._sites, self._settings = sites, settings
        # One thread by default: for models trained on a CPU, more threads mostly wait for one another.
        self._threads = settings.threads or 1
        require_training()
        cut, axis = cut_at_logits(reference)
        session = open_session(cut, threads=self._threads, spins=False)
        logits = look_at_logits(session, data, axis)
        loss = loss_spec(settings, logits, has_labels=data.has_labels)
        self._form = training_form(model, sites, loss)
        targets = Targets()
        if TEACHER in self._form.inputs:
            kept = {"augmented": bool(settings.augment), "by_sample": logits.by_sample}
            targets = replace(targets, teacher=Teacher(session, len(data), loss, **kept))
        if LABELS in self._form.inputs:
            targets = replace(targets, classes=logits.classes)
        self._feeder = Feeder(model, data, settings, targets)
        self._folder = TemporaryFolder()
        try:
            self._session = self._built(Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise

    def _built(self, folder: Path) -> TrainingSession:
        feeds = self._feeder.first_run()
        settings = self._settings
        request = Request(self._form, settings.weight_decay, settings.max_gradient_norm, self._threads, feeds)
        return build_artifacts(request, folder)

    def __enter__(self) -> OrtTrainingRun:
        return self

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()

    # -- steering ----------------------------------------------------------------------------

    def weights(self) -> Blocks:
        """See ``contracts.TrainingRun.weights``."""
        return {
            name: self._get(name) * self._get(weight_input_name(name)) + self._get(fixed_name(name))
            for name in (site.name for site in self._sites)
        }

    def load(self, weights: Blocks) -> None:
        """See ``contracts.TrainingRun.load``."""
        for name, array in weights.items():
            self._set(name, array)

    def set_proximal_term(self, targets: Blocks, rho: Mapping[str, float]) -> None:
        """See ``contracts.TrainingRun.set_proximal_term``."""
        for name, target in targets.items():
            self._set(target_name(name), target)
            self._set(rho_name(name), np.array([rho.get(name, 0.0) / 2]))

    def freeze(self, free: Blocks, fixed: Blocks) -> None:
        """See ``contracts.TrainingRun.freeze``."""
        for name in free:
            self._set(weight_input_name(name), free[name])
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

    # -- training ----------------------------------------------------------------------------

    def epoch(self, start_rate: float, end_rate: float, *, seed: int) -> float:
        """See ``contracts.TrainingRun.epoch``."""
        losses = []
        for step, runs in enumerate(self._feeder.epoch(seed)):
            losses += [self._session.add_gradients(feeds) for feeds in runs]
            self._session.step(start_rate + (end_rate - start_rate) * step / self._feeder.steps)
            self._told((step + 1) / self._feeder.steps)
        return mean_loss(losses)

    def _get(self, name: str) -> Array:
        return self._session.parameter(name)

    def _set(self, name: str, array: Array) -> None:
        self._session.set_parameter(name, array)
