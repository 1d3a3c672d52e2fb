"""The roofline cost model and the devices it comes with."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from onnx_admm.config.registry import cost_model, shipped_profiles
from onnx_admm.contracts import CompressionOption, LayerProfile
from onnx_admm.cost_models.roofline import RooflineCostModel, SparseKernel
from onnx_admm.errors import UnpricedOperator, UsageError
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pricing.pricing import break_even, price_layers

DEVICE = RooflineCostModel(
    device="a board",
    peak_gmac_s={"float32": 2.0},
    bandwidth_gb_s=1.0,
    overhead_us=3.0,
    energy_pj_mac={"float32": 4.6},
    energy_pj_byte=200.0,
)

NET = """
    <ir_version: 10, opset_import: ["" : 17]>
    net (float[1,8,10,10] x) => (float[1,6400] y) <float[16,8,3,3] w, float[16] b, float[64,16,1,1] p>
    {
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (c)
        q = Conv (r, p)
        s = Sigmoid (q)
        y = Flatten (s)
    }"""


@pytest.fixture
def rows() -> dict[str, LayerProfile]:
    return {profile.node: profile for profile in node_profiles(parse_text(NET))}


def test_latency_is_the_slower_roof_and_something_for_the_operator(rows: dict[str, LayerProfile]) -> None:
    macs, moved = 1600 * 72, 4 * (800 + 1600 + 1152)
    cost = DEVICE.estimate(rows["c"], CompressionOption())
    assert cost.latency_s == pytest.approx(macs / 2e9 + 3e-6)
    assert (cost.macs, cost.bytes, cost.mac_bits) == (macs, moved, 32 * macs)
    assert cost.energy_j == pytest.approx((macs * 4.6 + moved * 200) * 1e-12)
    assert cost.uncertainty == 0.5
    slow = replace(DEVICE, bandwidth_gb_s=0.01)
    assert slow.estimate(rows["c"], CompressionOption()).latency_s == pytest.approx(moved / 1e7 + 3e-6)
    assert slow.estimate(rows["s"], CompressionOption()).latency_s == pytest.approx(4 * 2 * 6400 / 1e7 + 3e-6)


def test_what_is_fused_costs_nothing_and_views_move_nothing(rows: dict[str, LayerProfile]) -> None:
    relu, flatten = (DEVICE.estimate(rows[name], CompressionOption()) for name in ("r", "y"))
    assert (relu.latency_s, relu.bytes, relu.energy_j) == (0, 0, 0)
    assert (flatten.latency_s, flatten.bytes) == (3e-6, 0)
    unfused = replace(DEVICE, fused=())
    assert (unfused.estimate(rows["r"], CompressionOption()).bytes or 0) > 0


def test_a_sum_of_two_activations_is_not_free() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4] b>
        { m = MatMul (x, w) a = Add (m, b) y = Add (a, x) }""")
    _, bias, residual = (row.cost for row in price_layers(node_profiles(view), DEVICE).rows)
    assert (bias.latency_s, residual.latency_s) == (0, pytest.approx(3 * 16 / 1e9 + 3e-6))


