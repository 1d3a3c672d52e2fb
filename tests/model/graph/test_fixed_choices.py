"""Models that choose rows by their scores are compared with the same rows chosen in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_admm.api import compare, compress
from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model.analysis.class_axis import class_axis
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.comparing.fixed_choices import SCORES, choosing_operators, with_fixed_choices
from onnx_admm.runtime.sessions import open_session
from onnx_admm.training.phases import validation_score

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
RNG = np.random.default_rng(0)

QUERIES = f"""{HEAD}
    detector (float[N,40,32] x) => (float[N,11] scores, int64[N,11] labels, float[N,11,4] boxes)
    <int64[1] eleven = {{11}}, int64 three = {{3}}, int64[1] last = {{-1}}, int64[3] four = {{1, 1, 4}},
     int64[2] flat = {{0, -1}}>
    {{
        h = MatMul (x, w)  r = Relu (h)
        logits = MatMul (r, classes)  corners = MatMul (r, sides)
        probabilities = Sigmoid (logits)  all = Reshape (probabilities, flat)
        scores, places = TopK <axis = 1> (all, eleven)
        labels = Mod (places, three)
        queries = Div (places, three)  column = Unsqueeze (queries, last)  rows = Tile (column, four)
        boxes = GatherElements <axis = 1> (corners, rows)
    }}"""

SUPPRESSED = f"""{HEAD}
    detector (float[N,40,32] x) => (float[M,4] found)
    <int64[1] many = {{20}}, float[1] overlap = {{0.5}}, float[1] least = {{0.2}}, int64[2] keep = {{0, 2}}>
    {{
        h = MatMul (x, w)  r = Relu (h)
        logits = MatMul (r, classes)  corners = MatMul (r, sides)
        turned = Transpose <perm = [0, 2, 1]> (logits)  probabilities = Sigmoid (turned)
        chosen = NonMaxSuppression (corners, probabilities, many, overlap, least)
        pairs = Gather <axis = 1> (chosen, keep)
        found = GatherND (corners, pairs)
    }}"""

RANKED = f"""{HEAD}
    classifier (float[N,32] x) => (float[N,3] y, int64[N,3] ranked) <int64[1] three = {{3}}>
    {{ h = MatMul (x, w)  r = Relu (h)  s = MatMul (r, classes)  y, ranked = TopK (s, three) }}"""


def model_of(text: str) -> ModelView:
    shapes = {"w": (32, 64), "classes": (64, 3), "sides": (64, 4)}
    used = {name: shape for name, shape in shapes.items() if f", {name})" in text}
    arrays = {name: RNG.normal(0, 0.3, shape).astype(np.float32) for name, shape in used.items()}
    return parse_text(text, constants=arrays)


def disturbed(model: ModelView, share: float) -> ModelView:
    """A fork with noise on every weight, a share of its standard deviation."""
    fork = model.fork()
    for site in model.sites():
        array = model.read(site)
        noise = RNG.normal(0, share * np.std(array), array.shape)
        fork.replace(site.name, (array + noise).astype(np.float32))
    return fork


def samples(count: int, *shape: int) -> np.ndarray:
    return RNG.normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("text", [QUERIES, SUPPRESSED])
def test_the_chosen_rows_do_not_depend_on_the_weights(text: str) -> None:
    model = model_of(text)
    other = disturbed(model, 0.02)
    feeds = {"x": samples(3, 40, 32)}
    first, second = (open_session(with_fixed_choices(each), threads=1).run(feeds) for each in (model, other))
    for name, array in first.items():
        assert second[name].shape == array.shape
        error = np.linalg.norm(second[name].astype(float) - array) / np.linalg.norm(array)
        assert error < 0.1, name
    plain = open_session(model, threads=1).run(feeds)
    shown = {name: array.dtype for name, array in first.items() if not name.startswith(SCORES)}
    assert shown == {name: array.dtype for name, array in plain.items()}
    assert len(first) == len(plain) + 1


def test_rows_of_a_top_k_are_those_of_their_indices() -> None:
    model = with_fixed_choices(model_of(QUERIES))
    found = open_session(model, threads=1).run({"x": samples(2, 40, 32)})
    assert [array.shape for array in found.values()] == [(2, 11), (2, 11), (2, 11, 4), (2, 120)]
    assert found["labels"].tolist() == [[10 * n % 3 for n in range(11)]] * 2


def test_boxes_of_every_sample_are_chosen() -> None:
    model = with_fixed_choices(model_of(SUPPRESSED))
    feeds = {"x": samples(3, 40, 32)}
    found = open_session(model, threads=1).run(feeds)["found"]
    assert found.shape == (3 * 20, 4)  # at most 20 of each class
    apart = open_session(model, threads=1).run({"x": feeds["x"][2:]})["found"]
    np.testing.assert_allclose(found[40:], apart, rtol=1e-5)


def test_a_model_that_ranks_classes_chooses_no_rows() -> None:
    model = model_of(RANKED)
    assert choosing_operators(model) == {}
    assert with_fixed_choices(model) is model
    assert class_axis(model) is not None
    assert class_axis(model_of(QUERIES)) is None
    assert choosing_operators(model_of(QUERIES)) == {"TopK": 1}
    assert choosing_operators(model_of(SUPPRESSED)) == {"NonMaxSuppression": 1}


@pytest.mark.parametrize("text", [QUERIES, SUPPRESSED])
def test_the_bare_command_compresses_a_detector_that_chooses(text: str, tmp_path: Path) -> None:
    model_of(text).save(tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    assert report.comparison.file_ratio > 2
    assert report.comparison.quality[0].same_choices
    assert any(note.startswith("The model chooses rows by their scores (1 ") for note in report.notes)
    assert choosing_operators(ModelView.load(tmp_path / "out.onnx"))
    found = compare(tmp_path / "in.onnx", tmp_path / "out.onnx", from_arrays({"x": samples(8, 40, 32)}))
    assert found.agreement is None
    assert any("same rows chosen" in row[0] for row in found.rows())


NONE_LEFT = f"""{HEAD}
    filter (float[N] x) => (float[M] y)
    <float most = {{10.0}}, int64[1] five = {{5}}, int64[1] zero = {{0}}>
    {{
        over = Greater (x, most)  places = NonZero (over)  kept = Squeeze (places, zero)
        found = Gather (x, kept)  doubled = Add (found, found)
        count = Shape (found)  k = Min (count, five)
        best, rows = TopK (doubled, k)
        y = Gather (found, rows)
    }}"""


def test_a_choice_among_nothing_gives_nothing() -> None:
    """The runtime ends the process where integers are divided by 0."""
    model = with_fixed_choices(parse_text(NONE_LEFT))
    session = open_session(model, threads=1)
    assert session.run({"x": np.zeros(8, np.float32)})["y"].shape == (0,)
    assert session.run({"x": np.full(8, 11, np.float32)})["y"].shape == (5,)


def test_what_rows_are_chosen_by_counts_too() -> None:
    text = f"""{HEAD}
        picks (float[N,40,32] x) => (float[N,5,4] y) <int64[1] five = {{5}}, int64[1] last = {{-1}},
            int64[3] four = {{1, 1, 4}}, int64[2] flat = {{0, -1}}>
        {{
            scores = MatMul (x, classes)  all = Reshape (scores, flat)  best, places = TopK (all, five)
            column = Unsqueeze (places, last)  rows = Tile (column, four)
            corners = MatMul (x, sides)  y = GatherElements <axis = 1> (corners, rows)
        }}"""
    arrays = {name: RNG.normal(size=(32, n)).astype(np.float32) for name, n in (("classes", 1), ("sides", 4))}
    model = parse_text(text, constants=arrays)
    probe = OutputProbe(model, ["classes"], from_arrays({"x": samples(4, 40, 32)}), threads=1)
    assert probe.relative_error({"classes": np.zeros((32, 1), np.float32)}) == pytest.approx(1.0)


def test_a_lookup_in_a_decoded_table_is_no_choice_of_rows() -> None:
    """Best classes are looked up in a table of constants, stored or decoded."""
    text = f"""{HEAD}
        names (float[N,32] x) => (float[N,3,4] y) <int64[1] three = {{3}}, float scale = {{0.5}}>
        {{ s = MatMul (x, classes)  best, rows = TopK (s, three)  TABLE  y = Gather (table, rows) }}"""
    arrays = {"classes": RNG.normal(size=(32, 8)).astype(np.float32)}
    plain = parse_text(
        text.replace("TABLE", "table = Identity (t)"),
        constants={**arrays, "t": np.eye(8, 4, dtype=np.float32)},
    )
    codes = np.eye(8, 4).astype(np.int8)
    decoded = parse_text(
        text.replace("TABLE", "table = DequantizeLinear (t, scale)"), constants={**arrays, "t": codes}
    )
    assert choosing_operators(plain) == choosing_operators(decoded) == {}


def test_models_that_do_not_choose_alike_choose_themselves() -> None:
    model, other = model_of(QUERIES), model_of(SUPPRESSED)
    assert choosing_operators(model, model.fork()) == {"TopK": 1}
    assert choosing_operators(model, other) == {}
    assert with_fixed_choices(model, other) is model


def test_epochs_of_a_detector_are_compared_with_the_same_rows_chosen() -> None:
    model = model_of(QUERIES)
    score = validation_score(PassContext(reference=model, validation=from_arrays({"x": samples(16, 40, 32)})))
    assert score is not None
    assert score(disturbed(model, 0.01)).value > 25
