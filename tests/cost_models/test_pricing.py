"""Price lists: rows, totals, what cannot be priced, and from where on pruning pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from onnx_admm.api import compress
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import CompressionOption, Cost, LayerProfile, ModelView, PassContext, PassReport
from onnx_admm.cost_models.storage import StorageCostModel
from onnx_admm.errors import UnknownExtent, UnpricedOperator, UsageError
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pricing.pricing import SUM, add_costs, break_even, price, price_layers


@dataclass(frozen=True)
class Curve:
    """Latency of any row with a weight, as a function of density; other rows are refused."""

    name: ClassVar[str] = "curve"
    assumes: ClassVar[str] = "nothing"
    quantities: ClassVar[tuple[str, ...]] = ("latency_s", "macs")

    latency: Callable[[float], float]

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        if not layer.weight:
            raise UnpricedOperator("no curve", where=layer.node)
        macs = layer.known_macs() * option.density
        return Cost(latency_s=self.latency(option.density), macs=macs, uncertainty=0.5)


class Called(Curve):
    """With something for the call."""

    composition: ClassVar[str] = "the sum of the rows and 1 s"

    def compose(self, rows: Sequence[Cost]) -> Cost:
        total = add_costs(rows)
        return replace(total, latency_s=(total.latency_s or 0) + 1)


def layer(size: int = 1000, **changes: object) -> LayerProfile:
    profile = LayerProfile(
        node="fc",
        op_type="Gemm",
        weight="w",
        weight_shape=(size // 10, 10),
        out_axis=0,
        parameters=size,
        nonzeros=size,
        macs=size,
    )
    return replace(profile, **changes)  # type: ignore[arg-type]


def test_a_price_list_has_a_row_for_each_use_of_a_weight_and_each_other_node(tiny_conv: ModelView) -> None:
    table = price(tiny_conv, StorageCostModel("dense"))
    assert [row.layer.weight for row in table.rows] == ["w1", "", "", "w2", "", "", "", "w3"]
    assert table.total.bytes == 4 * (36 + 216 + 72)
    assert (table.composition, table.unpriced) == (SUM, ())


def test_weights_can_be_treated_otherwise(tiny_conv: ModelView) -> None:
    sparse = price(tiny_conv, StorageCostModel("sparse"), {"w2": CompressionOption(0.25)})
    assert sparse.total.bytes == 7 * (36 + 54 + 72)
    with pytest.raises(
        UsageError, match="w9: a compression option for a weight that the model does not have"
    ):
        price(tiny_conv, StorageCostModel(), {"w9": CompressionOption()})


def test_what_cannot_be_priced_is_listed_and_not_in_the_total(tiny_conv: ModelView) -> None:
    table = price(tiny_conv, Curve(lambda density: 1.0), bindings={"N": 1})
    assert {row.layer.node for row in table.rows} == {"a1", "a2", "scores"}
    assert [(row.op_type, row.why) for row in table.unpriced] == [
        ("Relu", "no curve"), ("MaxPool", "no curve"), ("Relu", "no curve"), ("MaxPool", "no curve"),
        ("Flatten", "no curve"),
    ]  # fmt: skip
    assert table.total == Cost(latency_s=3.0, macs=64 * 36 + 16 * 216 + 72, uncertainty=0.5)


def test_an_open_axis_is_an_error_that_says_how_to_bind_it(tiny_conv: ModelView) -> None:
    with pytest.raises(UnknownExtent, match=r"^a1 \(Conv\): .* open axis; got N. Give it .* --bind N=1\."):
        price(tiny_conv, Curve(lambda density: 1.0))


def test_the_total_is_what_the_cost_model_says() -> None:
    table = price_layers([layer()], Called(lambda density: 2.0))
    assert (table.total.latency_s, table.composition) == (3.0, "the sum of the rows and 1 s")


def test_unknown_stays_unknown_in_a_sum() -> None:
    assert add_costs([Cost(bytes=1.0), Cost(macs=2.0)]) == Cost()
    assert add_costs([]) == Cost()
    doubts = [Cost(bytes=1.0, uncertainty=0.1), Cost(bytes=2.0), Cost(bytes=3.0, uncertainty=0.3)]
    assert add_costs(doubts) == Cost(bytes=6.0, uncertainty=0.3)


# -- break-even ratios -----------------------------------------------------------------------


def sparse_design(density: float) -> float:
    """As a dense design of the same area: more expensive a nonzero by 2.22, but for dense weights."""
    return 1.0 if density == 1 else density / 0.45


def test_break_even_is_where_the_sparse_design_catches_up() -> None:
    assert break_even(Curve(sparse_design), layer(400_000)) == pytest.approx(1 / 0.45, rel=1e-4)


def test_it_is_infinite_where_zeros_change_nothing() -> None:
    assert break_even(Curve(lambda density: 1.0), layer()) == math.inf
    assert break_even(Curve(lambda density: 2.0 - density), layer()) == math.inf


def test_it_is_one_where_any_zero_pays() -> None:
    assert break_even(Curve(lambda density: density), layer()) == 1.0
    assert break_even(Curve(lambda density: 1.0), layer(), quantity="macs") == 1.0


def test_a_kernel_that_switches_at_a_threshold_pays_from_there() -> None:
    switching = Curve(lambda density: 1.0 if density > 1 / 3 else density)
    assert break_even(switching, layer(9_000)) == pytest.approx(3.0, rel=1e-3)


def test_a_pattern_has_one_ratio() -> None:
    assert break_even(Curve(lambda density: density), layer(), structure="2:4") == 2.0
    assert break_even(Curve(sparse_design), layer(), structure="2:4") == math.inf
    assert break_even(Curve(sparse_design), layer(), structure="1:4") == 4.0


def test_channels_go_one_by_one() -> None:
    by_eights = Curve(lambda density: math.ceil(density * 100 / 8) * 8)
    assert break_even(by_eights, layer(1000), structure="channel") == 100 / 96
    from_here = Curve(lambda density: 1.0 if density > 0.955 else 0.5)
    assert break_even(from_here, layer(1000), structure="channel") == 100 / 95
    assert break_even(from_here, layer(1000)) == 1000 / 955


def test_all_uses_of_a_tied_weight_count() -> None:
    """Bytes stand at the first use alone, so the second one would never pay by itself."""
    model = StorageCostModel("sparse")
    first, second = layer(bits=32), layer(parameters=0, nonzeros=0)
    assert break_even(model, second) == math.inf
    assert break_even(model, (first, second)) == break_even(model, first)


def test_a_row_without_weights_never_breaks_even() -> None:
    assert break_even(StorageCostModel(), LayerProfile(node="r", op_type="Relu")) == math.inf


def test_a_quantity_that_is_not_given_is_refused() -> None:
    with pytest.raises(UsageError, match="curve: the cost model does not give that quantity; got energy_j"):
        break_even(Curve(lambda density: density), layer(), quantity="energy_j")


# -- compression options and profiles -----------------------------------------------------------------


@pytest.mark.parametrize(
    "impossible",
    [{"density": 1.5}, {"density": -0.1}, {"density": math.nan}, {"bits": 0}, {"structure": "4:2"}],
)
def test_impossible_options_are_refused_at_birth(impossible: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^(impossible|no such) "):
        CompressionOption(**impossible)  # type: ignore[arg-type]


def test_profiles_say_what_their_nodes_are() -> None:
    view = parse_text(
        """
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,4,8,8] x) => (float[N,6,64] y) <float[6,2,3,3] w>
        {
            c = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w)
            s = Shape <end = 1> (c)
            to = Concat <axis = 0> (s, rest)
            y = Reshape (c, to)
        }""",
        constants={"rest": [6, 64]},
    )
    conv, shape, concat, reshape = node_profiles(view, {"N": 2})
    assert conv.attributes == (("group", 2), ("pads", (1, 1, 1, 1)))
    assert (conv.opset, conv.domain, conv.operand, conv.out_axis, conv.channels) == (17, "", 1, 0, 6)
    assert [(o.name, o.dtype, o.bits, o.shape, o.is_constant) for o in conv.inputs] == [
        ("x", "float32", 32, (2, 4, 8, 8), False),
        ("w", "float32", 32, (6, 2, 3, 3), True),
    ]
    assert conv.moved_bytes() == 4 * (2 * 4 * 64 + 2 * 6 * 64)
    assert [profile.op_type for profile in (shape, concat)] == ["Shape", "Concat"]
    assert (reshape.macs, reshape.output_shape) == (0, (2, 6, 64))
    assert reshape.inputs[1].values == (2, 6, 64)
    assert node_profiles(view)[0].open_axes == ("N",)
    assert hash(conv) == hash(node_profiles(view, {"N": 2})[0])


def test_products_of_activations_multiply_too_and_constants_are_folded() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[3,4] x, float[4,5] z) => (float[3,5] y) <float[5,5] w>
        {
            a = MatMul (x, z)
            t = Transpose (w)
            y = MatMul (a, t)
        }""")
    products = node_profiles(view)
    assert [(p.node, p.weight, p.macs) for p in products] == [("a", "", 60), ("y", "w", 75)]


