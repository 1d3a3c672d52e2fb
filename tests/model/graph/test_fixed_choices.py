"""Models that choose rows by their scores are compared with the same rows chosen in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_admm.api import compare, compress
from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.class_axis import class_axis
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.comparing.fixed_choices import choosing_operators, with_fixed_choices
from onnx_admm.runtime.sessions import open_session

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


def samples(count: int, *shape: int) -> np.ndarray:
    return RNG.normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("text", [QUERIES, SUPPRESSED])
def test_the_chosen_rows_do_not_depend_on_the_weights(text: str) -> None:
    model = model_of(text)
    other = model.fork()
    for site in model.sites():
        array = model.read(site)
        noise = RNG.normal(0, 0.02 * np.std(array), array.shape)
        other.replace(site.name, (array + noise).astype(np.float32))
    feeds = {"x": samples(3, 40, 32)}
    first, second = (open_session(with_fixed_choices(each), threads=1).run(feeds) for each in (model, other))
    for name, array in first.items():
        assert second[name].shape == array.shape
        error = np.linalg.norm(second[name].astype(float) - array) / np.linalg.norm(array)
        assert error < 0.1, name
    plain = open_session(model, threads=1).run(feeds)
    assert {name: array.dtype for name, array in first.items()} == {n: a.dtype for n, a in plain.items()}


def test_rows_of_a_top_k_are_those_of_their_indices() -> None:
    model = with_fixed_choices(model_of(QUERIES))
    found = open_session(model, threads=1).run({"x": samples(2, 40, 32)})
    assert [array.shape for array in found.values()] == [(2, 11), (2, 11), (2, 11, 4)]
    assert found["labels"].tolist() == [[10 * n % 3 for n in range(11)]] * 2


def test_boxes_of_every_sample_are_chosen() -> None:
    model = with_fixed_choices(model_of(SUPPRESSED))
    feeds = {"x": samples(3, 40, 32)}
    found = open_session(model, threads=1).run(feeds)["found"]
    assert found.shape == (3 * 40, 4)
    apart = open_session(model, threads=1).run({"x": feeds["x"][2:]})["found"]
    np.testing.assert_allclose(found[80:], apart, rtol=1e-5)


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
    assert any("same rows chosen" in row[0] for row in found.rows())
