"""Comparison of two models: what counts as rounding."""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.equivalence import find_difference, outputs_of

FAST_VARIANCE = """<ir_version: 8, opset_import: ["" : 17]> g (int64[N,6] x) => (float[N,6,16] y)
    <float[4,16] table, float[16] scale, float[16] shift, float epsilon = {%s}> {
        e = Gather (table, x)
        m = ReduceMean <axes = [-1]> (e)
        s = Mul (e, e)
        q = ReduceMean <axes = [-1]> (s)
        mm = Mul (m, m)
        v = Sub (q, mm)
        w = Add (v, epsilon)
        d = Sqrt (w)
        c = Sub (e, m)
        n = Div (c, d)
        a = Mul (n, scale)
        y = Add (a, shift)
    }"""
LAYER_NORM = """<ir_version: 8, opset_import: ["" : 17]> g (int64[N,6] x) => (float[N,6,16] y)
    <float[4,16] table, float[16] scale, float[16] shift> {
        e = Gather (table, x)
        y = LayerNormalization <epsilon = %s> (e, scale, shift)
    }"""


def model(text: str, epsilon: str, offset: float) -> ModelView:
    """The rows of the table lie near an offset: the variance is a small difference of large numbers."""
    made = parse_text(text % epsilon)
    rng = np.random.default_rng(0)
    made.write_back({"table": (offset + rng.normal(size=(4, 16))).astype(np.float32)})
    return made


def differ(before: ModelView, after: ModelView) -> bool:
    feeds = {"x": np.random.default_rng(1).integers(0, 4, (8, 6))}
    outputs = [outputs_of(each, feeds) for each in (before, after)]
    return find_difference(before, after, feeds, *outputs) is not None


def test_what_a_model_loses_itself_by_rounding_is_no_difference() -> None:
    """Inputs are integers: only a change of the weights shows how the model responds to rounding."""
    before, after = (model(text, "1e-5", 60.0) for text in (FAST_VARIANCE, LAYER_NORM))
    feeds = {"x": np.random.default_rng(1).integers(0, 4, (8, 6))}
    [one], [other] = (outputs_of(each, feeds) for each in (before, after))
    assert np.linalg.norm(one["y"] - other["y"]) > 1e-4 * np.linalg.norm(one["y"])
    assert not differ(before, after)


def test_another_function_is_a_difference() -> None:
    assert differ(model(FAST_VARIANCE, "1e-5", 0.0), model(LAYER_NORM, "1e-2", 0.0))
    assert not differ(model(FAST_VARIANCE, "1e-5", 0.0), model(LAYER_NORM, "1e-5", 0.0))


def test_another_shape_is_a_difference_whatever_the_noise() -> None:
    """The number of rows follows the inputs, so moving these in the last digits changes it."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[M,2] y) <float[1,2] w> {
        p = NonZero (x) t = Transpose <perm = [1, 0]> (p) c = Cast <to = 1> (t) y = %s }"""
    before = parse_text(text % "MatMul (c, w)")
    after = parse_text(
        (text % "Concat <axis = 0> (h, h)").replace("y = Concat", "h = MatMul (c, w) y = Concat")
    )
    feeds = {"x": np.ones(3, np.float32)}
    outputs = [outputs_of(each, feeds) for each in (before, after)]
    found = find_difference(before, after, feeds, *outputs)
    assert found is not None
    assert np.isinf(found.share)
