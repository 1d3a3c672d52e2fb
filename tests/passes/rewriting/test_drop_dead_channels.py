"""DropDeadChannels: what is proved dead goes, the outputs stay, what cannot be proved stays and says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import CONV_NET, MLP, KeepForDeployment

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.drop_dead_channels import DropDeadChannels
from onnx_admm.runtime.sessions import open_session

UNPADDED = (
    CONV_NET.replace("Conv <pads = [1, 1, 1, 1]>", "Conv")
    .replace("float[N,1,8,8] x", "float[N,1,14,14] x")
    .replace("[3,24] w3", "[3,24] w3")
)

RESIDUAL = """
    <ir_version: 10, opset_import: ["" : 17]>
    residual (float[N,2,6,6] x) => (float[N,3] scores)
    <float[4,2,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[4] b2, float[4,3] w3, float[3] b3,
     float[4] gain, float[4] shift, float[4] mean, float[4] spread = {1.0, 2.0, 0.5, 1.5}>
    {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        n = BatchNormalization (c, gain, shift, mean, spread)
        s = Add (n, r)
        t = Relu (s)
        m = GlobalAveragePool (t)
        f = Flatten (m)
        scores = Gemm (f, w3, b3)
    }
"""


def drop(view: ModelView) -> tuple[ModelView, PassReport]:
    fork = view.fork()
    return fork, DropDeadChannels().run(fork, PassContext(reference=view))


def shapes(view: ModelView) -> dict[str, tuple[int, ...]]:
    return {site.name: site.shape for site in view.sites()}


def zero(view: ModelView, name: str, *where: object) -> None:
    array = view.read(name)
    array[tuple(where)] = 0  # type: ignore[arg-type]
    view.replace(name, array)


def assert_equal_outputs(before: ModelView, after: ModelView) -> None:
    (port,) = before.signature().inputs
    shape = [extent if isinstance(extent, int) else 3 for extent in port.shape or ()]
    feeds = {port.name: np.random.default_rng(2).standard_normal(shape).astype(np.float32)}
    expected = open_session(before, threads=1).run(feeds)
    assert after.signature() == before.signature()
    assert expected
    for name, values in open_session(after, threads=1).run(feeds).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)


EVERY = slice(None)


def test_channels_that_nothing_reads_go_through_pooling_and_flatten(
    tmp_path: Path, keep_for_deployment: KeepForDeployment
) -> None:
    view = parse_text(CONV_NET)
    zero(view, "w3", EVERY, slice(4, 12))  # channels 1 and 2 of the second convolution, four columns each
    zero(view, "w2", EVERY, 3)
    small, report = drop(view)
    assert shapes(small) == {"w1": (3, 1, 3, 3), "w2": (4, 3, 3, 3), "w3": (3, 16)}
    assert report.figures == {"channels_dropped": 3}
    assert_equal_outputs(view, small)
    samples = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    small.save(tmp_path / "small.onnx")
    expected = open_session(view, threads=1).run({"x": samples})
    keep_for_deployment(tmp_path / "small.onnx", {"x": samples}, expected)


def test_a_channel_that_goes_makes_others_unread() -> None:
    view = parse_text(CONV_NET)
    zero(view, "w3", EVERY, slice(0, 20))  # leaves the last channel of the second convolution
    zero(view, "w2", 5, slice(0, 3))  # which reads only the last of the first
    small, _ = drop(view)
    assert shapes(small) == {"w1": (1, 1, 3, 3), "w2": (1, 1, 3, 3), "w3": (3, 4)}
    assert_equal_outputs(view, small)


@pytest.mark.parametrize("bias", [-0.5, 0.0])
def test_a_channel_that_a_relu_holds_at_zero_goes_even_before_padding(bias: float) -> None:
    view = parse_text(CONV_NET)
    zero(view, "w1", 2)
    view.write_back({"b1": np.array([0.1, 0.2, bias, 0.3], np.float32)})
    small, _ = drop(view)
    assert shapes(small)["w1"] == (3, 1, 3, 3)
    assert_equal_outputs(view, small)


def test_a_constant_before_padding_stays() -> None:
    view = parse_text(CONV_NET)
    zero(view, "w1", 2)
    view.write_back({"b1": np.array([0.1, 0.2, 0.7, 0.3], np.float32)})
    small, report = drop(view)
    assert not report.changed
    assert shapes(small) == shapes(view)


def test_a_constant_is_taken_in_by_the_next_bias() -> None:
    view = parse_text(UNPADDED)
    zero(view, "w1", 2)
    zero(view, "w2", 1)
    view.write_back({"b1": np.array([0.1, 0.2, 0.7, 0.3], np.float32), "b2": np.full(6, 0.9, np.float32)})
    small, _ = drop(view)
    assert shapes(small) == {"w1": (3, 1, 3, 3), "w2": (5, 3, 3, 3), "w3": (3, 20)}
    assert_equal_outputs(view, small)


def test_a_layer_without_a_bias_gets_one_for_a_constant() -> None:
    view = parse_text(UNPADDED.replace("(p1, w2, b2)", "(p1, w2)").replace(" float[6] b2,", ""))
    zero(view, "w1", 0)
    view.write_back({"b1": np.full(4, 0.4, np.float32)})
    small, _ = drop(view)
    assert shapes(small)["w1"] == (3, 1, 3, 3)
    assert small.nodes("Conv")[1].input(2) is not None
    assert_equal_outputs(view, small)


def test_alpha_and_beta_of_a_gemm_count() -> None:
    text = MLP.replace("Gemm <transB = 1>", "Gemm <transB = 1, alpha = 0.5, beta = 2.0>")
    view = parse_text(text)
    zero(view, "w1", EVERY, 5)
    view.write_back({"b1": np.full(16, 0.25, np.float32)})
    small, _ = drop(view)
    assert shapes(small) == {"w1": (8, 15), "w2": (3, 15)}
    assert_equal_outputs(view, small)


def test_branches_that_are_added_go_together_or_not_at_all() -> None:
    view = parse_text(RESIDUAL)
    zero(view, "w3", 2)  # nothing reads channel 2 behind the Add, but the second convolution does before it
    _, report = drop(view)
    assert not report.changed
    zero(view, "w2", EVERY, 2)
    small, report = drop(view)
    assert shapes(small) == {"w1": (3, 2, 3, 3), "w2": (3, 3, 3, 3), "w3": (3, 3)}
    assert_equal_outputs(view, small)


def test_a_constant_passes_batch_normalisation_and_add() -> None:
    view = parse_text(RESIDUAL)
    zero(view, "w1", 1)
    zero(view, "w2", 1)
    view.write_back({"b1": np.array([0.1, -0.2, 0.3, 0.1], np.float32)})
    view.write_back({"shift": np.array([0.1, 0.8, 0.3, 0.1], np.float32)})
    small, _ = drop(view)
    assert shapes(small)["w3"] == (3, 3)
    assert_equal_outputs(view, small)


def test_an_explicit_reshape_is_rewritten() -> None:
    text = CONV_NET.replace(
        "flat = Flatten (p2)", "to = Constant <value = int64[2] {-1, 24}> ()\n flat = Reshape (p2, to)"
    )
    view = parse_text(text)
    zero(view, "w3", EVERY, slice(4, 8))
    small, _ = drop(view)
    assert shapes(small)["w3"] == (3, 20)
    assert_equal_outputs(view, small)


def test_one_channel_of_each_layer_stays() -> None:
    view = parse_text(CONV_NET)
    zero(view, "w2", EVERY)
    small, _ = drop(view)
    assert min(min(shape) for shape in shapes(small).values()) >= 1
    assert_equal_outputs(view, small)
    again, report = drop(small)
    assert not report.changed
    assert shapes(again) == shapes(small)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CONV_NET.replace("r2 = Relu (a2)", "r2 = LRN <size = 3> (a2)"), "may not keep channels apart"),
        (CONV_NET.replace("r1 = Relu (a1)", "r1 = Softmax <axis = 1> (a1)"), "mixes channels"),
        (MLP, "an output of the model"),
    ],
)
def test_what_is_not_understood_stays_and_says_why(text: str, reason: str) -> None:
    view = parse_text(text)
    zero(view, view.sites()[1].name, EVERY, 0)
    _, report = drop(view)
    assert any(reason in skip.why for skip in report.skipped), report.skipped


def test_channels_at_one_place_of_each_group_of_a_convolution_go_together() -> None:
    text = CONV_NET.replace("float[6,4,3,3] w2", "float[6,2,3,3] w2").replace(
        "a2 = Conv <pads = [1, 1, 1, 1]>", "a2 = Conv <pads = [1, 1, 1, 1], group = 2>"
    )
    view = parse_text(text)
    zero(view, "w2", slice(0, 3), 0)  # the first group alone does not read its first channel
    _, report = drop(view)
    assert not report.changed
    zero(view, "w2", slice(3, 6), 0)
    small, _ = drop(view)
    assert shapes(small) == {"w1": (2, 1, 3, 3), "w2": (6, 1, 3, 3), "w3": (3, 24)}
    assert_equal_outputs(view, small)


def test_tied_weights_stay() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 17]>
        tied (float[N,6] x) => (float[N,6] y) <float[6,6] w>
        { a = MatMul (x, w) r = Relu (a) y = MatMul (r, w) }"""
    view = parse_text(text)
    zero(view, "w", EVERY, 2)
    zero(view, "w", 2)
    _, report = drop(view)
    assert not report.changed


GEMM_BIASES = {
    "a row": (8,),
    "a row of two axes": (1, 8),
    "a column": (4, 1),
    "a column as long as the channels": (8, 1),
    "a matrix": (4, 8),
    "one number": (1,),
    "one number of two axes": (1, 1),
    "a scalar": (),
}


@pytest.mark.parametrize("case", GEMM_BIASES)
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_a_gemm_bias_of_any_shape_is_cut_along_the_channels_alone(case: str, beta: float) -> None:
    shape = GEMM_BIASES[case]
    batch = shape[0] if len(shape) == 2 and shape[0] > 1 else 4
    rng = np.random.default_rng(3)
    constants = {"a": rng.normal(size=(16, 8)), "c": rng.normal(size=shape), "b": rng.normal(size=(8, 5))}
    constants["a"][:, [2, 5]] = 0  # what these give is the bias alone, which may differ from row to row
    constants["b"][3] = 0
    text = f"""<ir_version: 8, opset_import: ["" : 13]> g (float[{batch},16] x) => (float[{batch},5] y)
        {{ t = Gemm <beta = {beta}> (x, a, c) r = Relu (t) y = Gemm (r, b) }}"""
    view = parse_text(text, constants={name: array.astype(np.float32) for name, array in constants.items()})
    small, report = drop(view)
    assert report.changed
    kept = shapes(small)["a"][1]
    assert kept == (7 if "column" in case or "matrix" in case else 5)
    assert_equal_outputs(view, small)


def test_a_gemm_bias_whose_rows_are_equal_is_a_constant() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(16, 8)).astype(np.float32), rng.normal(size=(8, 5)).astype(np.float32)
    a[:, 2] = 0
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[4,16] x) => (float[4,5] y)
        { t = Gemm (x, a, c) y = Gemm (t, b, d) }"""
    constants = {"a": a, "b": b, "c": np.full((4, 1), 0.5, np.float32), "d": np.zeros((4, 1), np.float32)}
    view = parse_text(text, constants=constants)
    small, _ = drop(view)
    assert shapes(small) == {"a": (16, 7), "b": (7, 5)}
    assert_equal_outputs(view, small)


def test_an_add_that_gives_the_value_another_axis_keeps_the_outputs() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[4,6] x) => (float[1,4,3] y)
        <float[6,4] w, float[4,3] v, float[1,1,4] k, float[4] s, float[4] t, float[4] m,
         float[4] q = {1.0, 2.0, 0.5, 1.5}>
        { a = Gemm (x, w) h = Add (a, k) n = BatchNormalization (h, s, t, m, q) y = MatMul (n, v) }"""
    view = parse_text(text)
    zero(view, "w", EVERY, 1)
    zero(view, "v", 1)
    small, report = drop(view)
    assert report.changed
    assert_equal_outputs(view, small)