def test_a_recurrent_layer_has_two_rows_that_share_the_node() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[11,2,6] x) => (float[11,1,2,5] y) <float[1,20,6] w, float[1,20,5] r>
        { y = LSTM <hidden_size = 5> (x, w, r) }""")
    rows = node_profiles(view)
    assert [row.share for row in rows] == [6 / 11, 5 / 11]
    assert sum(row.moved_bytes() for row in rows) == 4 * (11 * 2 * 6 + 11 * 2 * 5)


def test_a_later_use_of_a_tied_weight_keeps_its_density() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1.0, 0.0, 0.0, 1.0}>
        { a = MatMul (x, w) y = MatMul (a, w) }""")
    assert [(row.parameters, row.density) for row in node_profiles(view)] == [(4, 0.5), (0, 0.5)]


def test_levels_are_found_from_the_values_alone() -> None:
    rng = np.random.default_rng(0)
    levels = rng.choice(np.array([-3, -2, -1, 0, 1, 2, 3], np.float32), (64, 32))
    scaled = levels * np.linspace(1, 2, 32, dtype=np.float32)
    text = """
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[1,64] x) => (float[1,32] a, float[1,32] b, float[1,32] c, float[1,2] d) <float[64,32] free>
        { a = MatMul (x, even) b = MatMul (x, scaled) c = MatMul (x, free) d = MatMul (x, few) }"""
    few = rng.normal(size=(64, 2)).astype(np.float32)
    view = parse_text(text, constants={"even": levels, "scaled": scaled, "few": few})
    assert {p.weight: p.bits for p in node_profiles(view)} == {"even": 3, "scaled": 3, "free": 32, "few": 32}


