"""LayerNormalization: written out with the variance centred or fast, over the last axes or another one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from rewritten import assert_same, elementwise, kernels, operators, rewritten

from onnx_admm.contracts import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.rewrite_for_runtime import RewriteForRuntime
from onnx_admm.testing import check_pass

C = np.float32
DATA = {"x": np.random.default_rng(0).normal(0, 3, (2, 5, 7)).astype(C)}

# -- the centred variance, over the last axis ------------------------------------------------

MOMENTS = (
    "m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) s = Mul (d, d) v = ReduceMean <axes = [2]> (s)"
    " e = Add (v, eps) r = Sqrt (e) "
)
NORMS = {
    "affine": MOMENTS + "n = Div (d, r) g = Mul (n, scale) y = Add (g, shift)",
    "plain": MOMENTS + "y = Div (d, r)",
    "of a scale": MOMENTS + "n = Div (d, r) y = Mul (n, scale)",
    "inverse": MOMENTS + "i = Reciprocal (r) n = Mul (d, i) g = Mul (n, scale) y = Add (g, shift)",
    "inverse, scaled": MOMENTS + "i = Reciprocal (r) g = Mul (i, scale) n = Mul (d, g) y = Add (n, shift)",
    "split": MOMENTS
    + "i = Reciprocal (r) g = Mul (i, scale) n = Mul (x, g) o = Mul (m, g) p = Sub (shift, o) y = Add (n, p)",
}
PARAMETERS = {"scale": DATA["x"][0, 0], "shift": DATA["x"][0, 1], "eps": C(1e-5)}


@pytest.mark.parametrize("body", NORMS.values(), ids=NORMS)
def test_layer_norms_become_one_operator(body: str) -> None:
    view = elementwise(body, {k: v for k, v in PARAMETERS.items() if k in body})
    after, _ = rewritten(view, "layer_norm")
    assert operators(after) == ["LayerNormalization"]
    assert_same(view, after, DATA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ReduceMean <axes = [2]> (s)", "ReduceMean <axes = [1]> (s)"),
        ("s = Mul (d, d)", "s = Mul (d, x)"),
        ("d = Sub (x, m)", "d = Sub (m, x)"),
        ("n = Div (d, r)", "n = Div (r, d)"),
        ("n = Div (d, r)", "n = Div (x, r)"),
    ],
)
def test_what_is_no_layer_norm_stays(old: str, new: str) -> None:
    assert old in NORMS["affine"]
    assert not rewritten(elementwise(NORMS["affine"].replace(old, new), PARAMETERS), "layer_norm")[1].changed


def test_the_usual_layer_norm_is_left_to_the_runtime() -> None:
    body = NORMS["affine"].replace("Mul (d, d)", "Pow (d, two)")
    view = elementwise(body, {**PARAMETERS, "two": C(2)})
    assert not rewritten(view, "layer_norm")[1].changed


# -- the fast variance, over any axis --------------------------------------------------------

ROWS = {"x": np.random.default_rng(1).normal(1, 2, (2, 18, 24)).astype(C)}
SIZES = "n = Shape (x) first = Slice (n, zero_place, one_place)"


def wide(body: str, axis: int = 2, **constants: npt.ArrayLike) -> ModelView:
    """A model on (N, 18, 24) with the constants that its formula names."""
    extent = ROWS["x"].shape[axis]
    shape = [extent if place == axis else 1 for place in range(3)]
    rng, tail = np.random.default_rng(2), [1, 24] if axis == 1 else [18, 1]
    known = {
        "axis": np.array([axis]), "inverse": C(1 / extent), "count": C(extent), "zero": C(0), "two": C(2),
        "eps": C(1e-5), "scale": rng.normal(1, 1, shape).astype(C),
        "shift": rng.normal(0, 1, shape).astype(C), "tail_of_all": np.array(ROWS["x"].shape[1:]),
        "zero_place": np.array([0]), "one_place": np.array([1]), "unbiased": C(1 / (extent - 1)),
        "kept": np.array([-1, *tail]), "tail": np.array(tail), **constants,
    }  # fmt: skip
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
        net (float[N,18,24] x) => (float[N,18,24] y) {{ {body} }}"""
    return parse_text(text, constants={name: value for name, value in known.items() if name in body})


def with_sums(keepdims: int, back: str) -> str:
    """The fast form; ``back`` makes ``mb`` and ``vb`` of ``m`` and ``v``, which meet the data."""
    return (
        f"s = ReduceSum <keepdims = {keepdims}> (x, axis) m = Mul (s, inverse) q = Mul (x, x)"
        f" t = ReduceSum <keepdims = {keepdims}> (q, axis) e = Div (t, count) o = Mul (m, m) w = Sub (e, o)"
        f" v = Max (zero, w) {back} a = Add (vb, eps) r = Sqrt (a) i = Reciprocal (r) g = Mul (i, scale)"
        " d = Sub (x, mb) p = Mul (d, g) y = Add (p, shift)"
    )


