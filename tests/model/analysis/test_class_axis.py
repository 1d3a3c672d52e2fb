"""The class axis, read off the graph or told by labels, and what is computed along it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from conftest import RunCommand

from onnx_admm.contracts import ModelView, TrainingSettings
from onnx_admm.data import Preprocessing, from_arrays, from_iterable, open_dataset
from onnx_admm.errors import DataError
from onnx_admm.model.analysis.class_axis import ClassAxis, axis_by_labels, class_axis
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.expose_logits import output_roles, with_scores
from onnx_admm.runtime.evaluation import evaluate, predicted_classes
from onnx_admm.runtime.predictions import predictions
from onnx_admm.runtime.sessions import open_session
from onnx_admm.training.graph.trainer import GraphTrainer

IMAGE = "float[N,3,4,5]"


def net(
    nodes: str, output: str, opset: int = 17, inputs: str = f"{IMAGE} x", constants: str = ""
) -> ModelView:
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({output} y) <float one = {{1}}'
    return parse_text(f"{head}{constants}> {{ s = Identity (x) {nodes} }}")


@pytest.mark.parametrize(
    ("nodes", "output", "opset", "expected"),
    [
        ("y = Softmax <axis = 1> (s)", IMAGE, 17, ClassAxis("y", 1, output=1, classes=3)),
        ("y = Softmax (s)", IMAGE, 17, ClassAxis("y", 3, output=3, classes=5)),
        ("y = LogSoftmax <axis = -3> (s)", IMAGE, 17, ClassAxis("y", 1, output=1, classes=3)),
        ("y = Softmax (s)", IMAGE, 11, ClassAxis("y", 1, joint=True, output=1)),
        ("y = Softmax <axis = 3> (s)", IMAGE, 11, ClassAxis("y", 3, output=3, classes=5)),
        (
            "p = Softmax <axis = 1> (s) y = Transpose <perm = [0, 2, 3, 1]> (p)",
            "float[N,4,5,3]",
            17,
            ClassAxis("y", 1, output=3, classes=3),
        ),
        (
            "t = Transpose <perm = [0, 2, 3, 1]> (s) p = Softmax <axis = 3> (t) "
            "y = Transpose <perm = [0, 3, 1, 2]> (p)",
            IMAGE,
            17,
            ClassAxis("y", 3, output=1, classes=None),
        ),
        (
            "y = ArgMax <axis = 1, keepdims = 0> (s)",
            "int64[N,4,5]",
            17,
            ClassAxis("y", 1, gives="numbers", output=None, classes=3),
        ),
        (
            "c = ArgMax <axis = 1> (s) y = Cast <to = 1> (c)",
            "float[N,1,4,5]",
            17,
            ClassAxis("y", 1, gives="numbers", output=1, classes=3),
        ),
        (
            "p = Softmax <axis = 1> (s) y = ArgMax <axis = 1, keepdims = 0> (p)",
            "int64[N,4,5]",
            17,
            ClassAxis("y", 1, gives="numbers", output=None, classes=3),
        ),
        (
            "e = Exp (s) t = ReduceSum <axes = [1], keepdims = 1> (e) y = Div (e, t)",
            IMAGE,
            11,
            ClassAxis("y", 1, output=1, classes=3),
        ),
        ("y = ArgMax (s)", "int64[1,3,4,5]", 17, None),
        ("y = Sigmoid (s)", IMAGE, 17, None),
        ("p = Softmax <axis = 1> (s) y = Mul (p, p)", IMAGE, 17, None),
    ],
)
def test_the_axis_is_that_of_the_operator(
    nodes: str, output: str, opset: int, expected: ClassAxis | None
) -> None:
    assert class_axis(net(nodes, output, opset)) == expected


@pytest.mark.parametrize(
    ("nodes", "output"),
    [
        ("p = Softmax <axis = 1> (s) y = Unsqueeze (p, k)", "float[N,1,3,4,5]"),
        ("p = Softmax <axis = 1> (s) u = Unsqueeze (p, k) y = Squeeze (u, k)", IMAGE),
        ("p = Softmax <axis = 1> (s) y = Reshape (p, shape)", "float[N,1,3,4,5]"),
    ],
)
def test_the_axis_is_followed_through_axes_of_one(nodes: str, output: str) -> None:
    constants = ", int64[1] k = {1}, int64[5] shape = {0, 1, 3, 4, 5}"
    found = class_axis(net(nodes, output, constants=constants))
    assert found is not None
    assert found.output == (1 if output == IMAGE else 2)


def test_the_best_of_a_topk_is_the_prediction_and_its_values_tell_none() -> None:
    inputs = "float[N,4] x"
    text = "t, y = TopK <axis = 1> (s, k)"
    numbers = net(text, "int64[N,2]", inputs=inputs, constants=", int64[1] k = {2}")
    x = np.array([[0, 3, 1, 2], [9, 3, 1, 2]], np.float32)
    assert evaluate(numbers, from_arrays({"x": x}, [1, 1]), roles=output_roles(numbers)).accuracy == 0.5
    values = net("y, t = TopK <axis = 1> (s, k)", "float[N,2]", inputs=inputs, constants=", int64[1] k = {2}")
    quality = evaluate(values, from_arrays({"x": x}, [1, 1]), reference=values, roles=output_roles(values))
    assert (quality.accuracy, quality.agreement) == (None, None)


def test_softmax_over_joined_axes_predicts_one_place() -> None:
    model = net("y = Softmax (s)", IMAGE, opset=11)
    x = np.zeros((2, 3, 4, 5), np.float32)
    x[0, 2, 1, 3], x[1, 0, 0, 1] = 1, 1
    numbers = [np.ravel_multi_index((2, 1, 3), (3, 4, 5)), 1]
    assert predicted_classes(model, from_arrays({"x": x}), classes=class_axis(model)).tolist() == numbers  # type: ignore[union-attr]


def test_scores_over_joined_axes_are_centred_whether_their_shape_is_stored_or_not() -> None:
    """Passes that change channels forget shapes; their results are compared with the model before."""
    model, x = (
        net("y = Softmax (s)", IMAGE, opset=11),
        np.random.default_rng(0).normal(5.0, 1.0, (2, 3, 4, 5)),
    )
    stored = model.fork()
    (value,) = (each for node in stored.nodes("Identity") for each in node.ir_node.outputs)
    value.shape = ir.Shape(["N", 3, 4, 5])
    for view in (model, stored):
        scores = open_session(with_scores(view)).run({"x": x.astype(np.float32)})["y::score"]
        np.testing.assert_allclose(scores.mean(axis=(1, 2, 3)), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("output", "labels", "axis"),
    [
        ((2, 3, 4, 5), (2, 4, 5), 1),
        ((2, 4, 5, 3), (2, 4, 5), 3),
        ((2, 7, 9), (2, 7), 2),
        ((2, 7, 7), (2, 7), 1),
        ((2, 7), (2,), 1),
        ((2, 7, 1, 1), (2,), 1),
        ((2, 7, 9), (2,), None),
        ((2, 7, 9), (2, 5), None),
        ((2, 1), (2,), None),
        ((2,), (2,), None),
    ],
)
def test_labels_tell_the_axis(output: tuple[int, ...], labels: tuple[int, ...], axis: int | None) -> None:
    assert axis_by_labels(output, labels) == axis


def test_dense_scores_need_the_graph_or_labels() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    assert predictions(scores) is None
    np.testing.assert_array_equal(predictions(scores, labels=(2, 4, 5)), scores.argmax(1))
    np.testing.assert_array_equal(
        predictions(scores, ClassAxis("y", 3, output=3), (2, 3, 4)), scores.argmax(3)
    )


# -- accuracy of dense predictions ------------------------------------------------------------

SCORES = np.random.default_rng(3).normal(size=(6, 3, 4, 5)).astype(np.float32)
RIGHT = SCORES.argmax(1)


def half_right() -> np.ndarray:
    labels = RIGHT.copy()
    labels[:, :2] = (labels[:, :2] + 1) % 3
    return labels


@pytest.mark.parametrize(
    ("nodes", "output"),
    [
        ("y = Softmax <axis = 1> (s)", IMAGE),
        ("y = Identity (s)", IMAGE),
        ("y = Transpose <perm = [0, 2, 3, 1]> (s)", "float[N,4,5,3]"),
        ("p = Softmax <axis = 1> (s) y = Transpose <perm = [0, 2, 3, 1]> (p)", "float[N,4,5,3]"),
        ("y = ArgMax <axis = 1> (s)", "int64[N,1,4,5]"),
        ("y = ArgMax <axis = 1, keepdims = 0> (s)", "int64[N,4,5]"),
    ],
)
@pytest.mark.parametrize("first", ["N", "4"])
def test_accuracy_of_each_place(nodes: str, output: str, first: str) -> None:
    fixed = {"inputs": f"{IMAGE.replace('N', first)} x"}
    model = net(nodes, output.replace("N", first), **fixed)
    for labels in (half_right(), half_right()[:, None]):
        data = from_arrays({"x": SCORES}, labels)
        quality = evaluate(model, data, reference=model, roles=output_roles(model), batch_size=4)
        assert quality.accuracy == pytest.approx(0.5)
        assert quality.samples == 6
        assert quality.agreement in (1.0, None)


@pytest.mark.parametrize(
    ("value", "dtype"), [(255, np.uint8), (-1, np.int64), (-100, np.int16), (7, np.int32)]
)
def test_places_without_a_class_count_for_nothing(value: int, dtype: type) -> None:
    model = net("y = Softmax <axis = 1> (s)", IMAGE)
    labels = half_right()
    labels[:, :2, :4] = value  # four fifths of what is wrong
    data = from_arrays({"x": SCORES}, labels.astype(dtype), ignore_label=7 if value == 7 else None)
    assert evaluate(model, data, roles=output_roles(model)).accuracy == pytest.approx(10 / 12)
    empty = from_arrays({"x": SCORES}, np.full_like(labels, value), ignore_label=7 if value == 7 else None)
    with pytest.raises(DataError, match="every label is ignored"):
        evaluate(model, empty, roles=output_roles(model))


def test_a_class_255_that_the_model_has_is_a_class() -> None:
    inputs = "float[N,300,2] x"
    model = net("y = Softmax <axis = 1> (s)", "float[N,300,2]", inputs=inputs)
    x = np.zeros((1, 300, 2), np.float32)
    x[0, 255, 0], x[0, 3, 1] = 1, 1
    assert evaluate(model, from_arrays({"x": x}, [[255, 3]]), roles=output_roles(model)).accuracy == 1.0
    with pytest.raises(DataError, match="a label the model has no class for; got 300; expected 0 to 299"):
        evaluate(model, from_arrays({"x": x}, [[300, 3]]), roles=output_roles(model))


def test_labels_that_fit_no_prediction_are_refused() -> None:
    model = net("y = Softmax <axis = 1> (s)", IMAGE)
    with pytest.raises(
        DataError, match=r"another shape than the predictions; got \(n, 5, 4\); .*\(n, 4, 5\)"
    ):
        evaluate(model, from_arrays({"x": SCORES}, np.zeros((6, 5, 4), int)), roles=output_roles(model))


def test_one_hot_labels_are_refused_when_the_data_is_opened(tmp_path: Path) -> None:
    model = net("y = Softmax <axis = 1> (s)", "float[N,3]", inputs="float[N,3] x")
    np.savez(tmp_path / "d.npz", x=np.ones((4, 3), np.float32), labels=np.eye(4, 3, dtype=np.int64))
    with pytest.raises(DataError, match=r"labels have more axes than the model's predictions.*One-hot"):
        open_dataset(tmp_path / "d.npz", model)


def test_the_ignored_label_is_a_key_of_the_preprocessing(tmp_path: Path) -> None:
    model = net("y = Softmax <axis = 1> (s)", IMAGE)
    np.savez(tmp_path / "d.npz", x=SCORES, labels=np.where(np.arange(5) == 1, 2, RIGHT).astype(np.uint8))
    data = open_dataset(tmp_path / "d.npz", model, preprocessing=Preprocessing(ignore_label=2))
    assert evaluate(model, data, roles=output_roles(model)).accuracy == 1.0
    (tmp_path / "d.toml").write_text('path = "d.npz"\nignore_label = 2\n')
    described = open_dataset(tmp_path / "d.toml", model)
    assert next(described.batches(6)).labels.min() == -1  # type: ignore[union-attr]


def test_feeds_of_an_iterable_carry_dense_labels() -> None:
    model = net("y = Softmax <axis = 1> (s)", IMAGE)
    data = from_iterable([{"x": SCORES[i : i + 2], "labels": RIGHT[i : i + 2]} for i in (0, 2, 4)], model)
    assert evaluate(model, data, roles=output_roles(model)).accuracy == 1.0


# -- training ---------------------------------------------------------------------------------

SEGMENTER = """<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N,2,4,4] x) => ({output} y) <float[3,2,1,1] w, float[3] b = {{0, 0, 0}}>
    {{ s = Conv (x, w, b) {nodes} }}"""


def segmenter(nodes: str, output: str = "float[N,3,4,4]", opset: int = 17) -> ModelView:
    model = parse_text(SEGMENTER.format(nodes=nodes, output=output, opset=opset))
    model.replace("w", np.array([[2, 0], [0, 2], [-1, -1]], np.float32).reshape(3, 2, 1, 1))
    return model


HEADS = [
    ("y = Softmax <axis = 1> (s)", "float[N,3,4,4]", 17),
    ("p = Softmax <axis = 1> (s) y = Transpose <perm = [0, 2, 3, 1]> (p)", "float[N,4,4,3]", 17),
    ("t = Transpose <perm = [0, 2, 3, 1]> (s) y = Softmax <axis = 3> (t)", "float[N,4,4,3]", 11),
    ("y = ArgMax <axis = 1, keepdims = 0> (s)", "int64[N,4,4]", 17),
]
PIXELS = np.random.default_rng(5).normal(size=(32, 2, 4, 4)).astype(np.float32)


@pytest.mark.parametrize(("nodes", "output", "opset"), HEADS)
def test_a_student_that_answers_one_class_everywhere_has_a_larger_loss(
    nodes: str, output: str, opset: int
) -> None:
    """Along the last axis its distillation would be the teacher's: a constant score cancels there."""
    teacher = segmenter(nodes, output, opset)
    student = teacher.fork()
    student.replace("w", np.zeros((3, 2, 1, 1), np.float32))
    losses = {}
    settings = TrainingSettings(loss="distillation", batch_size=32)
    for name, model in (("same", teacher), ("blind", student)):
        with GraphTrainer().open(model, model.sites(), from_arrays({"x": PIXELS}), settings, teacher) as run:
            losses[name] = run.epoch(0.0, 0.0, seed=0)
    scores = np.einsum("oc,nchw->nohw", teacher.read("w")[:, :, 0, 0], PIXELS) / settings.temperature
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    entropy = float(-(p * np.log(p)).sum(1).mean()) * settings.temperature**2
    assert losses["same"] == pytest.approx(entropy, rel=1e-4)
    assert losses["blind"] == pytest.approx(np.log(3) * settings.temperature**2, rel=1e-4)