@pytest.mark.parametrize(
    ("channels", "dead", "left"),
    [
        (32, 1, 32),
        (32, 15, 32),
        (32, 16, 16),
        (32, 17, 16),
        (32, 31, 16),
        (24, 3, 24),
        (24, 8, 16),
        (20, 1, 19),
    ],
)
def test_a_convolution_stays_on_the_grid_of_the_runtime(channels: int, dead: int, left: int) -> None:
    """31 channels take 1.4 times as long as 32: those that leave the grid stay, as zeros."""
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,3,6,6] x) => (float[N,5,2,2] y)
    <float[{channels},3,3,3] w1, float[5,{channels},3,3] w2>
    {{ h = Conv (x, w1) r = Relu (h) y = Conv (r, w2) }}"""
    model = parse_text(text)
    zero(model, "w1", slice(0, dead))
    after, report = drop(model)
    assert shapes(after)["w1"][0] == left
    assert report.changed == (left < channels)
    assert_equal_outputs(model, after)
    assert not DropDeadChannels().run(after, PassContext(reference=after)).changed


def test_neurons_of_a_product_have_no_grid() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,6] x) => (float[N,4] y) <float[6,32] w1, float[32,4] w2>
    { h = MatMul (x, w1) y = MatMul (h, w2) }"""
    model = parse_text(text)
    zero(model, "w1", slice(None), slice(0, 1))
    assert shapes(drop(model)[0])["w1"] == (6, 31)
