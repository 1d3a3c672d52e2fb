"""An Add of one constant per channel folded into the layer's bias: the same outputs, or a reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import assert_same_outputs, fold_with

from onnx_admm.contracts import PassReport
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.fold_bias import FoldBias

RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def model(body: str, shape: tuple[int, ...], opset: int = 17, **constants: np.ndarray) -> ModelView:
    inputs = f"float[{','.join(map(str, shape))}] x"
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (float y) {{ {body} }}'
    return parse_text(text, constants=constants)


def fold(view: ModelView) -> tuple[ModelView, PassReport]:
    return fold_with(FoldBias(), view)


IMAGES, ROWS = (2, 4, 5, 5), (5, 3)
FOLDED = {
    "Conv": ("c = Conv (x, w) y = Add (c, k)", IMAGES, {"w": f32(6, 4, 3, 3), "k": f32(6, 1, 1)}),
    "Conv, constant first": (
        "c = Conv (x, w) y = Add (k, c)",
        IMAGES,
        {"w": f32(6, 4, 3, 3), "k": f32(6, 1, 1)},
    ),
    "Conv with bias": (
        "c = Conv (x, w, b) y = Add (c, k)",
        IMAGES,
        {"w": f32(6, 4, 3, 3), "b": f32(6), "k": f32(1, 6, 1, 1)},
    ),
    "Conv and one number": (
        "c = Conv (x, w) y = Add (c, k)",
        IMAGES,
        {"w": f32(6, 4, 1, 1), "k": np.float32(3)},
    ),
    "Conv grouped": (
        "c = Conv <group = 2> (x, w) y = Add (c, k)",
        IMAGES,
        {"w": f32(6, 2, 3, 3), "k": f32(6, 1, 1)},
    ),
    "Conv 1-D": ("c = Conv (x, w) y = Add (c, k)", (2, 4, 9), {"w": f32(6, 4, 3), "k": f32(6, 1)}),
    "ConvTranspose grouped": (
        "c = ConvTranspose <group = 2> (x, w, b) y = Add (c, k)",
        IMAGES,
        {"w": f32(4, 3, 2, 2), "b": f32(6), "k": f32(6, 1, 1)},
    ),
    "Gemm": ("c = Gemm (x, w) y = Add (c, k)", ROWS, {"w": f32(3, 4), "k": f32(4)}),
    "Gemm transB beta": (
        "c = Gemm <transB = 1, alpha = 0.5, beta = 3.0> (x, w, b) y = Add (c, k)",
        ROWS,
        {"w": f32(4, 3), "b": f32(1, 4), "k": f32(1, 4)},
    ),
}

INTEGERS = {
    "first": np.array([0, 0, 0, 0]), "last": np.array([2**31 - 1] * 3 + [1]), "all": np.array([0, 1, 2, 3]),
    "four": np.array([3]), "two": np.array([2]), "minus": np.array([-1]), "one": np.array([1]),
    "zero": np.array([0]),
}  # fmt: skip
ALONE = (2, 4, 5, 1)
MOVED = {
    "Slice and Squeeze": (
        "c = Conv (x, w) s = Slice (c, first, last, all) q = Squeeze (s, four) y = Add (q, k)",
        ALONE,
        {"w": f32(6, 4, 3, 1), "k": f32(1, 6, 1)},
    ),
    "Transpose": (
        "c = Conv (x, w, b) t = Transpose <perm = [0, 2, 3, 1]> (c) y = Add (t, k)",
        IMAGES,
        {"w": f32(6, 4, 3, 3), "b": f32(6), "k": f32(6)},
    ),
    "Transpose without perm": (
        "c = Gemm (x, w) t = Transpose (c) y = Add (t, k)",
        ROWS,
        {"w": f32(3, 4), "k": f32(4, 1)},
    ),
    "Unsqueeze in front of the channels": (
        "c = Conv (x, w) u = Unsqueeze (c, one) y = Add (u, k)",
        IMAGES,
        {"w": f32(6, 4, 3, 3), "k": f32(6, 1, 1)},
    ),
    "all of them": (
        "c = ConvTranspose <group = 2> (x, w) u = Unsqueeze (c, minus) i = Identity (u)"
        " t = Transpose <perm = [4, 0, 1, 2, 3]> (i) s = Slice (t, one, two, four) q = Squeeze (s, zero)"
        " y = Add (k, q)",
        IMAGES,
        {"w": f32(4, 3, 2, 2), "k": f32(1, 6, 1, 1)},
    ),
}
FOLDED |= {
    case: (body, shape, {**constants, **{name: array for name, array in INTEGERS.items() if name in body}})
    for case, (body, shape, constants) in MOVED.items()
}


def test_axes_that_are_attributes() -> None:
    body = (
        "c = Conv (x, w) s = Slice <starts = [0, 1], ends = [99, 3], axes = [1, 2]> (c)"
        " q = Squeeze <axes = [3]> (s) u = Unsqueeze <axes = [0]> (q) y = Add (u, k)"
    )
    view = model(body, ALONE, opset=9, w=f32(6, 4, 1, 1), k=f32(6, 1))
    folded, report = fold(view)
    assert report.figures == {"folded": 1, "left": 0}
    assert_same_outputs(view, folded, ALONE)


@pytest.mark.parametrize("case", FOLDED)
@pytest.mark.parametrize("last", [True, False])
def test_outputs_stay_and_the_node_goes(case: str, last: bool) -> None:
    body, shape, constants = FOLDED[case]
    view = model(body if last else f"{body.replace('y =', 'z =')} y = Relu (z)", shape, **constants)
    folded, report = fold(view)
    assert (len(report.edits), report.skipped, report.figures) == (1, (), {"folded": 1, "left": 0})
    assert folded.nodes("Add") == ()
    assert_same_outputs(view, folded, shape)
    names = {tensor.name for tensor in onnx.load_from_string(folded.to_bytes()).graph.initializer}
    assert "k" not in names


def test_a_chain_folds_to_its_end() -> None:
    view = model("c = Conv (x, w) d = Add (c, k) y = Add (d, k)", IMAGES, w=f32(6, 4, 1, 1), k=f32(6, 1, 1))
    folded, report = fold(view)
    assert len(report.edits) == 2
    assert_same_outputs(view, folded, IMAGES)


def test_a_bias_of_two_layers_stays_for_the_other() -> None:
    body = "c = Conv (x, w, b) d = Add (c, k) e = Conv (d, u, b) y = Relu (e)"
    view = model(body, IMAGES, w=f32(4, 4, 1, 1), u=f32(4, 4, 1, 1), b=f32(4), k=f32(4, 1, 1))
    folded, report = fold(view)
    assert report.changed
    assert_same_outputs(view, folded, IMAGES)


def test_old_models_whose_initializers_are_inputs() -> None:
    text = """<ir_version: 3, opset_import: ["" : 7]>
        g (float[2,4,5,5] x, float[6,4,3,3] w, float[6,1,1] k) => (float[2,6,3,3] y)
        { c = Conv (x, w) y = Add (c, k) }"""
    view = parse_text(text, constants={"w": f32(6, 4, 3, 3), "k": f32(6, 1, 1)})
    folded, report = fold(view)
    assert report.changed
    onnx.checker.check_model(folded.to_bytes())
    assert_same_outputs(view, folded, IMAGES)


# why it stays: body, constants beside a weight of 6 channels
REFUSED = {
    "c, the value before it, is used elsewhere too": (
        "c = Conv (x, w) d = Add (c, k) y = Mul (c, d)",
        {"k": f32(6, 1, 1)},
    ),
    "not one number per channel": ("c = Conv (x, w) y = Add (c, k)", {"k": f32(5)}),
    "6 numbers are added to 1 channels": (
        "c = Conv (x, one) y = Add (c, k)",
        {"one": f32(1, 4, 1, 1), "k": f32(6, 1, 1)},
    ),
    "the layer's weight is not a stored constant": (
        "v = Abs (w) c = Conv (x, v) y = Add (c, k)",
        {"k": f32(6, 1, 1)},
    ),
    "the layer's bias is not a stored constant": (
        "v = Abs (b) c = Conv (x, w, v) y = Add (c, k)",
        {"b": f32(6), "k": f32(6, 1, 1)},
    ),
    "s between the two takes some of the channels only": (
        "c = Conv (x, w) s = Slice (c, start, end, start) y = Add (s, k)",
        {"start": np.array([1]), "end": np.array([4]), "k": f32(3, 1, 1)},
    ),
    "s, the value before it, is used elsewhere too": (
        "c = Conv (x, w) s = Slice (c, start, end, end) d = Add (s, k) y = Mul (s, d)",
        {"start": np.array([1]), "end": np.array([3]), "k": f32(6, 1, 1)},
    ),
    "s between the two has computed bounds": (
        "c = Conv (x, w) n = Abs (end) s = Slice (c, start, n) y = Add (s, k)",
        {"start": np.array([0]), "end": np.array([2]), "k": f32(6, 1, 1)},
    ),
    "q between the two removes axes that it does not name": (
        "c = Conv (x, w) q = Squeeze (c) y = Add (q, k)",
        {"k": f32(6, 1, 1)},
    ),
    "q between the two removes the axis of the channels": (
        "c = Conv (x, one) q = Squeeze (c, axis) y = Add (q, k)",
        {"one": f32(1, 4, 1, 1), "axis": np.array([1]), "k": f32(1, 1, 1)},
    ),
    "does not fit float32": (
        "c = Conv (x, w, b) y = Add (c, k)",
        {"b": np.full(6, 3e38, np.float32), "k": np.full((6, 1, 1), 3e38, np.float32)},
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_folded_stays_with_its_reason(why: str) -> None:
    body, constants = REFUSED[why]
    weight = {} if "one" in constants else {"w": f32(6, 4, 1, 1)}
    view = model(body, IMAGES, **weight, **constants)
    before = view.to_bytes()
    folded, report = fold(view)
    assert not report.changed
    (skip,) = report.skipped
    assert why in skip.why
    assert folded.to_bytes() == before


@pytest.mark.parametrize(
    "body",
    [
        "c = Relu (x) y = Add (c, k)",
        "c = Conv (x, w) r = Relu (c) y = Add (r, k)",
        "c = Conv (x, w) y = Add (c, x)",
        "c = Conv (x, w) y = Sub (c, k)",
    ],
)
def test_other_sums_are_none_of_its_business(body: str) -> None:
    constants = {"w": f32(4, 4, 1, 1), "k": f32(4, 1, 1)}
    used = {name: array for name, array in constants.items() if f"{name})" in body}
    _, report = fold(model(body, IMAGES, **used))
    assert (report.changed, report.skipped) == (False, ())


def test_before_opset_7_a_row_is_no_bias_without_an_attribute() -> None:
    body = "c = Gemm (x, w, b) y = Add (c, k)"
    _, report = fold(model(body, (1, 3), opset=6, w=f32(3, 4), b=f32(1, 4), k=f32(1, 4)))
    assert (report.changed, report.skipped) == (False, ())
