"""Models that draw random numbers are measured with the same draws in every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnx_admm.api.compress import compress
from onnx_admm.model import ModelView
from onnx_admm.model.rewrite.comparing.fixed_draws import random_operators, with_fixed_draws
from onnx_admm.runtime.sessions import open_session


def parse(text: str, opset: int = 17) -> ModelView:
    full = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    return ModelView.from_bytes(full.SerializeToString())


def drawn(body: str, x: np.ndarray, dtype: str = "float", opset: int = 17) -> np.ndarray:
    constants = "<float ratio = {0.25}, bool yes = {1}>"
    model = parse(f"g (float[n,m] x) => ({dtype}[a,b] y) {constants} {{ {body} }}", opset)
    session = open_session(model, threads=1)
    first, second = (session.run({"x": x})["y"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    again = open_session(model, threads=1, optimize=False).run({"x": x})["y"]
    np.testing.assert_array_equal(first, again)
    assert len(random_operators(model)) == 1
    return first


@pytest.mark.parametrize("opset", [11, 14, 17])
@pytest.mark.parametrize(
    ("body", "mean", "deviation"),
    [
        ("y = RandomNormalLike <mean = 2.0, scale = 3.0> (x)", 2, 3),
        ("y = RandomUniformLike <low = -1.0, high = 3.0> (x)", 1, 4 / 12**0.5),
        ("y = RandomNormal <shape = [50, 60]> ()", 0, 1),
        ("y = RandomUniform <shape = [50, 60]> ()", 0.5, 1 / 12**0.5),
    ],
)
def test_draws_have_their_distribution(body: str, mean: float, deviation: float, opset: int) -> None:
    y = drawn(body, np.zeros((50, 60), np.float32), opset=opset)
    assert y.shape == (50, 60)
    assert y.mean() == pytest.approx(mean, abs=0.15)
    assert y.std() == pytest.approx(deviation, rel=0.05)


def test_dropout_in_training_mode_keeps_its_share_and_scales_it() -> None:
    y = drawn("y = Dropout (x, ratio, yes)", np.ones((50, 60), np.float32))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert (y > 0).mean() == pytest.approx(0.75, abs=0.04)


def test_bernoulli_and_multinomial_follow_their_probabilities() -> None:
    y = drawn("y = Bernoulli (x)", np.full((50, 60), 0.3, np.float32))
    assert y.mean() == pytest.approx(0.3, abs=0.04)
    logits = np.log(np.tile(np.array([[0.7, 0.2, 0.1]], np.float32), (40, 1)))
    z = drawn("y = Multinomial <sample_size = 50> (x)", logits, "int32")
    assert z.shape == (40, 50)
    np.testing.assert_allclose(np.bincount(z.reshape(-1)) / z.size, [0.7, 0.2, 0.1], atol=0.04)


def test_draws_of_no_elements_and_in_subgraphs() -> None:
    body = """g (float[n,m] x, bool c) => (float[a,b] y) {
        y = If (c) <then_branch = t () => (float[a,b] z) { z = RandomNormalLike (x) },
                    else_branch = e () => (float[a,b] w) { w = RandomUniformLike (x) }> }"""
    model = parse(body)
    assert random_operators(model) == {"RandomNormalLike": 1, "RandomUniformLike": 1}
    session = open_session(model, threads=1)
    for shape in ((0, 3), (2, 0, 3)[:2], (4, 3)):
        feeds = {"x": np.zeros(shape, np.float32), "c": np.array(True)}
        first, second = (session.run(feeds)["y"] for _ in range(2))
        assert first.shape == shape
        np.testing.assert_array_equal(first, second)


def test_a_model_that_draws_nothing_is_itself() -> None:
    text = "g (float[n,m] x) => (float[n,m] y) { z = Dropout (x)  y = Relu (z) }"
    model = parse(text)
    assert with_fixed_draws(model) is model


def test_the_bare_command_compresses_a_model_that_differs_from_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = """g (float[N,32] x) => (float[N,32] y) {
        a = MatMul (x, w1)  n = RandomNormalLike (a)  b = Add (a, n)  c = Relu (b)  y = MatMul (c, w2) }"""
    full = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, shape in (("w1", (32, 256)), ("w2", (256, 32))):
        array = (rng.standard_normal(shape) / 8).astype(np.float32)
        full.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(full, tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert report.comparison.file_ratio > 2.5
    assert report.comparison.quality[0].sqnr_db is not None
    assert report.comparison.quality[0].sqnr_db > 20
    assert any("draws random numbers (1 RandomNormalLike)" in note for note in report.notes)
    assert random_operators(ModelView.load(tmp_path / "out.onnx")) == {"RandomNormalLike": 1}
