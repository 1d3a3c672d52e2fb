"""FineTune: what it trains and what it holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import TWO_GEMMS, context_of_gemms
from integer_nets import integer_net

from onnx_admm.contracts import PassContext, TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.float_weights import with_float_weights
from onnx_admm.passes.fine_tune import FineTune
from onnx_admm.runtime.sessions import open_session
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


def test_a_model_that_training_makes_worse_stays_as_it_is() -> None:
    """A model that is right already, and a rate that wrecks it."""
    model = parse_text(TWO_GEMMS)
    context = replace(context_of_gemms(model, trained=True), trainer=GraphTrainer())
    data = context.train
    assert data is not None
    context = replace(context, validation=data, settings=TrainingSettings(batch_size=32, threads=1))
    trained = model.fork()
    report = FineTune(epochs=2, learning_rate=30.0, end_rate=30.0).run(trained, context)
    assert not report.changed
    assert report.skipped[-1].why == "no epoch of training scored as high as the model before it"
    assert all(np.array_equal(trained.read(site), model.read(site)) for site in model.sites())


def test_integers_are_trained_on_their_grid() -> None:
    """Codes that were moved come back towards those of the teacher."""
    teacher, model = integer_net(), integer_net()
    x = np.random.default_rng(0).normal(size=(256, 2, 6, 6)).astype(np.float32)
    worse = with_float_weights(model)
    assert worse is not None
    worse.view.write_back({"w2": model.read("w2") * np.float32(0.5)})
    model.become(worse.to_integers())
    context = PassContext(
        reference=teacher,
        train=from_arrays({"x": x}),
        settings=TrainingSettings(loss="mse", batch_size=32, threads=1),
        trainer=GraphTrainer(),
    )

    def error() -> float:
        outputs = [open_session(each, threads=1).run({"x": x})["y"] for each in (teacher, model)]
        return float(np.square(outputs[0] - outputs[1]).mean())

    before, operators = error(), [node.op_type for node in model.nodes()]
    report = FineTune(epochs=4, learning_rate=1e-2, end_rate=1e-3).run(model, context)
    assert error() < 0.1 * before
    assert {edit.layer for edit in report.edits} == {"w1", "w2"}
    assert [node.op_type for node in model.nodes()] == operators
