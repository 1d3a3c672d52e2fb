"""Refits do not depend on earlier ones of the same layer."""

from __future__ import annotations

import numpy as np
from removal_samples import samples

from onnx_admm.calibration.stream import Calibration, LayerTarget
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.removal.readers import Refitting, whole_layer

TEXT = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,6] x) => (float[N,3] y) <float[6,4] w1, float[4] b1, float[4,3] w2, float[3] b2>
    { a = Gemm (x, w1, b1)
      r = Relu (a)
      y = Gemm (r, w2, b2) }"""


def refit(calibration: Calibration, name: str, targets: dict[str, LayerTarget]) -> np.ndarray:
    """The bias after a refit of one layer of a fork without w1's second half, and after another one."""
    model = calibration.original.fork()
    weights = model.read("w1")
    weights[:, 2:] = 0
    model.replace("w1", weights)
    biases = []
    for _ in range(2):
        reader = whole_layer(model, model.site(name))
        assert reader is not None
        assert reader.layer.bias is not None
        refitting = Refitting(calibration, model, targets)
        problems, moments = refitting.problems([reader])
        refitting.refit([reader], problems, moments, np.zeros(0, np.int64))
        biases.append(reader.layer.bias.read(reader.layer.extractors[0].layout.rows))
    return np.array(biases)


def test_a_second_refit_begins_with_the_bias_of_the_original() -> None:
    view = parse_text(TEXT)
    first, second = refit(Calibration(view, samples(view), threads=1), "w2", {})
    assert np.abs(first - second).max() < 1e-6
    assert np.abs(first - view.nodes("Gemm")[1].inputs[2].constant()).max() > 1e-3  # type: ignore[union-attr]


def test_a_layer_with_a_target_computes_the_stated_value() -> None:
    view = parse_text(TEXT.replace("float[4] b1", "float[4] b1, float[6,3] w3, float[3] b3").replace(
        "y = Gemm (r, w2, b2)", "z = Gemm (r, w2, b2)\n q = Gemm (x, w3, b3)\n y = Add (q, z)"
    ))  # fmt: skip
    target = LayerTarget("q", np.zeros((6, 3), np.float32))
    calibration = Calibration(view, samples(view), ridge=1e-9, threads=1)
    model = view.fork()
    model.replace("w3", np.ones((6, 3), np.float32))
    reader = whole_layer(model, model.site("w3"))
    assert reader is not None
    refitting = Refitting(calibration, model, {"w3": target})
    problems, moments = refitting.problems([reader])
    errors = refitting.refit([reader], problems, moments, np.zeros(0, np.int64))
    assert errors["w3"] < 1e-9
    assert np.allclose(model.read("w3"), view.read("w3"), atol=1e-4)
