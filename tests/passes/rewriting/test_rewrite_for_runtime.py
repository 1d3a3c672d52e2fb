"""RewriteForRuntime: what exporters wrote out becomes one operator, and computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from rewritten import assert_same, elementwise, operators, rewritten

from onnx_admm.contracts import ModelView
from onnx_admm.errors import RecipeError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.rewrite_for_runtime import RewriteForRuntime
from onnx_admm.testing import check_pass

C = np.float32


SCALES = {
    "half": C(0.5), "one": C(1), "three": C(3), "six": C(6), "zero": C(0), "sixth": C(1 / 6), "minus": C(-1),
    "k": C(0.044715), "q": C(0.7978846), "root": C(1.4142135), "inverse": C(0.70710678), "third": C(1 / 3),
}  # fmt: skip
DATA = {"x": np.random.default_rng(0).normal(0, 3, (2, 5, 7)).astype(C)}


def named(body: str, opset: int = 17) -> ModelView:
    """A model of one formula, with the constants that it names."""
    return elementwise(body, {name: value for name, value in SCALES.items() if f"{name}" in body}, opset)


TANH = {
    "products": "a = Mul (x, x) b = Mul (a, x) c = Mul (b, k) d = Add (x, c) e = Mul (d, q) t = Tanh (e)"
    " u = Add (t, one) v = Mul (x, u) y = Mul (v, half)",
    "a power, half first": "b = Pow (x, three) c = Mul (k, b) d = Add (c, x) e = Mul (q, d) t = Tanh (e)"
    " u = Add (one, t) h = Mul (half, x) y = Mul (h, u)",
    "factored": "a = Mul (x, x) c = Mul (a, k) d = Add (c, one) p = Mul (x, q) e = Mul (p, d) t = Tanh (e)"
    " u = Add (t, one) w = Mul (u, half) y = Mul (x, w)",
}
ERF = {
    "by a product": "a = Mul (x, inverse) t = Erf (a) h = Mul (t, half) u = Add (h, half) y = Mul (x, u)",
    "half in front": "a = Mul (x, inverse) t = Erf (a) u = Add (t, one) h = Mul (x, half) y = Mul (h, u)",
}


@pytest.mark.parametrize("body", [*TANH.values(), *ERF.values()], ids=[*TANH, *ERF])
def test_gelus_become_one_operator(body: str) -> None:
    view = named(body)
    after, report = rewritten(view, "gelu")
    assert operators(after) == ["Gelu"]
    assert report.figures == {"gelu": 1}
    assert after.opset == 20
    assert_same(view, after, DATA)


WRONG_GELUS = {
    "another cubic": TANH["products"].replace("Mul (b, k)", "Mul (b, half)"),
    "another scale": TANH["products"].replace("Mul (d, q)", "Mul (d, half)"),
    "another factor": TANH["products"].replace("Mul (v, half)", "Mul (v, third)"),
    "minus one": TANH["products"].replace("u = Add (t, one)", "u = Sub (t, one)"),
    "erf of something else": ERF["by a product"].replace("Mul (x, inverse)", "Mul (x, half)"),
}


@pytest.mark.parametrize("body", WRONG_GELUS.values(), ids=WRONG_GELUS)
def test_what_is_no_gelu_stays(body: str) -> None:
    assert not rewritten(named(body), "gelu")[1].changed


def test_a_gelu_that_the_runtime_fuses_stays() -> None:
    usual = "a = Div (x, root) t = Erf (a) u = Add (t, one) v = Mul (x, u) y = Mul (v, half)"
    assert not rewritten(named(usual), "gelu")[1].changed


def test_an_inner_value_that_is_read_elsewhere_stays() -> None:
    body = TANH["products"].replace("y = Mul (v, half)", "z = Mul (v, half) y = Add (z, t)")
    assert not rewritten(named(body), "gelu")[1].changed


def test_the_opset_is_raised_no_further_than_allowed() -> None:
    after, report = rewritten(named(TANH["products"]), "gelu", most_opset=19)
    assert not report.changed
    assert after.opset == 17
    assert "needs opset 20" in report.skipped[0].why


@pytest.mark.parametrize(
    ("body", "rule", "expected"),
    [
        ("a = Add (x, three) b = Clip (a, zero, six) y = Div (b, six)", "hard_sigmoid", ["HardSigmoid"]),
        (
            "a = Add (x, three) b = Clip (a, zero, six) c = Mul (x, b) y = Div (c, six)",
            "hard_sigmoid",
            ["HardSigmoid", "Mul"],
        ),
        (
            "a = Add (x, three) b = Clip (a, zero, six) c = Mul (b, sixth) y = Mul (x, c)",
            "hard_sigmoid",
            ["HardSigmoid", "Mul"],
        ),
        ("a = Neg (x) b = Exp (a) c = Add (b, one) y = Div (one, c)", "sigmoid", ["Sigmoid"]),
        ("a = Mul (x, minus) b = Exp (a) c = Add (b, one) y = Reciprocal (c)", "sigmoid", ["Sigmoid"]),
        ("a = Neg (x) b = Exp (a) c = Add (one, b) y = Div (x, c)", "sigmoid", ["Mul", "Sigmoid"]),
    ],
)
def test_other_activations(body: str, rule: str, expected: list[str]) -> None:
    view = named(body)
    after, _ = rewritten(view, rule)
    assert operators(after) == expected
    assert_same(view, after, DATA)


@pytest.mark.parametrize(
    "body",
    [
        "a = Add (x, three) b = Clip (a, zero, three) y = Div (b, six)",
        "a = Add (x, one) b = Clip (a, zero, six) y = Div (b, six)",
        "a = Add (x, three) b = Clip (a, zero, six) y = Div (b, three)",
        "a = Exp (x) c = Add (a, one) y = Div (one, c)",
        "a = Neg (x) b = Exp (a) c = Add (b, three) y = Div (one, c)",
    ],
)
def test_what_is_no_known_activation_stays(body: str) -> None:
    assert not rewritten(named(body), "hard_sigmoid", "sigmoid")[1].changed


# -- lookups and pools -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_one_hot_products_become_lookups_for_any_id(dtype: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
        net ({dtype}[N,9] ids) => (float[N,9,4] y) <float[6,4] table>
        {{ c = Unsqueeze (ids, last) o = Equal (c, rows) f = Cast <to = 1> (o) y = MatMul (f, table) }}"""
    view = parse_text(text, constants={"last": np.array([2]), "rows": np.arange(6).astype(dtype)})
    after, _ = rewritten(view, "one_hot_product")
    assert "MatMul" not in operators(after)
    assert "Gather" in operators(after)
    assert_same(view, after, {"ids": np.array([[-7, -1, 0, 1, 4, 5, 6, 7, 100]] * 2).astype(dtype)})


