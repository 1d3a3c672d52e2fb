"""Accuracy, agreement and output error, against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from onnx_admm.data import Preprocessing, from_arrays, open_dataset
from onnx_admm.errors import DataError
from onnx_admm.model import ModelView
from onnx_admm.model.rewrite.expose_logits import output_roles
from onnx_admm.runtime.evaluation import SQNR_LIMIT_DB, evaluate
from onnx_admm.runtime.predictions import predictions

SCORES = np.array([[0, 2, 1], [5, 1, 1], [0, 0, 9], [1, 7, 2], [3, 3, 1]], np.float32)
CLASSES = [1, 0, 2, 1, 0]  # the first of equals


def scaled(
    factor: float, first: str = "N", head: str = "y = Identity(s)", output: str = "float[M,3] y"
) -> ModelView:
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
        g (float[{first},3] x) => ({output}) <float[1] f = {{{factor}}}> {{ s = Mul(x, f) {head} }}"""
    return ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString())


DATA = from_arrays({"x": SCORES}, [1, 0, 2, 0, 2])  # 3 of 5 right


@pytest.mark.parametrize("first", ["N", "1", "2"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_accuracy_whatever_the_batches(first: str, batch_size: int) -> None:
    quality = evaluate(scaled(1, first), DATA, batch_size=batch_size)
    assert (quality.accuracy, quality.agreement, quality.sqnr_db, quality.samples) == (0.6, None, None, 5)


def test_agreement_and_error_against_a_reference() -> None:
    same = evaluate(scaled(1), DATA, reference=scaled(1))
    assert (same.agreement, same.sqnr_db) == (1.0, SQNR_LIMIT_DB)
    louder = evaluate(scaled(1.1), DATA, reference=scaled(1), batch_size=2)
    assert louder.agreement == 1.0
    assert louder.sqnr_db == pytest.approx(20.0, abs=1e-4)
    turned = evaluate(scaled(-1), DATA, reference=scaled(1))
    assert turned.agreement == 0.0
    assert turned.sqnr_db == pytest.approx(10 * np.log10(0.25))


def test_without_labels_there_is_no_accuracy() -> None:
    quality = evaluate(scaled(1), from_arrays({"x": SCORES}), reference=scaled(1))
    assert (quality.accuracy, quality.agreement) == (None, 1.0)


def test_integer_outputs_are_classes_and_have_no_error() -> None:
    model = scaled(1, head="y = ArgMax <axis = 1, keepdims = 0> (s)", output="int64[M] y")
    quality = evaluate(model, DATA, reference=model)
    assert (quality.accuracy, quality.agreement, quality.sqnr_db) == (0.6, 1.0, None)


def test_an_output_that_is_no_classifiers_has_an_error_alone() -> None:
    model = scaled(1, head="y = ReduceSum <keepdims = 0> (s)", output="float y")
    quality = evaluate(model, DATA, reference=model)
    assert (quality.accuracy, quality.agreement, quality.sqnr_db) == (None, None, SQNR_LIMIT_DB)


def test_each_output_has_an_error_of_its_own() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N,3] y, float[N,3] z, int64[N] c) <float[1] f = {FACTOR}>
        { y = Mul (x, f)  z = Neg (x)  c = ArgMax <axis = 1, keepdims = 0> (x) }"""
    one, louder = (
        ModelView.from_bytes(onnx.parser.parse_model(text.replace("FACTOR", factor)).SerializeToString())
        for factor in ("1.0", "1.1")
    )
    quality = evaluate(louder, DATA, reference=one, batch_size=2)
    assert quality.sqnr_by_output == {"y": pytest.approx(20.0, abs=1e-4), "z": SQNR_LIMIT_DB}
    assert quality.sqnr_db == pytest.approx(20.0 + 10 * np.log10(2), abs=1e-4)
    assert evaluate(one, DATA).sqnr_by_output == {}


def test_outputs_are_told_in_the_order_of_the_model() -> None:
    names = [f"digit_{n}" for n in (3, 0, 7, 5, 1, 6, 2, 4)]  # no order that a set of them has by chance
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,3] x) => ({", ".join(f"float[N,3] {name}" for name in names)}) <float[1] f = {{FACTOR}}>
        {{ {" ".join(f"{name} = Mul (x, f)" for name in names)} }}"""
    one, louder = (
        ModelView.from_bytes(onnx.parser.parse_model(text.replace("FACTOR", factor)).SerializeToString())
        for factor in ("1.0", "1.1")
    )
    quality = evaluate(louder, DATA, reference=one)
    assert list(quality.sqnr_by_output) == list(quality.judged_db) == names


