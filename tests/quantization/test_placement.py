"""Placement: which nodes are integer, and which values lie on grids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.quantization.placing.placement import place
from onnx_admm.quantization.placing.search import PlacementSearch
from onnx_admm.quantization.reasons import Reasons
from onnx_admm.quantization.units import Kind, Unit, find_units, roots_of

RESIDUAL = """
    <ir_version: 8, opset_import: ["" : 17]>
    residual (float[1,16,8,8] x) => (float[1,10] y)
    <float[16,16,3,3] w1, float[16,16,3,3] w2, float[16] b2, float[10,256] w3, float[10] b3>
    {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
        s = Add (c2, r1)
        r2 = Relu (s)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w3, b3)
    }"""


def units_of(text: str) -> tuple[Unit, ...]:
    return find_units(parse_text(text))[0]


def reasons(text: str) -> list[str]:
    return [skip.why for skip in find_units(parse_text(text))[1]]


def named(units: Sequence[Unit], *names: str) -> set[int]:
    return {unit.node for unit in units if unit.output in names}


def test_units_are_products_kernels_and_what_passes_integers() -> None:
    units = units_of(RESIDUAL)
    kinds = [(unit.op_type, unit.kind) for unit in units]
    assert kinds == [
        ("Conv", Kind.PRODUCT), ("Conv", Kind.PRODUCT), ("Add", Kind.KERNEL), ("MaxPool", Kind.PASSING),
        ("Flatten", Kind.PASSING), ("Gemm", Kind.PRODUCT),
    ]  # fmt: skip
    assert [unit.output for unit in units] == ["r1", "c2", "r2", "p", "f", "y"]
    assert roots_of(units) == {"p": "r2", "f": "r2"}


def test_everything_asked_is_integer_where_all_it_reads_is() -> None:
    units = units_of(RESIDUAL)
    found = place(units, {unit.node for unit in units})
    assert [unit.op_type for unit in found.units] == ["Conv", "Conv", "Add", "MaxPool", "Flatten", "Gemm"]
    assert found.quantised == {"x", "r1", "c2", "r2", "p", "f"}
    assert found.given == {"r1", "c2", "r2", "p", "f"}


def test_an_addition_with_a_float_operand_stays_float() -> None:
    units = units_of(RESIDUAL)
    found = place(units, named(units, "r1", "r2", "y"))
    assert [unit.op_type for unit in found.units] == ["Conv", "Gemm"]
    assert found.quantised == {"x", "r1", "f"}
    assert found.given == {"r1"}


def test_an_addition_reads_what_is_quantised_for_a_product_anyway() -> None:
    """The skip around a residual block begins at a float stem, whose output the block reads as integers."""
    units = units_of(RESIDUAL)
    found = place(units, named(units, "c2", "r2", "y"))
    assert [unit.op_type for unit in found.units] == ["Conv", "Add", "MaxPool", "Flatten", "Gemm"]
    assert found.quantised == {"r1", "c2", "r2", "p", "f"}
    assert found.given == {"c2", "r2", "p", "f"}


def test_what_passes_integers_through_is_float_where_no_integer_node_reads_it() -> None:
    units = units_of(RESIDUAL)
    found = place(units, named(units, "r1", "c2", "r2"))
    assert [unit.op_type for unit in found.units] == ["Conv", "Conv", "Add"]
    assert "p" not in found.quantised


def test_a_product_whose_output_no_integer_reads_gives_floats() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        mlp (float[N,32] x) => (float[N,8] y) <float[32,32] w1, float[32,8] w2>
        { a = Gemm (x, w1) r = Relu (a) y = Gemm (r, w2) }"""
    units = units_of(text)
    first, both = place(units, {units[0].node}), place(units, {unit.node for unit in units})
    assert (first.quantised, first.given) == ({"x"}, frozenset())
    assert (both.quantised, both.given) == ({"x", "r"}, {"r"})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y = MatMul (x, x)", "two activations"),
        ("y = Gemm <alpha = 0.5> (x, w)", "alpha"),
        ("y = Gemm <transA = 1> (x, w)", "transA"),
        ("y = Gemm <beta = 2.0> (x, w, b)", "beta"),
        ("y = Gemm (x, w, m)", "matrix"),
        ("y = Gemm (x, w, x)", "computed"),
        ("y = MatMul (w, v)", "constant"),
    ],
)
def test_products_without_an_integer_kernel_are_left_with_a_reason(body: str, why: str) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[8,8] x) => (float[8,8] y)
        <float[8,8] w, float[8,8] v, float[8] b, float[8,8] m> {{ {body} }}"""
    assert [why in reason for reason in reasons(text)] == [True]


def test_a_convolution_that_gives_an_output_is_left_with_a_reason() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,8,8,8] x) => (float[1,8,8,8] y) <float[8,8,1,1] w> { y = Conv (x, w) }"""
    assert reasons(text) == ["it gives an output of the model"]


