"""Fine-tuning sessions of both trainers: steering, losses, repeatability, and models as they come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import training_models
from training_models import MLP, mlp, open_run, samples

from onnx_admm.contracts import TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.errors import RecipeError, TrainingError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.training.feeder import Feeder, Targets
from onnx_admm.training.graph.trainer import GraphTrainer
from onnx_admm.training.logits import Logits
from onnx_admm.training.loss import loss_spec
from onnx_admm.training.session import OrtTrainer
from onnx_admm.training.teacher import Teacher


@pytest.fixture(autouse=True, params=[GraphTrainer, OrtTrainer], ids=["graph", "onnxruntime-training"])
def trainer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_models, "make_trainer", request.param)


SCORES = Logits(shape=(1, 3), class_axis=1, is_classifier=True, by_sample=True, fits_labels=True)


def test_epochs_lower_the_loss_and_export_writes_weights_and_biases_back() -> None:
    model = mlp()
    with open_run(model) as run:
        losses = [run.epoch(1e-2, 1e-2, seed=epoch) for epoch in range(8)]
        trained = run.export()
    assert losses[-1] < 0.7 * losses[0]
    assert not np.array_equal(trained.read("w1"), model.read("w1"))
    assert not np.array_equal(run.tensors()["b1"], np.zeros(12))
    assert trained.signature() == model.signature()


def test_frozen_entries_stay_exactly_where_they_were_put() -> None:
    model = mlp()
    free = {"w1": (model.read("w1") > 0).astype(np.float32), "w2": np.ones((12, 3), np.float32)}
    fixed = {"w1": np.where(free["w1"] == 0, 0.25, 0).astype(np.float32), "w2": np.zeros((12, 3), np.float32)}
    with open_run(model) as run:
        run.freeze(free, fixed)
        run.epoch(1e-2, 1e-2, seed=0)
        after = run.weights()["w1"]
    assert (after[free["w1"] == 0] == 0.25).all()
    assert not np.allclose(after[free["w1"] == 1], model.read("w1")[free["w1"] == 1])


def test_a_strong_pull_draws_weights_to_their_targets_and_rho_zero_lets_go() -> None:
    model = mlp()
    target = {name: np.full(model.read(name).shape, 0.5, np.float32) for name in ("w1", "w2")}
    with open_run(model) as run:
        run.set_proximal_term(target, {"w1": 100.0})
        for epoch in range(60):
            run.epoch(2e-2, 2e-2, seed=epoch)
        pulled, left = run.weights()["w1"], run.weights()["w2"]
    assert np.abs(pulled - 0.5).max() < 0.05
    assert np.abs(left - 0.5).max() > 0.2


def test_two_runs_with_one_seed_are_equal_to_the_bit_and_another_seed_is_not() -> None:
    def train(seed: int) -> np.ndarray:
        with open_run(mlp()) as run:
            run.epoch(1e-2, 1e-3, seed=seed)
            return run.weights()["w1"]

    assert np.array_equal(train(3), train(3))
    assert not np.array_equal(train(3), train(4))


def test_a_snapshot_is_a_way_back() -> None:
    with open_run(mlp()) as run:
        kept, before = run.snapshot(), run.weights()["w1"]
        run.epoch(1e-2, 1e-2, seed=0)
        assert not np.array_equal(run.weights()["w1"], before)
        run.restore(kept)
        assert np.array_equal(run.weights()["w1"], before)


def test_distillation_needs_no_labels_and_pulls_back_to_the_teacher() -> None:
    teacher = mlp(head="p = Softmax (logits)", output="float[N,3] p")
    student = teacher.fork()
    student.replace("w2", np.zeros((12, 3), np.float32))
    settings = TrainingSettings(batch_size=32)
    with training_models.make_trainer().open(
        student, student.sites(), samples(labelled=False), settings, teacher
    ) as run:
        losses = [run.epoch(2e-2, 2e-2, seed=epoch) for epoch in range(10)]
    assert losses[-1] < losses[0]


def test_regression_without_labels_learns_the_outputs_of_the_original() -> None:
    teacher = mlp()
    student = teacher.fork()
    student.replace("w2", np.zeros((12, 3), np.float32))
    with training_models.make_trainer().open(
        student, student.sites(), samples(labelled=False), TrainingSettings(batch_size=32), teacher
    ) as run:
        losses = [run.epoch(2e-2, 2e-2, seed=epoch) for epoch in range(30)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("opset", "head", "output"),
    [
        (7, "", "float[N,3] logits"),
        (9, "p = Softmax (logits)", "float[N,3] p"),
        (17, "c = ArgMax <axis = 1, keepdims = 0> (logits)", "int64[N] c"),
        (22, "", "float[N,3] logits"),
    ],
)
def test_models_come_at_any_opset_and_with_any_head(opset: int, head: str, output: str) -> None:
    model = mlp(opset, head, output)
    with open_run(model, loss="auto") as run:
        run.epoch(1e-2, 1e-2, seed=0)
        trained = run.export()
    assert trained.opset == opset
    assert not np.array_equal(trained.read("w1"), model.read("w1"))


def test_a_weight_in_a_constant_node_is_trained_and_written_back() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y)
        {
            w = Constant <value = float[2,2] {1.0, 0.5, -0.5, 1.0}> ()
            y = MatMul (x, w)
        }""")
    data = from_arrays({"x": np.eye(2, dtype=np.float32)}, np.array([1, 0]))
    with open_run(model, data, batch_size=2) as run:
        run.epoch(1e-1, 1e-1, seed=0)
        trained = run.export()
    assert not np.array_equal(trained.read("w"), model.read("w"))


