"""Fine-tuning that ends below reconstruction: the better of the two is kept, and a note says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from onnx_admm.api.pass_runs import run_passes
from onnx_admm.api.requests import Request
from onnx_admm.config.recipe import Recipe
from onnx_admm.errors import TrainingError
from onnx_admm.passes import admm_prune, admm_quantize
from onnx_admm.training import phases

BOUND = (admm_prune, admm_quantize)
"""Imported before the score is replaced: they would take the replacement for good at their first import."""


@dataclass(frozen=True)
class FakePlan:
    recipe: Recipe
    model: object = None
    train: tuple[int, ...] = (1, 2)
    validation: tuple[int, ...] = (3,)
    notes: tuple[str, ...] = field(default=())


def _kept(
    monkeypatch: pytest.MonkeyPatch, tuned: float, rebuilt: float, **request: Any
) -> tuple[Any, Any, int]:
    """The plan and the model that are kept, each model being its own score, and how many were made."""
    monkeypatch.setattr(phases, "validation_score", lambda context: phases.Estimate)
    job = Request(data="train.npz", **request)
    runs = []

    def run(plan: Any) -> tuple[Any, Any]:
        runs.append(plan)
        is_rebuilt = "reconstruct_layers" in [step.name for step in plan.recipe.passes]
        return plan, SimpleNamespace(model=rebuilt if is_rebuilt else tuned)

    plan, result = run_passes(job, FakePlan(job.complete_recipe(2)), run)  # type: ignore[arg-type]
    return plan, result.model, len(runs)


def test_the_better_of_the_two_is_kept_and_a_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, model, runs = _kept(monkeypatch, 0.37, 0.6, bits=4, epochs=2)
    assert (model, runs, plan.recipe.fine_tune) == (0.6, 2, False)
    (note,) = plan.notes
    assert "0.37 against 0.6" in note


def test_what_is_pruned_by_reconstruction_is_trained_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, model, runs = _kept(monkeypatch, 0.37, 0.6, prune="10x", bits=4, epochs=2)
    assert (model, runs, plan.recipe.fine_tune) == (0.6, 2, True)
    steps = [step for step in plan.recipe.passes if step.name in ("reconstruct_layers", "fine_tune")]
    assert [step.name for step in steps] == ["reconstruct_layers", "fine_tune", "reconstruct_layers"]
    assert (steps[0].ratio, steps[1].epochs, steps[2].bits) == (10.0, 2, 4)  # type: ignore[attr-defined]
    (note,) = plan.notes
    assert "ADMM over the whole model did worse, 0.37 against 0.6" in note


def test_a_second_way_that_fails_leaves_the_first_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "validation_score", lambda context: phases.Estimate)
    job = Request(data="train.npz", prune="10x", bits=4)

    def run(plan: Any) -> tuple[Any, Any]:
        if "reconstruct_layers" in [step.name for step in plan.recipe.passes]:
            raise TrainingError("the loss is not finite")
        return plan, SimpleNamespace(model=0.4)

    plan, result = run_passes(job, FakePlan(job.complete_recipe(2)), run)  # type: ignore[arg-type]
    assert result.model == 0.4
    (note,) = plan.notes
    assert "the loss is not finite" in note


@pytest.mark.parametrize("rebuilt", [0.5, 0.6])
def test_fine_tuning_that_does_no_worse_is_kept(monkeypatch: pytest.MonkeyPatch, rebuilt: float) -> None:
    plan, model, runs = _kept(monkeypatch, 0.6, rebuilt, bits=4)
    assert (model, runs, plan.recipe.fine_tune, plan.notes) == (0.6, 2, True, ())


@pytest.mark.parametrize("request_", [{"fine_tune": True, "bits": 4}, {"fine_tune": False, "bits": 4}])
def test_what_is_stated_is_done_once(monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any]) -> None:
    assert _kept(monkeypatch, 0.3, 0.6, **request_)[2] == 1
