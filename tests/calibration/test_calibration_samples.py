"""Samples to calibrate on: what the original predicts decides, and rare classes are not missed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_admm.calibration.samples import calibration_samples, in_turn
from onnx_admm.contracts import Array, Dataset, ModelView, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text

CLASSIFIER = """
    <ir_version: 8, opset_import: ["" : 17]>
    largest (float[N,3] x) => (float[N,3] scores) { scores = Softmax (x) }
"""
REGRESSION = """
    <ir_version: 8, opset_import: ["" : 17]>
    sum (float[N,3] x) => (float[1,1] y) { y = ReduceSum <keepdims = 1> (x) }
"""
RARE = 3
"""Samples of class 2 among a thousand."""


def inputs() -> Array:
    """Of class 0, but for a tenth of class 1 and three of class 2; the second number tells samples apart."""
    x = np.zeros((1000, 3), np.float32)
    x[:, 0] = 2.0
    x[::10, 1] = 3.0
    x[5 : 5 + 300 * RARE : 300, 2] = 4.0
    return x


def context_for(model: ModelView, x: Array, labels: Array | None = None) -> PassContext:
    return PassContext(reference=model, train=from_arrays({"x": x}, labels), seed=1)


def drawn(data: Dataset) -> Array:
    return np.concatenate([batch.feeds["x"] for batch in data.batches(64)])


@given(st.lists(st.integers(-2, 5), max_size=60), st.integers(0, 60))
def test_of_the_first_positions_no_class_has_two_more_than_another_could(classes: list[int], n: int) -> None:
    order = in_turn(np.array(classes, np.int64))
    assert sorted(order) == list(range(len(classes)))
    taken = [classes[position] for position in order[:n]]
    left = [classes[position] for position in order[n:]]
    most = max(map(taken.count, taken), default=0)
    assert all(taken.count(each) >= most - 1 for each in left)


def test_a_rare_class_is_drawn_whole_and_the_others_alike() -> None:
    model = parse_text(CLASSIFIER)
    classes = drawn(calibration_samples(context_for(model, inputs()), 250)).argmax(axis=1)
    assert np.bincount(classes).tolist() == [250 - 100 - RARE, 100, RARE]
    classes = drawn(calibration_samples(context_for(model, inputs()[:200]), 51)).argmax(axis=1)
    assert np.bincount(classes).tolist() == [30, 20, 1]


def test_labels_do_not_decide() -> None:
    model = parse_text(CLASSIFIER)
    unlabelled, labelled = (
        drawn(calibration_samples(context_for(model, inputs(), labels), 60))
        for labels in (None, np.arange(1000) % 3)
    )
    assert np.array_equal(unlabelled, labelled)


@pytest.mark.parametrize("text", [CLASSIFIER, REGRESSION])
def test_few_samples_are_all_taken_in_their_order(text: str) -> None:
    x = inputs()[:40]
    x[:, 1] = np.arange(40)
    assert np.array_equal(drawn(calibration_samples(context_for(parse_text(text), x), 40)), x)


def test_where_nothing_is_classified_the_draw_is_by_chance_alone() -> None:
    x = inputs()
    x[:, 1] = np.arange(1000)
    context = context_for(parse_text(REGRESSION), x)
    first, second = (drawn(calibration_samples(context, 100)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.all(np.diff(first[:, 1]) > 0)
    assert first[:, 1].max() > 400  # not the first ones


def test_without_data_inputs_are_made_up() -> None:
    made = calibration_samples(PassContext(reference=parse_text(CLASSIFIER), train=None), 20)
    assert drawn(made).shape == (20, 3)
