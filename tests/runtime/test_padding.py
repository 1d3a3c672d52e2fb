"""Padding does not count where models are compared."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.data import from_arrays
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.runtime.padding import real_places

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,5,4] x, int64[N,5] attention_mask) => (float[N,5,3] y)
    <float[4,3] w, int64[1] last = {2}> {
        m = Unsqueeze (attention_mask, last)  f = Cast <to = 1> (m)  s = MatMul (x, w)
        k = Mul (s, f)  y = SIDE (s, k)
    }"""
MODEL = parse_text(TEXT.replace("SIDE (s, k)", "Identity (s)"))
OTHER = parse_text(TEXT.replace("SIDE (s, k)", "Identity (k)"))
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
X = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)


def test_outputs_that_differ_at_padding_alone_are_the_same() -> None:
    OTHER.replace("w", MODEL.read("w"))
    quality = evaluate(OTHER, from_arrays({"x": X, "attention_mask": MASK}), reference=MODEL)
    assert quality.sqnr_db == quality.judged_db["y"] == 200.0
    ones = evaluate(OTHER, from_arrays({"x": X, "attention_mask": MASK * 0}), reference=MODEL)
    assert ones.sqnr_db is not None
    assert ones.sqnr_db < 1  # a mask of zeros alone tells of no padding


def test_the_error_of_an_exchange_is_that_of_real_places() -> None:
    probe = OutputProbe(MODEL, ["w"], from_arrays({"x": X, "attention_mask": MASK}), threads=1)
    weights = MODEL.read("w")
    other = weights + 0.1 * np.random.default_rng(1).standard_normal(weights.shape).astype(np.float32)
    expected, got = ((X @ w)[MASK == 1] for w in (weights, other))
    by_hand = np.square(got - expected).sum() / np.square(expected).sum()
    assert probe.relative_error({"w": other}) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("attention_mask", np.ones((2, 3))),
        ("mask", np.array([[0.0, -1e9]])),
        ("table", np.eye(2)),
        ("mask", np.eye(2)[None]),
    ],
)
def test_what_tells_of_no_padding(name: str, mask: np.ndarray) -> None:
    assert real_places({name: mask}) is None