BACK = {
    "kept axes": (1, "mb = Identity (m) vb = Identity (v)"),
    "Unsqueeze": (0, "mb = Unsqueeze (m, axis) vb = Unsqueeze (v, axis)"),
    "Reshape": (0, "mb = Reshape (m, kept) vb = Reshape (v, kept)"),
    "Expand to all elements": (
        1,
        f"{SIZES} all = Concat <axis = 0> (first, tail_of_all) mb = Expand (m, all) vb = Identity (v)",
    ),
}
CENTRED = (
    "m = ReduceMean <axes = [1]> (x) d = Sub (x, m) q = Pow (d, two) v = ReduceMean <axes = [1]> (q)"
    " a = Add (v, eps) r = Sqrt (a) n = Div (d, r) g = Mul (n, scale) y = Add (g, shift)"
)
TURNED = ["LayerNormalization", "Transpose", "Transpose"]


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(("keepdims", "back"), BACK.values(), ids=BACK)
def test_the_fast_variance_is_one(keepdims: int, back: str, axis: int) -> None:
    view = wide(with_sums(keepdims, back), axis)
    after, report = rewritten(view, "layer_norm")
    assert report.figures == {"layer_norm": 1}
    assert operators(after) == (["LayerNormalization"] if axis == 2 else TURNED)
    assert_same(view, after, ROWS)


def test_shapes_that_are_computed() -> None:
    """Reshape, then Expand, both to the extents of the input: as jax and tensorflow write it."""
    size = f"{SIZES} z = Concat <axis = 0> (first, tail)"
    back = f"{size} mr = Reshape (m, z) vr = Reshape (v, z) mb = Expand (mr, z) vb = Expand (vr, z)"
    for axis in (1, 2):
        view = wide(with_sums(0, back), axis)
        after, _ = rewritten(view, "layer_norm")
        assert operators(after) == (["LayerNormalization"] if axis == 2 else TURNED)
        assert_same(view, after, ROWS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Max (zero, w)", "Relu (w)"),
        ("q = Mul (x, x)", "q = Pow (x, two)"),
        ("v = Max (zero, w)", "v = Identity (w)"),
        ("s = ReduceSum <keepdims = 1> (x, axis) m = Mul (s, inverse)", "m = ReduceMean <axes = [2]> (x)"),
    ],
)
def test_other_forms_of_the_fast_variance(old: str, new: str) -> None:
    body = with_sums(*BACK["kept axes"])
    assert old in body
    view = wide(body.replace(old, new))
    after, _ = rewritten(view, "layer_norm")
    assert operators(after) == ["LayerNormalization"]
    assert_same(view, after, ROWS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Mul (s, inverse)", "Mul (s, unbiased)"),
        ("Div (t, count)", "Div (t, two)"),
        ("Sub (e, o)", "Sub (o, e)"),
        ("o = Mul (m, m)", "o = Mul (m, s)"),
        ("q = Mul (x, x)", "q = Mul (x, scale)"),
        ("Max (zero, w)", "Max (two, w)"),
        ("d = Sub (x, mb)", "d = Sub (x, vb)"),
        ("ReduceSum <keepdims = 1> (q, axis)", "ReduceSum <keepdims = 1> (q, one_place)"),
    ],
)
def test_what_is_no_fast_variance_stays(old: str, new: str) -> None:
    body = with_sums(*BACK["kept axes"])
    assert old in body
    assert not rewritten(wide(body.replace(old, new)), "layer_norm")[1].changed


SQUARE = with_sums(0, "mb = Unsqueeze (m, axis) vb = Unsqueeze (v, axis)")


def square(body: str) -> ModelView:
    """A model on (18, 18), where a mean over one axis may meet elements along the other."""
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
        net (float[18,18] x) => (float[18,18] y) {{ {body} }}"""
    parts = {
        "axis": np.array([1]), "other": np.array([0]), "inverse": C(1 / 18), "count": C(18), "zero": C(0),
        "eps": C(1e-5), "scale": np.ones(18, C), "shift": np.ones(18, C),
    }  # fmt: skip
    return parse_text(text, constants=parts)


def test_statistics_of_a_square() -> None:
    assert rewritten(square(SQUARE), "layer_norm")[1].changed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mb = Unsqueeze (m, axis)", "mb = Identity (m)"),
        ("vb = Unsqueeze (v, axis)", "vb = Identity (v)"),
        ("mb = Unsqueeze (m, axis)", "mb = Unsqueeze (m, other)"),
        ("ReduceSum <keepdims = 0> (q, axis)", "ReduceSum <keepdims = 0> (q, other)"),
    ],
)
def test_statistics_that_meet_other_elements_stay(old: str, new: str) -> None:
    assert old in SQUARE
    assert not rewritten(square(SQUARE.replace(old, new)), "layer_norm")[1].changed


def test_channels_of_images() -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
        net (float[N,18,3,4] x) => (float[N,18,3,4] y) {{ {CENTRED} }}"""
    rng = np.random.default_rng(4)
    parts = {"two": C(2), "eps": C(1e-5), "scale": rng.normal(1, 1, (18, 1, 1)).astype(C), "shift": C(0.5)}
    view = parse_text(text, constants=parts)
    after, _ = rewritten(view, "layer_norm")
    assert operators(after) == TURNED
    assert_same(view, after, {"x": rng.normal(1, 2, (2, 18, 3, 4)).astype(C)})


