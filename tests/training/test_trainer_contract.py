"""Both trainers keep the contract; one that breaks it is found out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from training_models import TRAINERS

from onnx_admm.contracts import Trainer
from onnx_admm.errors import TrainingError
from onnx_admm.testing import ContractBroken, check_trainer
from onnx_admm.training.graph.trainer import GraphTrainer, GraphTrainingRun


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_trainer_keeps_the_contract(trainer: type[Trainer]) -> None:
    assert len(check_trainer(trainer())) == 11


class Broken(GraphTrainer):
    """A graph trainer whose runs differ in one method."""

    def __init__(self, **methods: Any) -> None:
        self._kind = type("BrokenRun", (GraphTrainingRun,), methods)

    def open(self, *arguments: Any) -> GraphTrainingRun:
        model, sites, *others = arguments
        run: GraphTrainingRun = self._kind(model, tuple(sites), *others)
        return run


def no_freeze(self: GraphTrainingRun, free: object, fixed: object) -> None:
    """Freezes nothing."""


def no_restore(self: GraphTrainingRun, snapshot: object) -> None:
    """Goes back to nothing."""


def half_penalty(self: GraphTrainingRun, targets: Any, rho: Mapping[str, float]) -> None:
    GraphTrainingRun.set_proximal_term(self, targets, {name: value / 2 for name, value in rho.items()})


def other_seed(self: GraphTrainingRun, start: float, end: float, *, seed: int) -> float:
    return GraphTrainingRun.epoch(self, start, end, seed=0)


def not_finite(self: GraphTrainingRun, start: float, end: float, *, seed: int) -> float:
    try:
        return GraphTrainingRun.epoch(self, start, end, seed=seed)
    except TrainingError:
        return np.inf


def half_loss(self: GraphTrainingRun, start: float, end: float, *, seed: int) -> float:
    return GraphTrainingRun.epoch(self, start, end, seed=seed) / 2


@pytest.mark.parametrize(
    ("methods", "promise"),
    [
        ({"freeze": no_freeze}, "holds frozen entries"),
        ({"restore": no_restore}, "goes back to a snapshot"),
        ({"set_proximal_term": half_penalty}, "adds the penalty"),
        ({"epoch": other_seed}, "gives other bytes for another seed"),
        ({"epoch": not_finite}, "refuses a loss that is not finite"),
        ({"epoch": half_loss}, "gives the loss 'cross_entropy'"),
        ({"export": lambda self: self._model}, "exports the weights it has"),
    ],
)
def test_a_broken_trainer_is_found_out(methods: dict[str, Any], promise: str) -> None:
    with pytest.raises(ContractBroken, match=promise):
        check_trainer(Broken(**methods))