def test_numbers_in_another_order_are_no_one_hot() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
        net (int64[N,9] ids) => (float[N,9,4] y) <float[6,4] table>
        { c = Unsqueeze (ids, last) o = Equal (c, rows) f = Cast <to = 1> (o) y = MatMul (f, table) }"""
    view = parse_text(text, constants={"last": np.array([2]), "rows": np.arange(6)[::-1].copy()})
    assert not rewritten(view, "one_hot_product")[1].changed


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [(6, np.arange(6)), (3, np.arange(3).reshape(3, 1))],
    ids=["one sample becomes three", "numbers of another axis"],
)
def test_vectors_that_are_one_hot_for_a_batch_of_3_alone_stay(rows: int, numbers: np.ndarray) -> None:
    """Expand to three samples keeps a batch of 3, and repeats a batch of 1."""
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
        net (int64[N,1] ids) => (float[M,4] y) <float[{rows},4] table>
        {{ c = Expand (ids, wide) o = Equal (c, rows) f = Cast <to = 1> (o) y = MatMul (f, table) }}"""
    view = parse_text(text, constants={"wide": np.array([3, rows]), "rows": numbers})
    assert not rewritten(view, "one_hot_product")[1].changed


def images(body: str, result: str, opset: int = 13) -> ModelView:
    return parse_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net (float[N,3,8,8] x) => ({result} y) <float[8,3,3,3] w> {{ c = Conv (x, w) {body} }}"""
    )


IMAGES = {"x": np.random.default_rng(1).normal(0, 1, (2, 3, 8, 8)).astype(C)}


@pytest.mark.parametrize(
    ("body", "result", "rule"),
    [
        ("y = ReduceMean <axes = [2, 3]> (c)", "float[N,8,1,1]", "mean_over_places"),
        (
            "s = Softplus (c) y = MaxPool <kernel_shape = [2, 2]> (s)",
            "float[N,8,5,5]",
            "maximum_behind_function",
        ),
        ("s = Elu (c) y = GlobalMaxPool (s)", "float[N,8,1,1]", "maximum_behind_function"),
    ],
)
def test_pools(body: str, result: str, rule: str) -> None:
    view = images(body, result)
    after, report = rewritten(view, rule)
    assert report.figures == {rule: 1}
    assert_same(view, after, IMAGES)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("y = ReduceMean <axes = [1, 2]> (c)", "float[N,1,1,6]"),
        (
            "s = Softplus (c) t = MaxPool <kernel_shape = [2, 2]> (s) p = ReduceMean (s) y = Add (t, p)",
            "float[N,8,5,5]",
        ),
        ("s = Elu <alpha = -1.0> (c) y = GlobalMaxPool (s)", "float[N,8,1,1]"),
        ("s = Abs (c) y = GlobalMaxPool (s)", "float[N,8,1,1]"),
    ],
)
def test_other_pools_stay(body: str, result: str) -> None:
    view = images(body, result)
    assert not rewritten(view, "mean_over_places", "maximum_behind_function")[1].changed


# -- the pass --------------------------------------------------------------------------------


def test_an_unknown_rewrite_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="unknown rewrite 'gelus'; expected one of"):
        RewriteForRuntime(rules=("gelus",))


def test_several_in_a_row_are_found_in_one_run() -> None:
    again = (
        "A = Mul (y, y) B = Mul (A, y) D = Mul (B, k) E = Add (y, D) F = Mul (E, q) T = Tanh (F)"
        " U = Add (T, one) V = Mul (y, U) z = Mul (V, half)"
    )
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,5,7] x) => (float[N,5,7] z) {{ {TANH["products"]} {again} }}"""
    view = parse_text(text, constants={name: SCALES[name] for name in ("k", "q", "one", "half")})
    after, report = rewritten(view)
    assert operators(after) == ["Gelu", "Gelu"]
    assert not rewritten(after)[1].changed
    assert report.figures == {"gelu": 2}


def test_the_contract_holds_where_it_changes_something() -> None:
    models = {name: named(body) for name, body in {**TANH, **ERF}.items()}
    outcomes = check_pass(RewriteForRuntime(), models)
    assert set(outcomes.values()) == {"changed"}