def test_an_operator_nobody_can_count_is_unpriced_not_free() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[2,3] x, float[3,4] z) => (float[2,4] y)
        { y = Einsum <equation = "...j,jk->...k"> (x, z) }""")
    (einsum,) = node_profiles(view)
    with pytest.raises(UnpricedOperator, match=r"y \(Einsum\): the multiply-accumulates cannot be counted"):
        einsum.known_macs()


# -- on its way to the passes ----------------------------------------------------------------


@dataclass(frozen=True)
class Listens:
    """Keeps the target it is told."""

    name: ClassVar[str] = "listens"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    heard: ClassVar[list[PassContext]] = []

    def requires(self, model: ModelView, context: PassContext) -> None:
        self.heard.append(context)

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        return PassReport(changed=False)


def test_passes_are_told_the_target(net: Path, tmp_path: Path) -> None:
    recipe = Recipe((Listens(),), fine_tune=False, cost_model="storage", bind={"N": 2})
    compress(net, tmp_path / "out.onnx", recipe=recipe)
    compress(net, tmp_path / "out2.onnx", recipe=recipe, cost_model="storage,format=dense", bind={"N": 3})
    told = [(context.cost_model, dict(context.bindings)) for context in Listens.heard]
    assert told == [(StorageCostModel(), {"N": 2}), (StorageCostModel("dense"), {"N": 3})]