def test_both_weights_of_a_recurrent_layer_are_one_operator() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[11,2,6] x) => (float[11,1,2,5] y) <float[1,20,6] w, float[1,20,5] r>
        { y = LSTM <hidden_size = 5> (x, w, r) }""")
    total = price_layers(node_profiles(view), replace(DEVICE, bandwidth_gb_s=1e6)).total
    assert total.latency_s == pytest.approx(22 * 20 * 11 / 2e9 + 3e-6)


def test_zeros_pay_only_where_the_profile_has_a_kernel(rows: dict[str, LayerProfile]) -> None:
    assert break_even(DEVICE, rows["q"]) == math.inf
    kernel = SparseKernel(
        operators=("Conv",), pointwise=True, speedup=((1 / 3, 1.5), (0.1, 3.0)), index_bits=32
    )
    sparse = replace(DEVICE, sparse=(kernel,), bandwidth_gb_s=100.0)
    assert break_even(sparse, rows["q"]) == pytest.approx(3.0, rel=0.01)
    assert break_even(sparse, rows["c"]) == math.inf  # 3x3
    assert break_even(sparse, rows["q"], structure="2:4") == math.inf
    dense = sparse.estimate(rows["q"], CompressionOption())
    tenth = sparse.estimate(rows["q"], CompressionOption(0.1))
    arithmetic = [(cost.latency_s or 0) - 3e-6 for cost in (dense, tenth)]
    assert arithmetic[0] == pytest.approx(3 * arithmetic[1])
    assert (tenth.macs or 0) == pytest.approx((dense.macs or 0) / 10)
    assert (dense.bytes or 0) - (tenth.bytes or 0) == pytest.approx(4 * 1024 - 0.1 * 1024 * 8)


def test_a_pattern_pays_on_a_device_that_knows_it(rows: dict[str, LayerProfile]) -> None:
    pattern = replace(DEVICE, sparse=(SparseKernel(structure="2:4", speedup=((0.5, 2.0),)),))
    assert break_even(pattern, rows["c"], structure="2:4") == 2.0
    assert break_even(pattern, rows["c"]) == math.inf


def test_removed_channels_always_pay(rows: dict[str, LayerProfile]) -> None:
    half = DEVICE.estimate(rows["c"], CompressionOption(0.5, 32, "channel"))
    assert half.latency_s == pytest.approx(800 * 72 / 2e9 + 3e-6)
    assert break_even(DEVICE, rows["c"], structure="channel") == 1.0


def test_narrow_weights_are_read_as_the_next_width_there_is(rows: dict[str, LayerProfile]) -> None:
    by_bits = {bits: DEVICE.estimate(rows["c"], CompressionOption(1.0, bits)).bytes for bits in (3, 8, 9, 32)}
    activations = 4 * 2400
    assert by_bits == {
        3: activations + 1152,
        8: activations + 1152,
        9: activations + 2 * 1152,
        32: activations + 4 * 1152,
    }


def test_a_lookup_reads_what_it_looks_up() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (int64[5] ids) => (float[5,8] y) <float[1000,8] table> { y = Gather (table, ids) }""")
    assert price_layers(node_profiles(view), DEVICE).total.bytes == 2 * 5 * 8 * 4


def test_arithmetic_in_a_type_without_a_peak_is_unpriced() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float16[3,4] x, float16[4,5] z) => (float16[3,5] y) { y = MatMul (x, z) }""")
    (product,) = node_profiles(view)
    with pytest.raises(UnpricedOperator, match=r"y \(MatMul\): the device has no peak in float16"):
        DEVICE.estimate(product, CompressionOption())
    assert price_layers([product], DEVICE).unpriced[0].why == "the device has no peak in float16"


def test_energy_is_given_where_it_is_known() -> None:
    assert "energy_j" in DEVICE.quantities
    assert "energy_j" not in replace(DEVICE, energy_pj_byte=None).quantities


def test_devices_name_their_sources() -> None:
    tags = shipped_profiles(RooflineCostModel)
    assert {"raspberry-pi-4", "jetson-nano", "a100-sxm-40gb"} <= set(tags)
    for tag, file in tags.items():
        assert cost_model(f"roofline:{tag}").quantities[0] == "latency_s"
        text = file.read_text(encoding="utf-8")
        for key in ("peak_gmac_s", "bandwidth_gb_s"):
            before = text[: text.index(f"\n{key}")].splitlines()
            assert before[-1].startswith("#"), f"{tag}: {key} has no source"


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        ('device = "x"\nbandwidth_gb_s = 1', "the key 'peak_gmac_s' is missing"),
        ('device = "x"\npeak_gmac_s = {}\nbandwidth_gb_s = 1', "needs a figure above 0"),
        (
            'device = "x"\npeak_gmac_s = {float32 = 1}\nbandwidth_gb_s = 0',
            "key 'bandwidth_gb_s': input",
        ),
        ('device = "x"\npeak_gmac_s = {float32 = 1}\nbandwith_gb_s = 1', "Did you mean 'bandwidth_gb_s'"),
        ('device = "x"\npeak_gmac_s = {float32 = "fast"}\nbandwidth_gb_s = 1', "got 'fast'"),
        (
            'device = "x"\npeak_gmac_s = {float32 = 1}\nbandwidth_gb_s = 1\n[[sparse]]\nspeedup = []',
            "a speed-up needs densities",
        ),
        (
            'device = "x"\npeak_gmac_s = {float32 = 1}\nbandwidth_gb_s = 1\n'
            '[[sparse]]\nstructure = "4:2"\nspeedup = [[0.5, 2]]',
            "no such structure",
        ),
        ("device = ", "not TOML"),
    ],
)
def test_a_bad_profile_is_a_sentence(tmp_path: Path, profile: str, sentence: str) -> None:
    (tmp_path / "board.toml").write_text(profile)
    with pytest.raises(UsageError, match=sentence) as caught:
        cost_model(f"roofline:{tmp_path / 'board.toml'}")
    assert caught.value.exit_code == 2
