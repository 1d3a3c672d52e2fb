"""Opset and IR conversion on a copy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_admm.errors import UnsupportedModel
from onnx_admm.model import ModelView, convert_opset, lower_ir_version
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.opsets import steps
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


IN_BODIES = """
    <ir_version: 8, opset_import: ["" : 11, "own" : 1]>
    g (float[2,3,4] x, bool c) => (float[2,3,4] y, float[2,3,4] z)
    {
        y = If (c) <
            then_branch = yes () => (float[2,3,4] p) { [soft] p = Softmax (x) },
            else_branch = no () => (float[2,3,4] q) { [hard] q = Hardmax (x) }
        >
        z = own.clipped (x)
    }
    <domain: "own", opset_import: ["" : 11]> clipped (i) => (o)
    { s = LogSoftmax <axis = 1> (i) u = Unsqueeze <axes = [0]> (s) o = Squeeze <axes = [0]> (u) }
"""


@pytest.mark.parametrize("branch", [True, False])
def test_nodes_of_subgraphs_and_functions_are_converted(branch: bool) -> None:
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32), "c": np.array(branch)}
    old = parsed(IN_BODIES)
    expected = open_session(old, threads=1).run(feeds)
    raised = convert_opset(old, at_least=13)
    proto = onnx.load_from_string(raised.to_bytes())
    assert {o.version for f in proto.functions for o in f.opset_import} == {13}
    got = open_session(raised, threads=1).run(feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6)
    assert not np.allclose(expected["y"].sum(axis=-1), 1)  # over the last axis alone it would be


def test_an_attribute_that_a_caller_sets_is_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 11, "own" : 1]> g (float[2,3] x) => (float[2,3] y)
    { y = own.soft <a = 1> (x) }
    <domain: "own", opset_import: ["" : 11]> soft <a> (i) => (o) { o = Softmax <axis : int = @a> (i) }"""
    with pytest.raises(UnsupportedModel, match=r"node o \(Softmax\).*axis comes from whoever calls"):
        convert_opset(parsed(text), at_least=13)


SIZES = """
    <ir_version: 4, opset_import: ["" : 9]>
    g (float[n,4,6,6] x) => (float[n,8,h2,w2] y) <float[8,4,3,3] w, float[8] b>
    { t = Conv (x, w, b) y = Relu (t) }
"""


@pytest.mark.parametrize("sizes", ["n,8,h2,w2", "n,c,4,4", "m,8,4,4", "a,b,c,d", "n,8,4,4"])
@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_declared_sizes_of_outputs_stay(sizes: str, opset: int) -> None:
    text = SIZES.replace("n,8,h2,w2", sizes).replace(": 9]", f": {opset}]")
    old = parse_text(text)
    raised = convert_opset(old, at_least=13)
    assert raised.signature() == old.signature()
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    before, after = (open_session(view, threads=1).run(feeds)["y"] for view in (old, raised))
    np.testing.assert_array_equal(after, before)


def test_a_newer_form_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(edit: steps.NodeEdit) -> None:
        edit.set("axis", -1)

    monkeypatch.setitem(steps.STEPS, ("Softmax", 13), wrong)
    text = """<ir_version: 7, opset_import: ["" : 11]> g (float[2,3,4] x) => (float[2,3,4] y)
    { r = Relu (x) [soft] y = Softmax (r) }"""
    with pytest.raises(UnsupportedModel, match=r"node soft \(Softmax\).* gives other values"):
        convert_opset(parsed(text), at_least=13)


REFUSED = {
    "statistics of every activation": (
        7,
        "y = BatchNormalization <spatial = 0> (x, s, s, s, s)",
        "float[2,3] x, float[3] s",
        "spatial = 0",
    ),
    "a mask that is read": (10, "y, m = Dropout (x) z = Cast <to = 1> (m)", "float[2,3] x", "mask"),
    "a mode that is gone": (
        11,
        'y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, r, s)',
        "float[2,3] x, float[0] r, float[2] s",
        "tf_half_pixel_for_nn",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_newer_form_is_refused_with_its_reason(case: str) -> None:
    opset, body, inputs, why = REFUSED[case]
    text = f'<ir_version: 7, opset_import: ["" : {opset}]> g ({inputs}) => (float y) {{ {body} }}'
    with pytest.raises(UnsupportedModel, match=why):
        convert_opset(parsed(text), at_least=21)


def test_a_shape_that_nobody_knows_is_no_hindrance() -> None:
    text = """<ir_version: 7, opset_import: ["" : 11, "com.microsoft" : 1]>
    g (float[2,3,4] x) => (float[2,3,4] y) { h = com.microsoft.Gelu (x) y = Softmax (h) }"""
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
    old = parsed(text)
    before, after = (
        open_session(v, threads=1).run(feeds)["y"] for v in (old, convert_opset(old, at_least=13))
    )
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_what_has_no_older_form_names_the_node() -> None:
    text = """<ir_version: 8, opset_import: ["" : 14]> g (float[N,4] x) => (float[N,4] y)
    { [hard] y = HardSwish (x) }"""
    with pytest.raises(UnsupportedModel, match=r"opset 14 to 13: node hard \(HardSwish\)"):
        convert_opset(parsed(text), at_most=13)


def test_a_mask_that_nothing_reads_is_dropped() -> None:
    text = """<ir_version: 4, opset_import: ["" : 9]> g (float[2,3] x) => (float[2,3] y)
    { d, mask = Dropout <ratio = 0.25> (x) y = Relu (d) }"""
    raised = convert_opset(parsed(text), at_least=13)
    feeds = {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}
    np.testing.assert_array_equal(open_session(raised, threads=1).run(feeds)["y"], np.maximum(feeds["x"], 0))


@pytest.mark.parametrize("scales", [(1, 1, 2, 1.5), (1, 1, 0.75, 0.6), (1, 1, 1.7, 0.75), (1, 1, 1, 1)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("target", [11, 13, 19])
def test_computed_scales_of_a_resize_may_enlarge_and_shrink(
    scales: tuple[float, ...], mode: str, target: int
) -> None:
    text = f"""<ir_version: 5, opset_import: ["" : 10]> g (float[1,2,7,8] x, float[4] s) => (float[1,2,p,q] y)
    {{ y = Resize <mode = "{mode}"> (x, s) }}"""
    x = np.random.default_rng(0).normal(size=(1, 2, 7, 8)).astype(np.float32)
    feeds = {"x": x, "s": np.array(scales, np.float32)}
    old = parsed(text)
    raised = convert_opset(old, at_least=target)
    before, after = (open_session(view, threads=1, optimize=False).run(feeds)["y"] for view in (old, raised))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)
