"""FineTune: what it trains and what it holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import TWO_GEMMS, context_of_gemms

from onnx_admm.contracts import TrainingSettings
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.fine_tune import FineTune
from onnx_admm.training.graph.trainer import GraphTrainer


@pytest.mark.parametrize("average", [1, 2])
def test_zeros_are_held_and_the_rest_is_trained(average: int) -> None:
    """Also in the mean of two epochs' weights."""
    model = parse_text(TWO_GEMMS)
    settings = TrainingSettings(batch_size=32, threads=1, average_epochs=average)
    context = replace(context_of_gemms(model, trained=True), settings=settings, trainer=GraphTrainer())
    (first, *_), trained = model.sites(), model.fork()
    weights = np.array(model.read(first))
    weights[::2] = 0
    trained.replace(first, weights)
    report = FineTune(epochs=2).run(trained, context)
    assert report.changed
    assert len(report.figures["retraining"]) == 2
    assert np.array_equal(trained.read(first) == 0, weights == 0)
    assert not np.array_equal(trained.read(first), weights)
