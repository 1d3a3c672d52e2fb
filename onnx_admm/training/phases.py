"""Phases of fine-tuning: ADMM's W-step, retraining on a fixed set, scoring."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from onnx_admm.admm.loop.schedule import RhoSchedule
from onnx_admm.admm.loop.solver import Record, Stopping, solve
from onnx_admm.admm.sets.blocks import JointSet
from onnx_admm.contracts import Array, Blocks, ModelView, PassContext, Task, TrainingRun, WatchedTraining
from onnx_admm.contracts.metrics import metric_of
from onnx_admm.model.rewrite.comparing.fixed_choices import choosing_operators, with_fixed_choices
from onnx_admm.model.rewrite.expose_logits import output_roles
from onnx_admm.runtime.evaluation import Quality, evaluate


@dataclass(frozen=True)
class Estimate:
    """A score on samples that were not tuned on, higher is better, and its standard error."""

    value: float
    error: float = 0.0


Score = Callable[[ModelView], Estimate]
"""Scores a model."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates: ``peak`` during ADMM, falling linearly to ``end`` over a retraining."""

    peak: float = 1e-3
    end: float = 1e-5

    def at(self, share: float) -> float:
        """Return the rate after ``share`` (0 to 1) of a retraining."""
        return self.peak + (self.end - self.peak) * share


@dataclass(frozen=True)
class TrainedWStep:
    """ADMM's W-step by gradient descent: one epoch of the loss plus the proximal term towards ``Z - U``."""

    run: TrainingRun
    rate: float
    seed: int
    task: Task

    def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
        """Train one epoch and return the weights; see ``admm.solver.WStep``."""
        self.run.set_proximal_term(targets, rho)
        loss = self.run.epoch(self.rate, self.rate, seed=self.seed + iteration)
        self.task.advance(note=f"loss {loss:.4f}")
        return self.run.weights()


def relative_penalties(weights: Blocks) -> dict[str, float]:
    """Return factors that make one rho suit layers of any scale: ``1 / mean(w^2)`` over nonzeros.

    A loss that does not change when a layer is scaled up (and the next one down) has gradients that shrink as
    the layer grows; the penalty's must shrink alike, or large layers move to their set too fast and small
    ones never reach it.
    """
    squares = {name: np.square(block[block != 0], dtype=np.float64) for name, block in weights.items()}
    return {name: float(1.0 / square.mean()) if square.size else 1.0 for name, square in squares.items()}


def freeze_zeros(run: TrainingRun, weights: Blocks) -> None:
    """Set the weights and freeze their zeros."""
    free = {name: (array != 0).astype(array.dtype) for name, array in weights.items()}
    run.load(weights)
    run.freeze(free, {name: np.zeros_like(array) for name, array in weights.items()})


def show_batches(run: TrainingRun, task: Task) -> None:
    """Have the bar move within epochs, where the run tells how far it is in one."""
    if isinstance(run, WatchedTraining):
        run.watch(task.within)


@dataclass(frozen=True, kw_only=True)
class AdmmPhase:
    """ADMM by fine-tuning: an epoch is a W-step, zeros are frozen, rho rises geometrically.

    Attributes:
        epochs: number of iterations.
        rate: AdamW's learning rate.
        rho_start, rho_end: penalty in units of one over a layer's mean square.
        seed: seed of the first epoch's shuffling.
    """

    epochs: int
    rate: float
    rho_start: float
    rho_end: float
    seed: int

    def run(self, run: TrainingRun, constraint: JointSet, task: Task) -> tuple[Record, ...]:
        """Move the run's weights to the set, then remove the proximal term; return the residuals."""
        show_batches(run, task)
        weights = run.weights()
        freeze_zeros(run, weights)
        rho = RhoSchedule(
            start=self.rho_start,
            end=self.rho_end,
            iterations=max(self.epochs, 1),
            multipliers=relative_penalties(weights),
        )
        stopping = Stopping(max_iterations=self.epochs, eps_abs=0.0, eps_rel=0.0)
        wstep = TrainedWStep(run, self.rate, self.seed, task)
        solution = solve(wstep, constraint, weights, rho=rho, stopping=stopping)
        run.set_proximal_term(solution.z, {})
        return solution.history