def test_a_relu_that_others_pass_by_does_not_belong_to_its_convolution() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        silu (float[1,8,8,8] x) => (float[1,8,8,8] y) <float[8,8,1,1] w>
        { c = Conv (x, w) s = Sigmoid (c) y = Mul (c, s) }"""
    (unit,) = units_of(text)
    found = place([unit], {unit.node})
    assert unit.output == "c"
    assert found.given == {"c"}  # Q and DQ stand right behind the convolution: both readers read its integers


# -- search ----------------------------------------------------------------------------------


class MadeUp:
    """Latencies that are sums over integer units, with a price for each change between float and integer."""

    def __init__(self, units: Sequence[Unit], saves: dict[str, float], price: float = 0.0) -> None:
        self.units, self.saves, self.price = units, saves, price
        self.asked: list[frozenset[int]] = []

    def __call__(self, placements: Sequence[frozenset[int]]) -> list[float]:
        self.asked += placements
        return [self.of(each) for each in placements]

    def of(self, asked: frozenset[int]) -> float:
        placed = place(self.units, asked)
        saved = sum(self.saves.get(unit.output, 0.0) for unit in placed.units)
        return 1.0 - saved + self.price * len(placed.quantised - placed.given)


CHAIN = """
    <ir_version: 8, opset_import: ["" : 17]>
    chain (float[1,16,8,8] x) => (float[1,16,8,8] y)
    <float[16,16,1,1] w1, float[16,16,1,1] w2, float[16,16,1,1] w3>
    { a = Conv (x, w1) b = Conv (a, w2) c = Conv (b, w3) y = Sigmoid (c) }"""


def searched(
    saves: dict[str, float], errors: dict[str, float], tolerance: float, price: float = 0.0
) -> set[str]:
    units = units_of(CHAIN)
    search = PlacementSearch(units, errors, MadeUp(units, saves, price), most_timed=50)
    chosen = search.best([unit.node for unit in units], tolerance)
    return {unit.output for unit in units if unit.node in chosen}


NO_ERRORS = {"x": 0.0, "a": 0.0, "b": 0.0, "c": 0.0}


def test_what_saves_time_is_integer_and_what_does_not_is_float() -> None:
    assert searched({"a": -0.1, "b": 0.3, "c": 0.2}, NO_ERRORS, 1.0) == {"b", "c"}
    assert searched({"a": 0.1, "b": 0.3, "c": 0.2}, NO_ERRORS, 1.0) == {"a", "b", "c"}


def test_nothing_is_integer_where_nothing_saves_time() -> None:
    assert searched({"a": -0.1, "b": -0.3, "c": -0.2}, NO_ERRORS, 1.0) == set()


def test_a_whole_part_goes_where_no_single_unit_would() -> None:
    """Each alone pays for a further conversion; together they cost more than they save."""
    assert searched({"a": 0.02, "b": 0.02, "c": 0.02}, NO_ERRORS, 1.0, price=0.1) == set()


def test_the_tolerance_is_spent_where_it_saves_most() -> None:
    errors = {"x": 0.0, "a": 0.01, "b": 0.01, "c": 0.01}
    chosen = searched({"a": 0.1, "b": 0.1, "c": 0.5}, errors, 0.025)
    assert "c" in chosen
    assert len(chosen) < 3


def test_units_of_values_that_may_not_be_rounded_are_never_asked_for() -> None:
    units = units_of(CHAIN)
    latencies = MadeUp(units, {"a": 0.3, "b": 0.3, "c": 0.3})
    search = PlacementSearch(units, NO_ERRORS, latencies, most_timed=50)
    allowed = [units[1].node]
    assert search.best(allowed, 1.0) == {units[1].node}
    assert all(each <= set(allowed) for each in latencies.asked)


def test_a_placement_that_cannot_be_built_has_no_gain_and_is_never_chosen() -> None:
    units = units_of(CHAIN)
    sums = MadeUp(units, {"a": 0.2, "b": 0.3, "c": 0.2})

    def latencies(placements: Sequence[frozenset[int]]) -> list[float]:
        return [math.inf if units[1].node in each else sums.of(each) for each in placements]

    search = PlacementSearch(units, NO_ERRORS, latencies, most_timed=50)
    chosen = search.best([unit.node for unit in units], 1.0)
    assert chosen == {units[0].node, units[2].node}
    assert all(math.isfinite(gain) for gain in search.gains.values())
    nothing = PlacementSearch(units, NO_ERRORS, lambda asked: [math.inf] * len(asked), most_timed=50)
    assert nothing.best([unit.node for unit in units], 1.0) == frozenset()


def test_a_gain_is_that_within_the_chosen_placement_and_none_is_shown_below_zero() -> None:
    units = units_of(CHAIN)
    search = PlacementSearch(
        units, NO_ERRORS, MadeUp(units, {"a": -0.1, "b": 0.3, "c": 0.2}, 0.05), most_timed=50
    )
    chosen = search.best([unit.node for unit in units], 1.0)
    first, second, third = (unit.node for unit in units)
    assert chosen == {second, third}
    assert search.gain_within(second, chosen) == pytest.approx(0.3)
    assert search.gain_within(first, chosen) == pytest.approx(-0.1)
    assert search.least_with(first) == pytest.approx(0.65)
    whole = frozenset({first, second, third})
    reasons = Reasons(search, whole)
    assert "saves" not in reasons.of_integer(units[0], False)
    assert "saves 35.0%" in reasons.of_integer(units[1], False)
    assert Reasons(search, chosen).of_float(units[0]).startswith("float is faster")


def test_a_view_without_products_has_no_units() -> None:
    view: ModelView = parse_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    )
    assert find_units(view) == ((), ())