@pytest.mark.parametrize(("nodes", "output", "opset"), [*HEADS, ("y = Identity (s)", "float[N,3,4,4]", 17)])
@pytest.mark.parametrize("ignored", [False, True])
def test_cross_entropy_is_over_the_class_axis_of_every_place(
    nodes: str, output: str, opset: int, ignored: bool
) -> None:
    model = segmenter(nodes, output, opset)
    scores = np.einsum("oc,nchw->nohw", model.read("w")[:, :, 0, 0], PIXELS)
    labels = np.random.default_rng(0).integers(0, 3, (32, 4, 4))
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    costs = -np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    if ignored:
        labels[:, 1] = 255
        costs = np.delete(costs, 1, axis=1)
    data = from_arrays({"x": PIXELS}, labels)
    settings = TrainingSettings(loss="cross_entropy", batch_size=32)
    with GraphTrainer().open(model, model.sites(), data, settings, model) as run:
        assert run.epoch(0.0, 0.0, seed=0) == pytest.approx(float(costs.mean()), rel=1e-4)


def test_labels_of_samples_train_a_classifier_with_axes_of_one() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2,1,1] x) => (float[N,3,1,1] y)
        <float[3,2,1,1] w> { s = Conv (x, w) y = Softmax <axis = 1> (s) }"""
    model = parse_text(text)
    data = from_arrays({"x": PIXELS[:, :, :1, :1]}, np.arange(32) % 3)
    with GraphTrainer().open(model, model.sites(), data, TrainingSettings(batch_size=8), model) as run:
        run.epoch(1e-2, 1e-2, seed=0)
        assert not np.array_equal(run.weights()["w"], model.read("w"))


def test_a_label_without_a_class_does_not_reach_the_training_runtime() -> None:
    model = segmenter("y = Softmax <axis = 1> (s)")
    labels = np.zeros((32, 4, 4), np.int64)
    labels[:, 2, 2] = 3
    with pytest.raises(DataError, match="a label the model has no class for; got 3; expected 0 to 2"):
        GraphTrainer().open(
            model, model.sites(), from_arrays({"x": PIXELS}, labels), TrainingSettings(), model
        )


def test_labels_of_samples_for_dense_predictions_are_refused() -> None:
    model = segmenter("y = Softmax <axis = 1> (s)")
    data = from_arrays({"x": PIXELS}, np.zeros(32, np.int64))
    with pytest.raises(DataError, match="labels of another shape than the predictions"):
        GraphTrainer().open(model, model.sites(), data, TrainingSettings(), model)


def test_max_drop_counts_pixels(tmp_path: Path, run: RunCommand) -> None:
    model = segmenter("y = Softmax <axis = 1> (s)")
    model.save(tmp_path / "in.onnx")
    scores = np.einsum("oc,nchw->nohw", model.read("w")[:, :, 0, 0], PIXELS)
    np.savez(tmp_path / "d.npz", x=PIXELS, labels=scores.argmax(1).astype(np.uint8))
    asked = ["--data", tmp_path / "d.npz", "--max-drop", "0.5", "--no-fine-tune", "--threads", "1"]
    code, out, err = run("compress", tmp_path / "in.onnx", tmp_path / "out.onnx", "--prune", "0.6", *asked)
    assert (code, (tmp_path / "out.onnx").exists()) == (3, False), out
    assert "accuracy drops too much" in err
    code, out, _ = run("compare", tmp_path / "in.onnx", tmp_path / "in.onnx", "--data", tmp_path / "d.npz")
    assert code == 0
    assert "100.00" in out