def test_every_head_of_a_classifier_counts_and_the_worst_is_its_agreement() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N,3] y, float[N,3] z, float[N,3] plain) <float[1] f = {FACTOR}>
        { y = Softmax (x)  t = Mul (x, f)  z = Softmax (t)  plain = Mul (x, f) }"""
    one, other = (
        ModelView.from_bytes(onnx.parser.parse_model(text.replace("FACTOR", factor)).SerializeToString())
        for factor in ("1.0", "-1.0")
    )
    quality = evaluate(other, DATA, reference=one, roles=output_roles(one), batch_size=2)
    assert quality.agreement_by_output == {"y": 1.0, "z": 0.0}
    assert quality.agreement == 0.0


def test_an_attention_map_is_no_head() -> None:
    """A Softmax over places, one row for each of them."""
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N,3] y, float[N,3,3] attention)
        <float[1] f = {FACTOR}, int64[1] last = {2}, int64[3] square = {1, 3, 3}>
        { y = Softmax (x)  c = Unsqueeze (x, last)  t = Mul (c, f)  e = Expand (t, square)
          turned = Transpose <perm = [0, 2, 1]> (e)  attention = Softmax (turned) }"""
    one, other = (
        ModelView.from_bytes(onnx.parser.parse_model(text.replace("FACTOR", factor)).SerializeToString())
        for factor in ("1.0", "-1.0")
    )
    quality = evaluate(other, DATA, reference=one, roles=output_roles(one))
    assert quality.agreement_by_output == {"y": 1.0}


def test_errors_add_up_over_batches() -> None:
    uneven, one = scaled(1, head="y = Min (s, f)"), scaled(1)
    whole, parts = (evaluate(uneven, DATA, reference=one, batch_size=size) for size in (256, 2))
    assert 0 < whole.sqnr_by_output["y"] < SQNR_LIMIT_DB
    assert parts.sqnr_by_output["y"] == pytest.approx(whole.sqnr_by_output["y"])


def test_outputs_that_are_not_finite_are_all_noise_unless_both_sides_hold_them() -> None:
    root = "y = Sqrt(s)"
    data = from_arrays({"x": SCORES - 1})
    assert evaluate(scaled(1, head=root), data, reference=scaled(1)).sqnr_db == -SQNR_LIMIT_DB
    assert evaluate(scaled(1, head=root), data, reference=scaled(1, head=root)).sqnr_db == SQNR_LIMIT_DB


def test_a_label_without_a_class() -> None:
    with pytest.raises(DataError, match="a label the model has no class for; got 7; expected 0 to 2"):
        evaluate(scaled(1), from_arrays({"x": SCORES}, [0, 1, 7, 0, 0]))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (SCORES, CLASSES),
        (SCORES.reshape(5, 3, 1, 1), CLASSES),
        (SCORES.astype(np.float16), CLASSES),
        (np.array(CLASSES), CLASSES),
        (np.array(CLASSES, np.int32)[:, None], CLASSES),
        (SCORES[:, :1], None),
        (SCORES[:, 0], None),
        (SCORES.reshape(5, 1, 3), None),
        (np.array([CLASSES, CLASSES]), None),
        (SCORES > 1, None),
    ],
)
def test_predictions(output: Any, expected: list[int] | None) -> None:
    found = predictions(output)
    assert (None if found is None else found.tolist()) == expected
    assert found is None or found.dtype == np.int64


def test_the_figures_of_real_models(shared: Any) -> None:
    mnist = shared / "datasets" / "mnist"
    for name, scale, accuracy in (("lenet5-mnist", 1 / 255, 0.994), ("mnist_cntk", 1.0, 0.9891)):
        model = ModelView.load(shared / "models" / f"{name}.onnx")
        data = open_dataset(mnist, model, preprocessing=Preprocessing(scale=scale), part="test")
        assert evaluate(model, data).accuracy == accuracy


def test_the_figures_of_a_real_model_on_zipped_images(shared: Any) -> None:
    model = ModelView.load(shared / "models" / "resnet8-cifar10.onnx")
    pixels = Preprocessing(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))
    data = open_dataset(shared / "datasets" / "cifar10" / "cifar10-test.zip", model, preprocessing=pixels)
    tenth = data.select(np.arange(0, len(data), 10))
    assert evaluate(model, tenth).accuracy == 0.807