def validation_score(context: PassContext) -> Score | None:
    """Return a function that scores a model on the validation samples; None without samples.

    The score is their metric or the accuracy, else agreement with the teacher, else SQNR against it,
    whichever is known.

    The standard error is that of one independent prediction a sample: those of one image's pixels are not
    independent.
    """
    validation = context.validation
    if validation is None or len(validation) == 0:
        return None
    threads, roles, teacher = context.settings.threads, output_roles(context.reference), context.taught_by

    def measured(model: ModelView, reference: ModelView | None) -> Quality:
        if reference is not None and metric_of(validation) is None:  # rows that scores choose change places
            model, reference = with_fixed_choices(model, reference), with_fixed_choices(reference, model)
        return evaluate(model, validation, reference=reference, roles=roles, threads=threads)

    def score(model: ModelView) -> Estimate:
        is_alone = validation.has_labels and metric_of(validation) is None
        quality = measured(model, None) if is_alone else None
        if quality is None or quality.accuracy is None:
            quality = measured(model, teacher)
        agreement = None if choosing_operators(model, teacher) else quality.agreement
        for share in (quality.accuracy, agreement):
            if share is not None:
                return Estimate(share, sqrt(max(0.0, share * (1 - share)) / len(validation)))
        return Estimate(quality.sqnr_db or 0.0)

    return score


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Epochs of plain training with everything that the caller froze.

    The result is the last epoch whose score is within a standard error of the best: as the rate falls the
    weights converge, which validation samples are too few to distinguish from chance. With ``average`` above
    1, the mean of the weights after the last few epochs is scored and kept: with a high learning rate the
    weights end beside a minimum, and their mean lies nearer to it (Izmailov et al., arXiv 1803.05407).

    Attributes:
        epochs: number of epochs.
        rates: learning rates from ``peak`` to ``end``.
        seed: seed of the first epoch's shuffling.
        average: number of last epochs whose mean is taken.
        or_none: whether the state before the first epoch may be the result, where no epoch is as good.
    """

    epochs: int
    rates: Rates
    seed: int
    average: int = 1
    or_none: bool = False

    def run(self, run: TrainingRun, score: Score | None, task: Task) -> tuple[float, ...]:
        """Train; end in the state of the chosen epoch. Return the score of each epoch, if any."""
        show_batches(run, task)
        start = score(run.export()) if score is not None and self.or_none else None
        scores: list[Estimate] = []
        kept: Mapping[str, Array] | None = None if start is None else run.snapshot()
        recent = deque[Mapping[str, Array]](maxlen=self.average)
        for epoch in range(self.epochs):
            first, last = (self.rates.at((epoch + i) / self.epochs) for i in (0, 1))
            loss = run.epoch(first, last, seed=self.seed + epoch)
            note = f"loss {loss:.4f}"
            recent.append(run.snapshot())
            if score is not None:
                run.restore(mean := mean_of(recent))
                scores.append(score(run.export()))
                note += f", score {scores[-1].value:.4f}"
                known = scores if start is None else [start, *scores]
                best = max(known, key=lambda each: each.value)
                if scores[-1].value >= best.value - best.error:
                    kept = mean
                run.restore(recent[-1])
            task.advance(note=note)
        if score is None and recent:
            kept = mean_of(recent)
        if kept is not None:
            run.restore(kept)
        return tuple(each.value for each in scores)


def mean_of(states: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Return the mean of snapshots, tensor by tensor."""
    if len(states) == 1:
        return states[0]
    return {
        name: np.mean([state[name] for state in states], axis=0, dtype=np.float64).astype(array.dtype)
        for name, array in states[-1].items()
    }
