"""GraphTrainer: fine-tuning sessions on a stock ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_admm.contracts import Array, Blocks, Dataset, Feeds, ModelView, TrainingSettings, WeightSite
from onnx_admm.model.differentiation.loss_graph import LABEL_SCALE, SHARE, loss_graph
from onnx_admm.model.differentiation.prepare import static_graph
from onnx_admm.model.differentiation.records import StaticGraph
from onnx_admm.model.rewrite.training_graph import (
    LABELS,
    TEACHER,
    cut_at_logits,
    fixed_name,
    rho_name,
    target_name,
    weight_input_name,
)
from onnx_admm.runtime.sessions import open_session
from onnx_admm.training.feeder import Feeder, Targets
from onnx_admm.training.gradients.backward import is_known
from onnx_admm.training.gradients.codes import codes_in, without_rounding
from onnx_admm.training.graph.check import check_gradients, random_targets
from onnx_admm.training.graph.runtime import newest_opset, run_once
from onnx_admm.training.graph.session import StepOptions, StepSession
from onnx_admm.training.graph.step import Adam, Trained
from onnx_admm.training.logits import Logits, look_at_logits
from onnx_admm.training.loss import loss_spec
from onnx_admm.training.run import EpochRun, mean_loss
from onnx_admm.training.teacher import Teacher

_RUN_SAMPLES = 32
"""Samples of a run for each thread, if a batch is cut into runs; measured, see
benchmarks/training_step.py."""

_CHECKED_SAMPLES = 8
"""Samples of the run that gradients are checked on."""

_MUCH = 8
"""A batch is cut into runs if a run computes at least this many times as many values as there are weights."""


class GraphTrainer:
    """Opens fine-tuning sessions whose steps are single graphs."""

    def open(
        self,
        model: ModelView,
        sites: Sequence[WeightSite],
        data: Dataset,
        settings: TrainingSettings,
        reference: ModelView,
    ) -> GraphTrainingRun:
        """See ``contracts.Trainer.open``."""
        return GraphTrainingRun(model, tuple(sites), data, settings, reference)


class GraphTrainingRun(EpochRun):
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
        # One thread by default: for models that a CPU can train, more threads mostly wait.
        threads = settings.threads or 1
        cut, axis = cut_at_logits(reference)
        original = open_session(cut, threads=threads, spins=False)
        logits = look_at_logits(original, data, axis)
        self._loss = loss_spec(settings, logits, has_labels=data.has_labels)
        self._graph = loss_graph(
            model, sites, self._loss, classes=logits.classes, newest_opset=newest_opset()
        )
        self._inputs = tuple(port.name for port in self._graph.proto.graph.input)
        self._trained = Trained(self._graph.weights, self._graph.biases)
        self._last: tuple[object, StaticGraph] | None = None
        targets = Targets()
        if TEACHER in self._inputs:
            kept = {"augmented": bool(settings.augment), "by_sample": logits.by_sample}
            targets = replace(targets, teacher=Teacher(original, len(data), self._loss, **kept))
        if LABELS in self._inputs:
            targets = replace(targets, classes=logits.classes)
        self._feeder = Feeder(model, data, settings, targets)
        self._session = self._checked_session(logits, settings, threads)

    def _checked_session(self, logits: Logits, settings: TrainingSettings, threads: int) -> StepSession:
        """Open the session, check its gradients on a small run, and decide how batches are cut into runs."""
        adam = Adam(weight_decay=settings.weight_decay, max_norm=settings.max_gradient_norm)
        self._feeder.limit_runs(_CHECKED_SAMPLES if logits.by_sample else None)
        [first] = self._with_shares([self._feeder.first_run()])
        graph = self._read(first)
        values = {name: graph.constants[name] for name in self._trained.all}
        session = StepSession(self._read, self._trained, values, adam, threads)
        smooth = session
        if codes_in(graph):
            smooth = StepSession(self._read_smooth, self._trained, values, adam, threads)
        check_gradients(
            smooth,
            random_targets(first, self._loss, logits.classes),
            self._trained.all,
            half_precision=any(dtype == np.float16 for dtype in graph.dtypes.values()),
        )
        smooth.close()
        limits = _Limits(_RUN_SAMPLES * threads, settings.memory_mb << 20)
        most = _most_samples(graph, values, self._feeder.run_size, limits)
        self._feeder.limit_runs(most if logits.by_sample else None)
        return session

    def _read(self, feeds: Feeds) -> StaticGraph:
        fed = {port: feeds[port] for port in self._inputs}
        key = tuple((name, np.shape(array)) for name, array in fed.items())
        if self._last is None or self._last[0] != key:
            self._last = key, static_graph(self._graph.proto, fed, run_once, is_known)
        return self._last[1]

    def _read_smooth(self, feeds: Feeds) -> StaticGraph:
        return without_rounding(self._read(feeds))

    def __enter__(self) -> GraphTrainingRun:
        return self

    def __exit__(self, *exc: object) -> None:
        self._session.close()

    # -- steering ----------------------------------------------------------------------------

    def weights(self) -> Blocks:
        """See ``contracts.TrainingRun.weights``."""
        get = self._session.get
        return {
            name: get("raw", name) * get("free", name) + get("fixed", name) for name in self._trained.weights
        }

    def load(self, weights: Blocks) -> None:
        """See ``contracts.TrainingRun.load``."""
        for name, array in weights.items():
            self._session.set("raw", name, array)

    def set_proximal_term(self, targets: Blocks, rho: Mapping[str, float]) -> None:
        """See ``contracts.TrainingRun.set_proximal_term``."""
        for name, target in targets.items():
            self._session.set("target", name, target)
            self._session.set("rho", name, np.array([rho.get(name, 0.0)]))

    def freeze(self, free: Blocks, fixed: Blocks) -> None:
        """See ``contracts.TrainingRun.freeze``."""
        for name in free:
            self._session.set("free", name, free[name])
            self._session.set("fixed", name, fixed[name])

    def snapshot(self) -> Mapping[str, Array]:
        """See ``contracts.TrainingRun.snapshot``."""
        return {key: self._session.get(role, name) for key, (role, name) in self._places().items()}

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """See ``contracts.TrainingRun.restore``."""
        places = self._places()
        for key, array in snapshot.items():
            self._session.set(*places[key], array)

    def _places(self) -> dict[str, tuple[str, str]]:
        """Role and tensor of each entry of a snapshot."""
        places = {name: ("raw", name) for name in self._trained.all}
        for name in self._trained.weights:
            places[weight_input_name(name)] = ("free", name)
            places[fixed_name(name)] = ("fixed", name)
            places[target_name(name)] = ("target", name)
            places[rho_name(name)] = ("rho", name)
        return places

    def tensors(self) -> Mapping[str, Array]:
        """See ``contracts.TrainingRun.tensors``."""
        return {**{name: self._session.get("raw", name) for name in self._trained.all}, **self.weights()}

    # -- training ----------------------------------------------------------------------------

    def epoch(self, start_rate: float, end_rate: float, *, seed: int) -> float:
        """See ``contracts.TrainingRun.epoch``."""
        losses = []
        pulls, freezes = self._session.is_pulled(), self._session.is_frozen()
        for step, runs in enumerate(self._feeder.epoch(seed)):
            rate = start_rate + (end_rate - start_rate) * step / self._feeder.steps
            how = StepOptions(pulls, freezes, is_last=step == self._feeder.steps - 1)
            losses.append(self._session.step(self._with_shares(runs), rate, how))
            self._told((step + 1) / self._feeder.steps)
        return mean_loss(losses)

    def _with_shares(self, runs: Sequence[Feeds]) -> list[Feeds]:
        """Return feeds with the weight of each run in the loss of the batch."""
        labelled = sum(int((run[LABELS] >= 0).sum()) for run in runs) if LABELS in self._graph.inputs else 0
        scale = np.array([self._loss.label_weight / max(labelled, 1)], np.float32)
        sizes = [len(run[TEACHER]) if TEACHER in run else 1 for run in runs]
        shares = {LABEL_SCALE: [scale] * len(runs)}
        shares[SHARE] = [np.array([size / sum(sizes)], np.float32) for size in sizes]
        return [
            {**run, **{name: values[index] for name, values in shares.items() if name in self._graph.inputs}}
            for index, run in enumerate(runs)
        ]


@dataclass(frozen=True)
class _Limits:
    """Samples of a run whose values stay in the caches, and bytes that its values may take."""

    samples: int
    memory: int


def _most_samples(graph: StaticGraph, values: Mapping[str, Array], samples: int, limits: _Limits) -> int:
    """Return the samples of a run at most.

    If a run of ``limits.samples`` computes far more values than there are weights, the caches decide: small
    runs, whose gradients add up, are faster and take less memory. Otherwise one run is faster, because it
    reads the weights once. In both cases a run fits the memory: all of its values are kept until the backward
    pass has used them.

    Args:
        graph: of a run.
        values: the trained tensors.
        samples: of that run.
        limits: of the run.
    """
    made = [name for node in graph.nodes for name in node.outputs if name in graph.shapes]
    sizes = {name: math.prod(graph.shapes[name]) for name in made}
    computed = sum(sizes.values()) / samples
    stored = sum(value.size for value in values.values())
    is_large = computed * limits.samples >= _MUCH * stored
    kept = sum(size * graph.dtypes[name].itemsize for name, size in sizes.items() if name in graph.dtypes)
    fitting = max(1, limits.memory * samples // max(kept, 1))
    return min(limits.samples, fitting) if is_large else fitting
