"""Fine-tuning of models with subgraphs: what has no gradient, and what needs none."""

from __future__ import annotations

import numpy as np
import pytest
import training_models
from training_models import MLP, mlp, needs_training_build, open_run, samples

from onnx_admm.contracts import TrainingSettings
from onnx_admm.errors import NoGradient
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite import training_graph as training_form_module
from onnx_admm.training.session import OrtTrainer

pytestmark = needs_training_build


@pytest.fixture(autouse=True)
def trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_models, "make_trainer", OrtTrainer)


BRANCH = """total = ReduceSum <keepdims = 0> (x) c = Greater (total, zero)
        r = If (c) <then_branch = t () => (float[N,12] o1) { o1 = Relu (a) },
                   else_branch = e () => (float[N,12] o2) { o2 = Identity (a) }>"""
WITH_CONSTANTS = MLP.replace(
    "float[3] b2>", "float[3] b2, float zero = {{0}}, bool yes = {{1}}, int64 one = {{1}}>"
).replace("r = {activation}", "{activation}")
LOOP = """r = Loop (one, yes, a) <body = b (int64 i, bool go, float[N,12] s) => (bool more, float[N,12] t)
                { more = Identity (go)  t = Neg (s) }>"""


@pytest.mark.parametrize(("operator", "activation"), [("If", BRANCH), ("Loop", LOOP)])
def test_a_subgraph_on_the_way_to_the_loss_is_refused_in_a_sentence(operator: str, activation: str) -> None:
    model = parse_text(
        WITH_CONSTANTS.format(opset=17, head="", output="float[N,3] logits", activation=activation)
    )
    with pytest.raises(NoGradient, match=f"node r: the training runtime has no gradient for {operator}"):
        open_run(model)


SHAPED = """sh = Shape (a) n = Size (sh) k = Cast <to = 1> (n) c = Greater (k, zero)
        s = If (c) <then_branch = t () => (int64[2] o1) { o1 = Identity (sh) },
                    else_branch = e () => (int64[2] o2) { o2 = Identity (sh) }>
        r = Reshape (a, s)"""


def test_a_subgraph_that_no_gradient_passes_is_no_hindrance() -> None:
    model = parse_text(
        WITH_CONSTANTS.format(opset=17, head="", output="float[N,3] logits", activation=SHAPED)
    )
    with open_run(model) as run:
        run.epoch(1e-2, 1e-2, seed=0)
        assert not np.array_equal(run.weights()["w1"], model.read("w1"))


def test_layers_behind_a_subgraph_are_trained_where_those_before_it_are_left_out() -> None:
    model = parse_text(WITH_CONSTANTS.format(opset=17, head="", output="float[N,3] logits", activation=LOOP))
    sites = [site for site in model.sites() if site.name == "w2"]
    with OrtTrainer().open(model, sites, samples(), TrainingSettings(batch_size=32), model) as run:
        run.epoch(1e-2, 1e-2, seed=0)
        assert set(run.tensors()) == {"w2", "b2"}
        assert not np.array_equal(run.weights()["w2"], model.read("w2"))


def test_a_runtime_that_ends_its_process_gets_a_sentence_and_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_form_module, "check_differentiable", lambda *_: None)
    model = parse_text(
        WITH_CONSTANTS.format(opset=17, head="", output="float[N,3] logits", activation=BRANCH)
    )
    with pytest.raises(NoGradient, match="the training runtime killed its process by SIGABRT"):
        open_run(model)
    with open_run(mlp()) as run:
        run.epoch(1e-2, 1e-2, seed=0)
