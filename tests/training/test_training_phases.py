"""Which state a retraining ends in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pytest

from onnx_admm.contracts import PassContext, SilentProgress, TrainingRun
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.training.phases import Estimate, Rates, Retraining, validation_score


class CountingRun:
    """A run whose only state is how many epochs it has been through."""

    def __init__(self) -> None:
        self.epochs = 0.0

    def epoch(self, start: float, end: float, *, seed: int) -> float:
        self.epochs += 1
        return 0.0

    def export(self) -> float:
        return self.epochs

    def snapshot(self) -> dict[str, np.ndarray]:
        return {"epochs": np.array(self.epochs, np.float32)}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        self.epochs = snapshot["epochs"].item()


def kept_epoch(scores: Sequence[float], error: float) -> float:
    """The epoch in whose state a retraining with these scores ends, counted from 1."""
    run = CountingRun()
    phase = Retraining(epochs=len(scores), rates=Rates(), seed=0)
    with SilentProgress().task("retrain", len(scores)) as task:
        told = phase.run(
            cast(TrainingRun, run),
            lambda model: Estimate(scores[round(cast(float, model)) - 1], error),
            task,
        )
    assert told == tuple(scores)
    return run.epochs


@pytest.mark.parametrize(
    ("start", "scores", "error", "kept"),
    [
        (0.9, (0.5, 0.8, 0.79), 0.02, 0),  # no epoch is as good
        (0.81, (0.5, 0.8, 0.79), 0.02, 3),  # but for chance
        (0.4, (0.5, 0.3), 0.02, 1),
    ],
)
def test_the_state_before_the_first_epoch_may_be_kept(
    start: float, scores: Sequence[float], error: float, kept: int
) -> None:
    run = CountingRun()
    phase = Retraining(epochs=len(scores), rates=Rates(), seed=0, or_none=True)
    known = (start, *scores)
    with SilentProgress().task("retrain", len(scores)) as task:
        told = phase.run(
            cast(TrainingRun, run), lambda model: Estimate(known[round(cast(float, model))], error), task
        )
    assert told == tuple(scores)
    assert run.epochs == kept


@pytest.mark.parametrize(
    ("scores", "error", "kept"),
    [
        ((0.5, 0.8, 0.79), 0.02, 3),  # the best, but for chance
        ((0.5, 0.8, 0.77), 0.02, 2),  # worse than chance explains
        ((0.8, 0.79, 0.9, 0.7), 0.02, 3),  # a new best, then a fall
        ((0.8, 0.79, 0.5), 0.02, 2),
        ((0.8, 0.8, 0.7), 0.0, 2),  # no error known: the later of equals
        ((0.6, 0.61, 0.62, 0.63, 0.61), 0.01, 4),
    ],
)
def test_the_last_epoch_that_is_as_good_as_the_best_is_kept(
    scores: Sequence[float], error: float, kept: int
) -> None:
    assert kept_epoch(scores, error) == kept


@pytest.mark.parametrize(("average", "kept"), [(1, 5.0), (2, 4.5), (4, 3.5), (9, 3.0)])
def test_unscored_training_ends_where_it_ends(average: int, kept: float) -> None:
    """Or in the mean of its last epochs."""
    run = CountingRun()
    phase = Retraining(epochs=5, rates=Rates(), seed=0, average=average)
    with SilentProgress().task("retrain", 5) as task:
        told = phase.run(cast(TrainingRun, run), None, task)
    assert (told, run.epochs) == ((), kept)


def test_the_mean_is_what_is_scored_and_kept_and_training_goes_on_from_the_last_epoch() -> None:
    run, seen = CountingRun(), list[float]()

    def score(model: object) -> Estimate:
        seen.append(cast(float, model))
        return Estimate(-abs(cast(float, model) - 2.5), 0.0)

    phase = Retraining(epochs=5, rates=Rates(), seed=0, average=2)
    with SilentProgress().task("retrain", 5) as task:
        phase.run(cast(TrainingRun, run), score, task)
    assert seen == [1.0, 1.5, 2.5, 3.5, 4.5]
    assert run.epochs == 2.5


def test_an_accuracy_comes_with_its_standard_error() -> None:
    model = parse_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y) { y = Identity (x) }"""
    )
    x = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    validation = from_arrays({"x": x}, np.array([0, 0, 1, 1]))
    score = validation_score(PassContext(reference=model, validation=validation))
    assert score is not None
    assert score(model) == Estimate(0.75, pytest.approx((0.75 * 0.25 / 4) ** 0.5))