def test_a_centred_variance_over_another_axis() -> None:
    view = wide(CENTRED, 1)
    after, _ = rewritten(view, "layer_norm")
    assert operators(after) == TURNED
    assert_same(view, after, ROWS)


def test_a_short_axis_that_is_not_the_last_stays() -> None:
    """Two Transposes take longer than what they save."""
    body = NORMS["plain"].replace("axes = [-1]", "axes = [1]").replace("axes = [2]", "axes = [1]")
    assert not rewritten(elementwise(body, {"eps": PARAMETERS["eps"]}), "layer_norm")[1].changed


def test_parameters_along_another_axis_stay() -> None:
    other = np.random.default_rng(3).normal(1, 1, (1, 1, 24)).astype(C)
    assert not rewritten(wide(CENTRED, 1, scale=other), "layer_norm")[1].changed


# -- extents that follow from the batch ------------------------------------------------------

OF_ROWS = (
    "m = ReduceMean <axes = [{0}]> (r) d = Sub (r, m) s = Mul (d, d) v = ReduceMean <axes = [{0}]> (s)"
    " a = Add (v, eps) q = Sqrt (a) y = Div (d, q)"
)
SUM = "t = ReduceSum (r, both) m = Mul (t, inverse) d = Sub (r, m) s = Mul (d, d)"


@pytest.mark.parametrize(
    "body",
    [
        "r = Identity (x)" + OF_ROWS.format("0, 1"),  # a mean over the batch
        "r = Reshape (x, flat)" + OF_ROWS.format("0"),
        "r = Reshape (x, two_columns)" + OF_ROWS.format("0"),
        f"r = Identity (x) {SUM} v = ReduceMean <axes = [0, 1]> (s) a = Add (v, eps) q = Sqrt (a)"
        " y = Div (d, q)",
    ],
)
def test_axes_whose_extent_depends_on_the_batch_stay(body: str) -> None:
    """1/48 is the mean over (N, 16) for a batch of 3 alone."""
    known = {
        "eps": C(1e-5), "flat": np.array([-1]), "two_columns": np.array([-1, 2]), "both": np.array([0, 1]),
        "inverse": C(1 / 48),
    }  # fmt: skip
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,16] x) => (float y) {{ {body} }}"""
    view = parse_text(text, constants={name: value for name, value in known.items() if name in body})
    assert not rewritten(view, "layer_norm")[1].changed


def test_a_fixed_extent_beside_the_batch_is_known() -> None:
    body = "r = Reshape (x, columns)" + OF_ROWS.format("1")
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,16] x) => (float y) {{ {body} }}"""
    view = parse_text(text, constants={"eps": C(1e-5), "columns": np.array([-1, 8])})
    after, _ = rewritten(view, "layer_norm")
    assert operators(after) == ["LayerNormalization", "Reshape"]
    assert_same(view, after, {"x": np.random.default_rng(5).normal(0, 1, (5, 16)).astype(C)})


def test_a_mean_that_is_repeated_for_a_batch_of_3_alone_stays() -> None:
    """For one sample, the Expand makes three rows of one mean."""
    body = (
        "m = ReduceMean <axes = [1]> (x) w = Expand (m, rows) d = Sub (x, w) s = Mul (d, d)"
        " v = ReduceMean <axes = [1]> (s) a = Add (v, eps) q = Sqrt (a) y = Div (d, q)"
    )
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,16] x) => (float[M,16] y) {{ {body} }}"""
    view = parse_text(text, constants={"eps": C(1e-5), "rows": np.array([3, 1])})
    assert not rewritten(view, "layer_norm")[1].changed


def test_the_runtime_merges_the_transpositions_with_those_around() -> None:
    """Behind a LayerNormalization over the channels, (N, c, places) goes to (N, places, c) with no kernel."""
    view = wide(f"{CENTRED.replace('y = Add', 'h = Add')} y = Transpose <perm = [0, 2, 1]> (h)", 1)
    after, _ = rewritten(view, "layer_norm")
    assert operators(after) == [*TURNED, "Transpose"]
    assert kernels(after) == {"LayerNormalization": 1, "Transpose": 1}


def test_the_contract_holds_where_it_changes_something() -> None:
    models = {name: elementwise(body, PARAMETERS) for name, body in NORMS.items() if "shift" in body}
    models |= {
        f"fast, {name}": wide(with_sums(*back), axis) for axis in (1, 2) for name, back in BACK.items()
    }
    outcomes = check_pass(RewriteForRuntime(), models)
    assert set(outcomes.values()) == {"changed"}
