"""BatchNormalization folded into the layer before it: the same outputs, or a reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import assert_same_outputs, fold_with

from onnx_admm.contracts import PassReport
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.fold_batchnorm import FoldBatchNorm
from onnx_admm.runtime.sessions import open_session

RNG = np.random.default_rng(0)
NORM = "s, t, m, v"


def f32(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def statistics(channels: int) -> dict[str, np.ndarray]:
    """gamma, beta, mean, variance: far from 1, 0, 0, 1."""
    return {
        "s": f32(channels) + 2,
        "t": f32(channels),
        "m": f32(channels),
        "v": RNG.uniform(0.2, 3, channels).astype(np.float32),
    }


def model(body: str, opset: int = 17, **constants: np.ndarray) -> ModelView:
    return parse_text(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}', constants=constants)


def fold(view: ModelView) -> tuple[ModelView, PassReport]:
    return fold_with(FoldBatchNorm(), view)


# layer, shape of x, constants beside the statistics, channels
FOLDED = {
    "Conv": ("c = Conv (x, w, b)", (2, 3, 5, 5), {"w": f32(4, 3, 3, 3), "b": f32(4)}, 4),
    "Conv without bias": ("c = Conv (x, w)", (2, 3, 5, 5), {"w": f32(4, 3, 3, 3)}, 4),
    "Conv 1-D": ("c = Conv (x, w)", (2, 3, 5), {"w": f32(4, 3, 3)}, 4),
    "Conv grouped": ("c = Conv <group = 2> (x, w, b)", (2, 4, 5, 5), {"w": f32(6, 2, 3, 3), "b": f32(6)}, 6),
    "ConvTranspose": ("c = ConvTranspose (x, w, b)", (2, 3, 4, 4), {"w": f32(3, 5, 2, 2), "b": f32(5)}, 5),
    "ConvTranspose grouped": (
        "c = ConvTranspose <group = 2, strides = [2, 2]> (x, w)",
        (2, 6, 4, 4),
        {"w": f32(6, 4, 2, 2)},
        8,
    ),
    "Conv plus channels": (
        "d = Conv (x, w, b) c = Add (d, k)",
        (2, 3, 5, 5),
        {"w": f32(4, 3, 3, 3), "b": f32(4), "k": f32(1, 4, 1, 1)},
        4,
    ),
    "Conv plus a number": (
        "d = Conv (x, w) c = Add (k, d)",
        (2, 3, 5, 5),
        {"w": f32(4, 3, 3, 3), "k": f32(1)},
        4,
    ),
    "Gemm": ("c = Gemm (x, w, b)", (5, 3), {"w": f32(3, 4), "b": f32(4)}, 4),
    "Gemm transB alpha beta": (
        "c = Gemm <transB = 1, alpha = 0.5, beta = 3.0> (x, w, b)",
        (5, 3),
        {"w": f32(4, 3), "b": f32(1, 4)},
        4,
    ),
    "Gemm beta zero": ("c = Gemm <beta = 0.0> (x, w, b)", (5, 3), {"w": f32(3, 4), "b": f32(4)}, 4),
    "Gemm beta without C": ("c = Gemm <beta = 0.0, transA = 1> (x, w)", (3, 5), {"w": f32(3, 4)}, 4),
    "Gemm scalar C": ("c = Gemm <beta = 2.0> (x, w, b)", (5, 3), {"w": f32(3, 4), "b": np.float32(3)}, 4),
    "MatMul": ("c = MatMul (x, w)", (5, 3), {"w": f32(3, 4)}, 4),
    "MatMul Add": ("d = MatMul (x, w) c = Add (d, b)", (5, 3), {"w": f32(3, 4), "b": f32(4)}, 4),
    "Add MatMul": ("d = MatMul (x, w) c = Add (b, d)", (5, 3), {"w": f32(3, 4), "b": f32(1, 4)}, 4),
}


@pytest.mark.parametrize("case", FOLDED)
@pytest.mark.parametrize("last", [True, False])
def test_outputs_stay_and_the_node_goes(case: str, last: bool) -> None:
    layer, shape, constants, channels = FOLDED[case]
    end, rest = ("y", "") if last else ("n", "y = Relu (n)")
    body = f"""g (float[{",".join(map(str, shape))}] x) => (float y)
        {{ {layer} [norm] {end} = BatchNormalization <epsilon = 0.01> (c, {NORM}) {rest} }}"""
    view = model(body, **constants, **statistics(channels))
    folded, report = fold(view)
    assert [edit.what for edit in report.edits] == ["folded BatchNormalization norm in"]
    assert (report.skipped, report.figures) == ((), {"folded": 1, "left": 0})
    assert folded.nodes("BatchNormalization") == ()
    assert_same_outputs(view, folded, shape)
    names = {tensor.name for tensor in onnx.load_from_string(folded.to_bytes()).graph.initializer}
    assert names.isdisjoint("stmv")


def test_a_chain_folds_to_its_end() -> None:
    body = f"""g (float[1,3,5,5] x) => (float y)
        {{ c = Conv (x, w) d = BatchNormalization (c, {NORM}) y = BatchNormalization (d, {NORM}) }}"""
    view = model(body, w=f32(4, 3, 3, 3), **statistics(4))
    folded, report = fold(view)
    assert len(report.edits) == 2
    assert_same_outputs(view, folded, (1, 3, 5, 5))


def test_statistics_shared_by_two_layers_and_a_shared_bias() -> None:
    body = f"""g (float[1,4,5,5] x) => (float y)
        {{
            a = Conv (x, w, b) c = BatchNormalization (a, {NORM})
            d = Conv (c, u, b) y = BatchNormalization (d, {NORM})
        }}"""
    view = model(body, w=f32(4, 4, 1, 1), u=f32(4, 4, 1, 1), b=f32(4), **statistics(4))
    folded, report = fold(view)
    assert len(report.edits) == 2
    assert_same_outputs(view, folded, (1, 4, 5, 5))


def test_constant_nodes() -> None:
    body = f"""g (float[1,2] x) => (float y)
        {{
            k = Constant <value = float[2] {{5, 6}}> ()
            c = Gemm (x, w, k)
            y = BatchNormalization (c, {NORM})
        }}"""
    view = model(body, w=f32(2, 2), **statistics(2))
    folded, report = fold(view)
    assert report.changed
    assert_same_outputs(view, folded, (1, 2))


def test_old_opsets_fold_too() -> None:
    body = f"g (float[1,3,5,5] x) => (float y) {{ c = Conv (x, w) y = BatchNormalization (c, {NORM}) }}"
    view = model(body, opset=7, w=f32(4, 3, 3, 3), **statistics(4))
    folded, report = fold(view)
    assert report.changed
    assert_same_outputs(view, folded, (1, 3, 5, 5))


def test_inside_a_branch() -> None:
    body = f"""g (float[1,3] x, bool k) => (float[1,4] y)
        {{
            y = If (k) <
                then_branch = yes () => (float[1,4] p)
                    {{ c = Gemm (x, w) p = BatchNormalization (c, {NORM}) }},
                else_branch = no () => (float[1,4] q) {{ q = Gemm (x, u) }}
            >
        }}"""
    view = model(body, w=f32(3, 4), u=f32(3, 4), **statistics(4))
    folded, report = fold(view)
    assert report.changed
    feeds = {"x": f32(1, 3), "k": np.array(True)}
    before, after = (open_session(m.to_bytes(), threads=1).run(feeds)["y"] for m in (view, folded))
    np.testing.assert_allclose(after, before, rtol=1e-4)


# why it stays: body, shape of x, constants, channels, opset
REFUSED = {
    "used elsewhere too": (f"c = Conv (x, w) n = BatchNormalization (c, {NORM}) y = Add (c, n)", 17),
    "weight is used elsewhere too": (
        f"c = Conv (x, w) n = BatchNormalization (c, {NORM}) d = Conv (x, w) y = Add (n, d)",
        17,
    ),
    "training mode": (
        f"c = Conv (x, w) y, a, b = BatchNormalization <training_mode = 1> (c, {NORM})",
        17,
    ),
    "before it is Relu": (f"c = Conv (x, w) r = Relu (c) y = BatchNormalization (r, {NORM})", 17),
    "nothing in the same graph computes": (f"y = BatchNormalization (x, {NORM})", 17),
    "one of its parameters is not a stored constant": (
        "c = Conv (x, w) q = Abs (p) y = BatchNormalization (c, s, t, m, q)",
        17,
    ),
    "the layer's weight is not a stored constant": (
        f"k = Mul (w, p4) c = Conv (x, k) y = BatchNormalization (c, {NORM})",
        17,
    ),
    "Add of two computed values": (
        f"c = Conv (x, w) r = Relu (x) d = Add (c, r) y = BatchNormalization (d, {NORM})",
        17,
    ),
    "not one number per channel": (
        f"c = Conv (x, w) d = Add (c, wide) y = BatchNormalization (d, {NORM})",
        17,
    ),
    "may have more than two axes": (f"c = MatMul (x, square) y = BatchNormalization (c, {NORM})", 17),
    "spatial": (f"c = Conv (x, w) y = BatchNormalization <spatial = 0> (c, {NORM})", 7),
    "variance is not positive": (
        "c = Conv (x, w) y = BatchNormalization (c, s, t, m, negative)",
        17,
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_folded_stays_with_its_reason(why: str) -> None:
    body, opset = REFUSED[why]
    inputs = "float[1,4,4,4] x, float[4] p, float[1] p4"
    constants = {
        "w": f32(4, 4, 1, 1),
        "square": f32(4, 4),
        "wide": f32(4),
        "negative": -np.ones(4, np.float32),
    }
    used = {
        name: array for name, array in constants.items() if name in body.replace("(", " ").replace(")", " ")
    }
    view = model(f"g ({inputs}) => (float y) {{ {body} }}", opset, **used, **statistics(4))
    before = view.to_bytes()
    folded, report = fold(view)
    assert not report.changed
    (skip,) = report.skipped
    assert why in skip.why
    assert folded.to_bytes() == before


# data, constant: numpy's rules for MatMul of vectors and stacks; channels of the output's axis 1
PRODUCTS_OF_OTHER_AXES = {
    "vector as long as the channels": ((2, 6, 6), (6,), 6),
    "vector of another length": ((2, 6, 5), (5,), 6),
    "stack of one matrix": ((4, 5), (1, 5, 6), 4),
    "matrix behind a stack": ((2, 6, 5), (5, 6), 6),
}


@pytest.mark.parametrize("case", PRODUCTS_OF_OTHER_AXES)
@pytest.mark.parametrize("added", [False, True])
def test_a_product_whose_channels_are_not_the_constants_columns_stays(case: str, added: bool) -> None:
    shape, weight, channels = PRODUCTS_OF_OTHER_AXES[case]
    layer = "d = MatMul (x, w) c = Add (d, k)" if added else "c = MatMul (x, w)"
    body = f"""g (float[{",".join(map(str, shape))}] x) => (float y)
        {{ {layer} y = BatchNormalization (c, {NORM}) }}"""
    constants = {"w": f32(*weight), **({"k": f32(1)} if added else {})}
    folded, report = fold(model(body, **constants, **statistics(channels)))
    assert not report.changed
    assert "MatMul" in report.skipped[0].why
    assert len(folded.nodes("BatchNormalization")) == 1


def test_a_gemm_bias_that_differs_by_row_stays() -> None:
    body = f"g (float[4,3] x) => (float y) {{ c = Gemm (x, w, b) y = BatchNormalization (c, {NORM}) }}"
    folded, report = fold(model(body, w=f32(3, 4), b=f32(4, 1), **statistics(4)))
    assert "differs from row to row" in report.skipped[0].why
    assert len(folded.nodes("BatchNormalization")) == 1


def test_a_result_beyond_float16_stays() -> None:
    constants = {name: array.astype(np.float16) for name, array in statistics(4).items()}
    constants["s"] = np.full(4, 6e4, np.float16)
    body = f"g (float16[1,3] x) => (float16 y) {{ c = Gemm (x, w) y = BatchNormalization (c, {NORM}) }}"
    _, report = fold(model(body, w=np.full((3, 4), 9, np.float16), **constants))
    assert "does not fit float16" in report.skipped[0].why


def test_a_model_without_batchnorm_is_left_unchanged(tiny_conv: ModelView) -> None:
    before = tiny_conv.to_bytes()
    folded, report = fold(tiny_conv)
    assert not report.changed
    assert folded.to_bytes() == before
