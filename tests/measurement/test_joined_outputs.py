"""Outputs that a Concat joins of several: each part counts by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model.analysis.output_parts import OutputPart, output_parts
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.expose_logits import output_roles
from onnx_admm.passes.auto_quantize import AutoQuantize
from onnx_admm.runtime.evaluation import evaluate

RNG = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
WEIGHTS = {"v": RNG.normal(size=(16, 4)) * 100, "w": RNG.normal(size=(16, 6))}
JOINED = "b = MatMul (x, v) s = MatMul (x, w) p = Sigmoid (s)"
ROWS = "(float[N,7,16] x) => (float[N,7,10] y)"
TURNED = "(float[N,7,16] x) => (float[N,10,7] y)"


def net(signature: str, nodes: str) -> ModelView:
    constants = {name: array.astype(np.float32) for name, array in WEIGHTS.items()}
    return parse_text(f"{HEAD}{signature} {{ {nodes} }}", constants=constants)


BOXES, SCORES = OutputPart(2, 0, 4, 10), OutputPart(2, 4, 10, 10, "Sigmoid")


@pytest.mark.parametrize(
    ("signature", "end", "expected"),
    [
        (ROWS, "y = Concat <axis = 2> (b, p)", (BOXES, SCORES)),
        (ROWS, "y = Concat <axis = -1> (b, p)", (BOXES, SCORES)),
        (
            TURNED,
            "c = Concat <axis = 2> (b, p) y = Transpose <perm = [0, 2, 1]> (c)",
            (OutputPart(1, 0, 4, 10), OutputPart(1, 4, 10, 10, "Sigmoid")),
        ),
        (
            "(float[N,7,16] x) => (float[N,14,10] y)",
            "c = Concat <axis = 2> (b, p) d = Concat <axis = 2> (b, p) y = Concat <axis = 1> (c, d)",
            (BOXES, SCORES),
        ),
        (ROWS, "y = Concat <axis = 2> (b, s)", (BOXES, OutputPart(2, 4, 10, 10))),
    ],
)
def test_parts_are_read_off_the_graph(signature: str, end: str, expected: tuple[OutputPart, ...]) -> None:
    assert output_parts(net(signature, f"{JOINED} {end}")) == {"y": expected}


@pytest.mark.parametrize("end", ["y = Add (p, p)", "c = Concat <axis = 2> (b, p) y = Relu (c)"])
def test_other_outputs_have_none(end: str) -> None:
    assert output_parts(net("(float[N,7,16] x) => (float[N,7,k] y)", f"{JOINED} {end}")) == {}


def test_an_open_extent_is_no_part() -> None:
    joined = net(
        "(float[N,7,16] x, float[N,7,m] z) => (float[N,7,k] y)", f"{JOINED} y = Concat <axis = 2> (b, z)"
    )
    assert output_parts(joined) == {}


def test_scores_are_found_again_and_compared_about_their_mean() -> None:
    scores = RNG.normal(-6, 2, size=(3, 7, 6))
    joined = np.concatenate([np.zeros((3, 7, 4)), 1 / (1 + np.exp(-scores))], axis=2)
    np.testing.assert_allclose(SCORES.of(joined), scores, atol=1e-4)
    right, got = SCORES.pair(joined, joined)
    assert abs(right.mean()) < 1e-9
    np.testing.assert_array_equal(right, got)
    assert SCORES.of(np.zeros((3, 7, 12))).shape == (3, 7, 12)  # another extent: the whole


def test_scores_that_change_beside_large_boxes_count() -> None:
    model = net(ROWS, f"{JOINED} y = Concat <axis = 2> (b, p)")
    data = from_arrays({"x": RNG.normal(size=(32, 7, 16)).astype(np.float32)})
    shaken = (model.read("w") + RNG.normal(size=(16, 6)) * 0.3).astype(np.float32)
    error = OutputProbe(model, ["w"], data, threads=1).relative_error({"w": shaken})
    other = model.fork()
    other.replace("w", shaken)
    quality = evaluate(other, data, reference=model, roles=output_roles(model))
    whole, boxes, scores = (quality.sqnr_by_output[name] for name in ("y", "y[:, :, 0:4]", "y[:, :, 4:10]"))
    assert whole > 50
    assert boxes > 100
    assert scores == pytest.approx(-10 * math.log10(error), abs=0.5)
    assert 5 < scores < 20
    assert min(quality.judged_db.values()) == scores


def test_roundings_leave_the_scores_what_outputs_keep() -> None:
    model = net(ROWS, f"{JOINED} y = Concat <axis = 2> (b, p)")
    reference = model.fork()
    AutoQuantize().run(model, PassContext(reference=reference))
    data = from_arrays({"x": RNG.uniform(size=(64, 7, 16)).astype(np.float32)})
    quality = evaluate(model, data, reference=reference, roles=output_roles(reference))
    assert quality.sqnr_by_output["y[:, :, 4:10]"] > 20


def test_joined_numbers_of_classes_count_as_they_are() -> None:
    nodes = (
        "s = MatMul (x, w) a = ArgMax <axis = 2> (s) b = ArgMin <axis = 2> (s) y = Concat <axis = 2> (a, b)"
    )
    model = net("(float[N,7,16] x) => (int64[N,7,2] y)", nodes)
    assert output_parts(model) == {}
    data = from_arrays({"x": RNG.normal(size=(8, 7, 16)).astype(np.float32)})
    shaken = (model.read("w") + RNG.normal(size=(16, 6))).astype(np.float32)
    assert OutputProbe(model, ["w"], data, threads=1).relative_error({"w": shaken}) > 0.1


def test_one_value_that_is_no_number_hides_nothing() -> None:
    probabilities = 1 / (1 + np.exp(-RNG.normal(-4, 2, size=(3, 7, 6))))
    right = np.concatenate([np.zeros((3, 7, 4)), probabilities], axis=2)
    right[0, 0, 5] = np.nan
    found, _ = SCORES.pair(right, right)
    assert np.isfinite(found).sum() == found.size - 1


def test_a_step_of_half_floats_is_a_small_change_of_a_score() -> None:
    right = np.full((2, 3, 10), 0.9995, np.float16)
    got = np.nextafter(right, np.float16(2))
    assert np.abs(np.subtract(*SCORES.pair(right, got))).max() < 2.0


def test_numbers_of_classes_beside_boxes_are_no_part() -> None:
    nodes = "b = MatMul (x, v) s = MatMul (x, w) a = ArgMax <axis = 2> (s) c = Cast <to = 1> (a)"
    model = net("(float[N,7,16] x) => (float[N,7,5] y)", f"{nodes} y = Concat <axis = 2> (b, c)")
    assert output_parts(model) == {"y": (OutputPart(2, 0, 4, 5),)}


def test_samples_are_not_joined() -> None:
    model = net("(float[2,7,16] x) => (float[4,7,4] y)", "b = MatMul (x, v) y = Concat <axis = 0> (b, b)")
    assert output_parts(model) == {}


def test_deep_and_crossing_graphs_take_one_pass() -> None:
    """A chain beyond Python's recursion, and Concats whose paths double with each."""
    chain = "v0 = Identity (x) " + " ".join(f"v{i + 1} = Identity (v{i})" for i in range(1500))
    deep = net("(float[N,7,16] x) => (float[N,7,32] y)", f"{chain} y = Concat <axis = 2> (v1500, x)")
    assert output_parts(deep) == {"y": (OutputPart(2, 0, 16, 32), OutputPart(2, 16, 32, 32))}
    doubling = "v0 = Identity (x) " + " ".join(
        f"v{i + 1} = Concat <axis = {1 + i % 2}> (v{i}, v{i})" for i in range(30)
    )
    assert "y" in output_parts(net("(float[N,1,1] x) => (float[N,a,b] y)", f"{doubling} y = Identity (v30)"))