def test_initializers_of_ir_3_that_are_graph_inputs_are_trained() -> None:
    model = parse_text("""
        <ir_version: 3, opset_import: ["" : 9]>
        g (float[N,2] x, float[2,2] w) => (float[N,2] y)
        <float[2,2] w = {1.0, 0.5, -0.5, 1.0}>
        {
            y = MatMul (x, w)
        }""")
    data = from_arrays({"x": np.eye(2, dtype=np.float32)}, np.array([1, 0]))
    with open_run(model, data, batch_size=2) as run:
        run.epoch(1e-1, 1e-1, seed=0)
        trained = run.export()
    assert not np.array_equal(trained.read("w"), model.read("w"))
    assert trained.signature() == model.signature()


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("y = Relu (y0) side = MatMul (x, v)", "v: the weight does not reach the model's first output"),
        (
            "side = MatMul (x, w) h = Cast <to = 11> (y0) d = MatMul (h, u) y = Cast <to = 1> (d)",
            "u: only float32",
        ),
    ],
)
def test_weights_that_cannot_be_trained_are_named(weights: str, sentence: str) -> None:
    model = parse_text(f"""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y, float[N,2] side)
        <float[2,2] w, float[2,2] v, double[2,2] u = {{1.0, 0.5, 0.5, 1.0}}>
        {{
            y0 = MatMul (x, w)
            {weights}
        }}""")
    with pytest.raises(TrainingError, match=sentence):
        open_run(model, from_arrays({"x": np.eye(2, dtype=np.float32)}, np.array([1, 0])))


def test_a_fixed_batch_size_is_met_by_adding_gradients_up() -> None:
    fixed = parse_text(
        MLP.format(opset=17, head="", output="float[2,3] logits", activation="Relu (a)").replace(
            "[N,6]", "[2,6]"
        )
    )
    free = mlp()
    trained = []
    for model in (fixed, free):
        with open_run(model, batch_size=32, loss="auto") as run:
            run.epoch(1e-2, 1e-2, seed=0)
            trained.append(run.weights()["w1"])
    assert np.allclose(trained[0], trained[1], atol=2e-3)


