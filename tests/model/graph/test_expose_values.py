"""Inner values as outputs: exactly what computes them is kept, in subgraphs and functions too."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.errors import UsageError
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.expose_values import expose_values
from onnx_admm.runtime.sessions import open_session

LOOP = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4] x) => (float[N,4] y)
    <int64 count = {3}, float[4,4] w, float[4,4] v>
    {
        h = MatMul (x, w)
        y = Loop (count, , h) <body = step (int64 i, bool c, float[N,4] s) => (bool d, float[N,4] t) {
            d = Identity (c)
            m = MatMul (s, v)
            t = Add (m, h)
        }>
    }"""
FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[N,4] x, float[4,4] w) => (float[N,4] z) <float[4,4] v>
    { y = own.twice (x, w) z = MatMul (y, v) }
    <domain: "own", opset_import: ["" : 17]> twice (a, b) => (d) { c = MatMul (a, b) d = MatMul (c, b) }"""
X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


def names(model: ModelView) -> set[str]:
    return set(model.graph_ir.graph.initializers)


def test_what_only_a_removed_loop_reads_goes_with_it() -> None:
    model = parse_text(LOOP)
    assert names(expose_values(model, ["h"])) == {"w"}
    assert names(expose_values(model, ["y"])) == names(model) == {"count", "w", "v"}


@pytest.mark.parametrize(("text", "inner"), [(LOOP, "h"), (LOOP, "y"), (FUNCTION, "y")])
def test_values_are_those_inside_the_model(text: str, inner: str) -> None:
    model = parse_text(text)
    before = model.to_bytes()
    feeds = {"x": X, "w": np.eye(4, dtype=np.float32) * 2} if text is FUNCTION else {"x": X}
    shown = expose_values(model, [inner])
    (found,) = open_session(shown, threads=1).run(feeds).values()
    if text is FUNCTION:
        expected = X * 4
    else:
        w, v = (model.read(site) for site in model.sites())
        expected = h = X @ w
        for _ in range(3 if inner == "y" else 0):
            expected = expected @ v + h
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert [port.name for port in shown.signature().inputs] == [
        port.name for port in model.signature().inputs
    ]
    assert model.to_bytes() == before


def test_what_no_node_computes_is_refused() -> None:
    with pytest.raises(UsageError, match="no node of the main graph computes that value"):
        expose_values(parse_text(LOOP), ["h", "w"])
