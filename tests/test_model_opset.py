"""Opset and IR conversion on a copy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_admm.errors import UnsupportedModel
from onnx_admm.model import ModelView, convert_opset, lower_ir_version
from onnx_admm.runtime.sessions import open_session

OLD = """
    <ir_version: 3, opset_import: ["" : 7], metadata_props: ["k" : "v"]>
    g (float[1,6] x, float[6,4] w, float[4] b) => (float[1,4] y)
    <float[6,4] w = {1,-2,3,-4,5,-6,7,-8,9,-1,2,-3,4,-5,6,-7,8,-9,1,-2,3,-4,5,-6}, float[4] b = {1,2,3,4}>
    {
        q = Squeeze <axes = [0]> (x)
        u = Unsqueeze <axes = [0]> (q)
        h = Gemm (u, w, b)
        y = Softmax (h)
    }
"""


def parsed(text: str) -> ModelView:
    return ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString())


def outputs(view: ModelView | bytes) -> dict[str, np.ndarray]:
    feeds = {"x": np.linspace(-0.1, 0.1, 6, dtype=np.float32).reshape(1, 6)}
    return open_session(view, threads=1).run(feeds)


@pytest.mark.parametrize("lowest", [9, 11, 13, 17, 21])
def test_an_old_model_is_raised_with_its_names(lowest: int) -> None:
    old = parsed(OLD)
    raised = convert_opset(old, at_least=lowest)
    assert (raised.opset, old.opset) == (lowest, 7)
    assert raised.signature() == old.signature()
    assert [site.name for site in raised.sites()] == ["w"]
    assert raised.metadata["k"] == "v"
    np.testing.assert_allclose(outputs(raised)["y"], outputs(old)["y"], rtol=1e-6)


def test_a_model_within_the_range_comes_back_as_a_copy(tiny_mlp: ModelView) -> None:
    copy = convert_opset(tiny_mlp, at_least=13, at_most=21)
    assert copy.to_bytes() == tiny_mlp.to_bytes()
    copy.replace("w1", np.zeros((8, 16), np.float32))
    assert tiny_mlp.read("w1").any()


NEW = """
    <ir_version: 13, opset_import: ["" : 25, "own" : 1]>
    g (float[N,1,4,4] x, bool c) => (float[N,2] y) <float[2,1,3,3] k, float[8,2] w>
    {
        a = Conv (x, k)
        b = own.flat (a)
        y = If (c) <
            then_branch = yes () => (float[N,2] p) { p = MatMul (b, w) },
            else_branch = no () => (float[N,2] q) { m = MatMul (b, w) q = Softmax (m) }
        >
    }
    <domain: "own", opset_import: ["" : 25]> flat (i) => (o) { r = Round (i) o = Flatten (r) }
"""


needs_opset_25 = pytest.mark.skipif(
    onnx.defs.onnx_opset_version() < 25, reason="needs an onnx that knows opset 25"
)


@needs_opset_25
def test_a_new_model_is_lowered_subgraphs_and_functions_included() -> None:
    proto = onnx.parser.parse_model(NEW)
    rng = np.random.default_rng(0)
    for value, shape in zip(list(proto.graph.value_info), ((2, 1, 3, 3), (8, 2)), strict=True):
        array = rng.normal(0, 3, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    del proto.graph.value_info[:]
    view = ModelView.from_bytes(proto.SerializeToString())
    lowered = convert_opset(view, at_most=21)
    assert lowered.opset == 21
    data = lower_ir_version(lowered.to_bytes(), 10)
    saved = onnx.load_from_string(data)
    assert saved.ir_version == 10
    assert {o.version for f in saved.functions for o in f.opset_import} == {21}
    feeds = {"x": rng.normal(size=(3, 1, 4, 4)).astype(np.float32), "c": np.array(False)}
    expected = onnx.reference.ReferenceEvaluator(onnx.load_from_string(view.to_bytes())).run(None, feeds)
    np.testing.assert_allclose(open_session(data, threads=1).run(feeds)["y"], expected[0], atol=1e-5)
    assert view.ir_version == 13


@needs_opset_25
def test_an_attribute_of_the_newer_opset_is_not_dropped() -> None:
    text = """<ir_version: 13, opset_import: ["" : 25]> g (float[N] x) => (float8e8m0[N] y)
    { y = Cast <to = 24, round_mode = "nearest"> (x) }"""
    with pytest.raises(UnsupportedModel, match="25 to 21"):
        convert_opset(parsed(text), at_most=21)


def test_a_meaning_that_changes_out_of_the_converters_reach_is_refused() -> None:
    text = """
    <ir_version: 7, opset_import: ["" : 11]>
    g (float[2,3,4] x, bool c) => (float[2,3,4] y)
    {
        [choice] y = If (c) <
            then_branch = yes () => (float[2,3,4] p) { [soft] p = Softmax (x) },
            else_branch = no () => (float[2,3,4] q) { q = Relu (x) }
        >
    }"""
    with pytest.raises(UnsupportedModel, match=r"node soft: Softmax in a subgraph .* opset 13"):
        convert_opset(parsed(text), at_least=13)


def test_what_the_converter_cannot_do_names_the_node() -> None:
    text = """<ir_version: 8, opset_import: ["" : 14]> g (float[N,4] x) => (float[N,4] y)
    { [hard] y = HardSwish (x) }"""
    with pytest.raises(UnsupportedModel, match=r"opset 14 to 13: node hard \(HardSwish\)"):
        convert_opset(parsed(text), at_most=13)