def test_the_teacher_is_asked_once_for_each_sample_where_the_class_is_what_it_teaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    answer = Teacher._answer

    def counted(self: Teacher, feeds: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(len(feeds["x"]))
        return answer(self, feeds)

    monkeypatch.setattr(Teacher, "_answer", counted)
    with open_run(mlp(), loss="auto") as run:
        first = run.epoch(0.0, 0.0, seed=0)
        assert sum(asked) == 96
        assert run.epoch(0.0, 0.0, seed=5) == pytest.approx(first, rel=1e-5)
        assert sum(asked) == 96


def test_augmentations_need_images() -> None:
    with pytest.raises(RecipeError, match="augmentations are for images"):
        open_run(mlp(), augment=("flip",))


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with open_run(mlp()) as run:
        run.load({"w1": np.full((6, 12), 1e38, np.float32)})
        with pytest.raises(TrainingError, match="not finite"):
            run.epoch(1e-2, 1e-2, seed=0)


def test_losses_that_do_not_fit_the_data_are_refused() -> None:
    with pytest.raises(TrainingError, match="needs labels"):
        loss_spec(TrainingSettings(loss="cross_entropy"), SCORES, has_labels=False)
    with pytest.raises(RecipeError, match="unknown loss"):
        loss_spec(TrainingSettings(loss="hinge"), SCORES, has_labels=True)
    for loss in ("cross_entropy", "distillation", "blend"):
        with pytest.raises(TrainingError, match="an output with an axis of classes"):
            loss_spec(TrainingSettings(loss=loss), replace(SCORES, shape=(1, 1)), has_labels=True)
    with pytest.raises(TrainingError, match="labels for what the model predicts"):
        loss_spec(TrainingSettings(loss="blend"), replace(SCORES, fits_labels=False), has_labels=True)


def test_the_default_loss_blends_labels_and_the_original() -> None:
    spec = loss_spec(TrainingSettings(distillation_weight=0.3), SCORES, has_labels=True)
    assert (spec.label_weight, spec.divergence_weight, spec.squared_weight) == (0.7, 0.3, 0.0)


@pytest.mark.parametrize(
    ("logits", "weights"),
    [
        (replace(SCORES, fits_labels=False), (0.0, 1.0, 0.0)),
        (replace(SCORES, fits_labels=False, is_classifier=False), (0.0, 0.0, 1.0)),
        (replace(SCORES, shape=(1, 1)), (0.0, 0.0, 1.0)),
    ],
)
def test_the_default_loss_goes_by_what_the_model_gives(
    logits: Logits, weights: tuple[float, float, float]
) -> None:
    spec = loss_spec(TrainingSettings(), logits, has_labels=logits.fits_labels)
    assert (spec.label_weight, spec.divergence_weight, spec.squared_weight) == weights


@pytest.mark.parametrize(
    ("fixed", "n", "steps"), [(48, 96, 2), (48, 100, 3), (48, 7, 1), (1, 5, 1), (20, 96, 5)]
)
def test_a_fixed_batch_of_any_size_trains(fixed: int, n: int, steps: int) -> None:
    """Larger than the batch size, no divisor of the samples, larger than all of them, and 1."""
    text = MLP.format(opset=17, head="", output=f"float[{fixed},3] logits", activation="Relu (a)")
    model = parse_text(text.replace("[N,6]", f"[{fixed},6]"))
    with open_run(model, samples(n=n), batch_size=32, loss="auto") as run:
        assert np.isfinite(run.epoch(1e-2, 1e-2, seed=0))
        assert run._feeder.steps == steps  # type: ignore[attr-defined]
        assert not np.array_equal(run.weights()["w1"], model.read("w1"))


def test_an_epoch_of_a_fixed_batch_sees_every_sample() -> None:
    text = MLP.format(opset=17, head="", output="float[16,3] logits", activation="Relu (a)")
    data = samples(n=40)
    whole = np.concatenate([batch.feeds["x"] for batch in data.batches(40)])
    feeder = Feeder(
        parse_text(text.replace("[N,6]", "[16,6]")), data, TrainingSettings(batch_size=40), Targets()
    )
    steps = list(feeder.epoch(0))
    assert [len(runs) for runs in steps] == [2, 1]
    fed = np.concatenate([feeds["x"] for runs in steps for feeds in runs])
    assert fed.shape == (48, 6)
    assert {row.tobytes() for row in fed} == {row.tobytes() for row in whole}


def test_inputs_without_a_sample_axis_are_fed_one_whole_feed_at_a_time() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[6] x, float[N,2] z) => (float[N,3] y)
        <float[2,3] w = {1, 0, 0, 0, 1, 0}, int64[2] s = {1, 6}, float[6,3] v>
        {
            r = Reshape (x, s)
            a = MatMul (r, v)
            b = MatMul (z, w)
            y = Add (a, b)
        }""")
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(8, 6)).astype(np.float32), rng.normal(size=(8, 1, 2)).astype(np.float32)
    data = from_arrays({"x": x, "z": z}, np.arange(8) % 3)
    with open_run(model, data, loss="auto", batch_size=4) as run:
        first = run.epoch(1e-1, 1e-1, seed=0)
        for seed in range(6):
            last = run.epoch(1e-1, 1e-1, seed=seed)
    assert last < first


def test_inputs_may_have_the_names_of_what_the_loss_reads() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,2] teacher, float[N,2] labels) => (float[N,2] y)
        <float[2,2] w = {1.0, 0.5, -0.5, 1.0}>
        { a = Add (teacher, labels) y = MatMul (a, w) }""")
    x = np.eye(2, dtype=np.float32)
    with open_run(model, from_arrays({"teacher": x, "labels": x}, np.array([1, 0])), loss="auto") as run:
        run.epoch(1e-1, 1e-1, seed=0)
        assert not np.array_equal(run.weights()["w"], model.read("w"))
