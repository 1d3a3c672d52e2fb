"""Models in float16 that compute in float32: same inputs, outputs and values; the model itself stays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.contracts import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.full_floats import store_as_half, with_full_floats
from onnx_admm.runtime.sessions import open_session

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
# Constants are bit patterns: 14336 is 0.5, 15872 is 1.5, 16384 is 2.0, 16896 is 3.0.
BODIES = {
    "plain": "(float16[N,8] x) => (float16[N,4] y) { a = MatMul (x, w) y = Relu (a) }",
    "casts": "(float[N,8] x) => (float[N,4] y)"
    " { h = Cast <to = 10> (x) a = MatMul (h, w) y = Cast <to = 1> (a) }",
    "constants": "(float16[N,8] x) => (float16[N,4] y) <float16 half = {14336}> "
    "{ k = Constant <value = float16[1] {16384}> () a = MatMul (x, w) b = Mul (a, k) y = Sub (b, half) }",
    "output_is_read": "(float16[N,8] x) => (float16[N,4] a, float16[N,4] y)"
    " { a = MatMul (x, w) y = Tanh (a) }",
    "input_is_output": "(float16[N,8] x) => (float16[N,8] z, float16[N,4] y)"
    " { z = Identity (x) y = MatMul (x, w) }",
    "branch": "(float16[N,8] x, bool c) => (float16[N,4] y) { a = MatMul (x, w) y = If (c) <"
    " then_branch = yes () => (float16[N,4] t) { t = Add (a, a) },"
    " else_branch = no () => (float16[N,4] t)"
    " { k = Constant <value = float16[1] {16896}> () t = Mul (a, k) } > }",
    "input_passed_on": "(float16[N,8] x) => (float16[N,8] x, float16[N,4] y) { y = MatMul (x, w) }",
    "filled": "(float16[N,8] x) => (float16[N,4] y) { a = MatMul (x, w) s = Shape (a)"
    " f = ConstantOfShape <value = float16[1] {15872}> (s) y = Add (a, f) }",
}


def model(name: str) -> ModelView:
    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float16)
    return parse_text(HEAD + BODIES[name], constants={"w": weight})


def feeds(view: ModelView) -> dict[str, npt.NDArray[np.generic]]:
    x = np.random.default_rng(1).normal(size=(5, 8))
    types = {port.name: port.dtype for port in view.signature().inputs}
    return {n: np.array(True) if kind == "bool" else x.astype(kind) for n, kind in types.items()}


@pytest.mark.parametrize("name", BODIES)
def test_outputs_stay_and_nothing_inside_is_half(name: str) -> None:
    view = model(name)
    before = view.to_bytes()
    full = with_full_floats(view)
    assert view.to_bytes() == before
    assert full.signature() == view.signature()
    assert all(site.dtype == "float32" for site in full.sites())
    expected = open_session(view, threads=1).run(feeds(view))
    for optimize in (True, False):
        got = open_session(full, threads=1, optimize=optimize).run(feeds(view))
        for output, values in expected.items():
            assert got[output].dtype == values.dtype
            np.testing.assert_allclose(got[output], values, rtol=5e-3, atol=5e-3)


def test_a_function_in_half_leaves_the_model_as_it_is() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
    g (float16[N,8] x) => (float16[N,4] y) { a = f.twice (x) y = MatMul (a, w) }
    <opset_import: ["" : 17], domain: "f"> twice (x) => (y)
    { k = Constant <value = float16[1] {16384}> () y = Mul (x, k) }"""
    view = parse_text(text, constants={"w": np.ones((8, 4), np.float16)})
    assert with_full_floats(view) is view


def test_weights_are_stored_in_half_again_where_that_is_exact() -> None:
    full = with_full_floats(model("plain"))
    expected = open_session(full, threads=1).run(feeds(model("plain")))["y"]
    store_as_half(full, ["w", "no such name"])
    assert [port.dtype for port in (full.nodes("Cast")[0].inputs) if port is not None] == ["float16"]
    assert full.sites()[0].fixed is None
    np.testing.assert_array_equal(open_session(full, threads=1).run(feeds(model("plain")))["y"], expected)
    other = with_full_floats(model("plain"))
    other.replace("w", np.full((8, 4), 0.1, np.float32))
    before = other.to_bytes()
    store_as_half(other, ["w"])
    assert other.to_bytes() == before
