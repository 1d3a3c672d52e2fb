"""The cost model ``onnxruntime``: what is timed, for which node it counts, and what never pays."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CONV_NET
from made_up_times import CALL, SWITCH, MadeUpTimes, forget, shapes_asked

from onnx_admm.allocation.allocation import Option, least_error
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import CompressionOption, LayerProfile, ModelView
from onnx_admm.cost_models.onnxruntime import OnnxRuntimeCostModel
from onnx_admm.errors import PassRefused, UnknownExtent, UnpricedOperator, UsageError
from onnx_admm.model import layer_profiles, node_profiles
from onnx_admm.model.analysis.runtime_kernels import kernels_of, trace
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pricing.pricing import CostTable, break_even, for_model, price
from onnx_admm.runtime.sessions import open_session, optimised_model
from onnx_admm.runtime.timing import every_value
from onnx_admm.runtime.timing_cache import cache_file

MODEL = OnnxRuntimeCostModel()

BRANCH = """
    <ir_version: 10, opset_import: ["" : 17]>
    branch (float[1,4] x, bool turned) => (float[1,3] y) <float[4,4] w>
    {
        h = MatMul (x, w)
        y = If (turned) <
            then_branch = turned_graph () => (float[1,3] yt) <float[4,3] wt> { yt = MatMul (h, wt) },
            else_branch = plain_graph () => (float[1,3] ye) <float[4,3] we> { ye = MatMul (h, we) }
        >
    }"""


def wide_layer(view: ModelView | None = None) -> LayerProfile:
    """A Gemm from 64 to 48 channels."""
    text = """
        <ir_version: 10, opset_import: ["" : 17]>
        wide (float[1,64] x) => (float[1,48] y) <float[48,64] w, float[48] b>
        { y = Gemm <transB = 1> (x, w, b) }"""
    return layer_profiles(view or parse_text(text))[0]


def square(extent: int) -> LayerProfile:
    """A product of square matrices."""
    text = """
        <ir_version: 10, opset_import: ["" : 17]>
        square (float[N,N] x) => (float[N,N] y) <float[N,N] w> { y = MatMul (x, w) }"""
    return layer_profiles(parse_text(text.replace("N", str(extent))))[0]


def latencies(table: CostTable) -> dict[str, float]:
    """Seconds by operator, of operators that occur once."""
    return {row.layer.op_type: row.cost.latency_s or 0.0 for row in table.rows}


# -- which node a kernel counts for -----------------------------------------------------------


def test_every_kernel_counts_once_and_what_is_fused_costs_nothing(
    tiny_conv: ModelView, made_up_times: MadeUpTimes
) -> None:
    table = price(tiny_conv, MODEL, bindings={"N": 1})
    assert table.unpriced == ()
    kernels = sum(timing.seconds for kernel in made_up_times.asked if (timing := made_up_times.of(kernel)))
    expected = kernels + len(made_up_times.asked) * SWITCH.seconds + CALL.seconds
    assert table.total.latency_s == pytest.approx(expected)
    assert table.composition == "the sum of the rows and 5.0 us for the call"
    by_operator = latencies(table)
    assert by_operator["Relu"] == 0.0  # inside the convolutions
    assert min(by_operator["Conv"], by_operator["Gemm"]) > 0.0
    assert table.rows
    assert all(row.cost.uncertainty is not None for row in table.rows)


def test_a_kernel_that_fuses_several_nodes_counts_for_the_one_with_the_weight(
    tiny_mlp: ModelView, made_up_times: MadeUpTimes
) -> None:
    table = price(tiny_mlp, MODEL, bindings={"N": 1})
    by_operator = latencies(table)
    assert by_operator["MatMul"] > 0.0
    assert by_operator["Add"] == 0.0


def test_each_kernel_of_a_real_graph_has_an_owner(tiny_conv: ModelView) -> None:
    traced = trace(tiny_conv)
    optimised = optimised_model(traced.model)
    weighted = frozenset((row.scope, row.node) for row in layer_profiles(tiny_conv))
    owners = traced.owners(optimised, weighted)
    assert None not in owners
    assert weighted <= set(owners)


def test_what_the_runtime_puts_in_counts_for_what_it_is_put_in_for(made_up_times: MadeUpTimes) -> None:
    half = parse_text(
        """
        <ir_version: 10, opset_import: ["" : 17]>
        half (float16[2,4] x) => (float16[2,3] y) { y = MatMul (x, w) }""",
        constants={"w": np.ones((4, 3), np.float16)},
    )
    table = price(half, MODEL)
    assert len(made_up_times.asked) > 1  # no half-precision product: casts to float and back
    [row] = table.rows
    assert (row.cost.latency_s or 0) + CALL.seconds == table.total.latency_s
    kernels = sum(timing.seconds for kernel in made_up_times.asked if (timing := made_up_times.of(kernel)))
    assert row.cost.latency_s == pytest.approx(kernels + len(made_up_times.asked) * SWITCH.seconds)


def test_the_same_kernel_is_timed_once(made_up_times: MadeUpTimes) -> None:
    twice = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        twice (float[2,6] x) => (float[2,6] z) <float[6,6] v, float[6,6] w>
        { y = MatMul (x, v)  z = MatMul (y, w) }""")
    table = price(twice, MODEL)
    assert [kernel.op_type for kernel in made_up_times.asked] == ["MatMul"]
    first, second = table.rows
    assert first.cost == second.cost


def test_a_branch_is_timed_with_the_node_around_it(made_up_times: MadeUpTimes) -> None:
    table = price(parse_text(BRANCH), MODEL)
    assert {row.layer.op_type for row in table.rows} == {"MatMul", "If"}
    assert latencies(table)["If"] > 0.0
    assert [(entry.op_type, entry.why) for entry in table.unpriced] == [
        ("MatMul", "timed with the node around it")
    ] * 2


def test_an_operator_the_runtime_does_not_have_is_listed(made_up_times: MadeUpTimes) -> None:
    known = wide_layer()
    unknown = replace(known, op_type="Strange", domain="their.own")
    with pytest.raises(UnpricedOperator, match=r"\(Strange\): the runtime does not run it alone"):
        MODEL.estimate(unknown, CompressionOption())


def test_an_open_axis_is_said_with_how_to_bind_it(tiny_conv: ModelView, made_up_times: MadeUpTimes) -> None:
    with pytest.raises(UnknownExtent, match="--bind N=1"):
        price(tiny_conv, MODEL)
    assert for_model(MODEL, tiny_conv, {}) is MODEL


def test_threads_come_from_the_command() -> None:
    assert cost_model("onnxruntime,threads=2") == OnnxRuntimeCostModel(threads=2)
    with pytest.raises(UsageError, match="a run needs a thread"):
        OnnxRuntimeCostModel(threads=0)


# -- zeros, bits, channels --------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["unstructured", "2:4", "block"])
def test_zeros_and_bits_change_nothing_and_never_pay(structure: str, made_up_times: MadeUpTimes) -> None:
    layer = wide_layer()
    dense = MODEL.estimate(layer, CompressionOption())
    for density, bits in itertools.product((0.0, 0.01, 0.5, 1.0), (2, 8, 32)):
        assert MODEL.estimate(layer, CompressionOption(density, bits, structure)) == dense
    assert break_even(MODEL, layer, structure=structure) == math.inf
    assert "zeros and bits change no latency" in MODEL.assumes


def test_a_latency_budget_never_chooses_zeros(tiny_conv: ModelView, made_up_times: MadeUpTimes) -> None:
    bound = for_model(MODEL, tiny_conv, {"N": 1})
    options = [CompressionOption(density) for density in (1.0, 0.5, 0.1, 0.01)]
    options = {
        layer.weight: [
            # Zeros that do next to no harm: only their price can speak against them.
            Option(bound.estimate(layer, option).latency_s or 0.0, 1e-9 / option.density, option)
            for option in options
        ]
        for layer in node_profiles(tiny_conv, {"N": 1})
        if layer.weight
    }
    dense = sum(choices[0].cost for choices in options.values())
    for budget in (1.0, 1.5, 3.0):
        chosen = least_error(options, budget * dense * (1 + 1e-9))
        assert {option.what.density for option in chosen.values()} == {1.0}
    with pytest.raises(PassRefused):
        least_error(options, 0.99 * dense)


def test_removed_channels_are_timed_at_their_real_width(made_up_times: MadeUpTimes) -> None:
    layer = wide_layer()
    costs = {
        left: MODEL.estimate(layer, CompressionOption(left / 48, structure="channel")).latency_s
        for left in (48, 40, 33, 32, 17, 16, 1)
    }
    assert {shape[0] for shape in shapes_asked(made_up_times)["Gemm"]} == set(costs)
    stairs = [costs[left] for left in (48, 40, 33, 32, 17, 16, 1)]
    assert stairs[0] == stairs[1] == stairs[2] > stairs[3] == stairs[4] > stairs[5] == stairs[6]
    assert break_even(MODEL, layer, structure="channel") == 48 / 32


def test_removed_channels_of_a_layer_in_its_model_cost_in_proportion(made_up_times: MadeUpTimes) -> None:
    wide = parse_text(CONV_NET.replace("float[4,", "float[32,").replace("float[4]", "float[32]")
                      .replace("float[6,4,", "float[6,32,"))  # fmt: skip
    layer = next(row for row in node_profiles(wide, {"N": 1}) if row.weight == "w1")
    bound = for_model(MODEL, wide, {"N": 1})
    half = CompressionOption(0.5, structure="channel")
    kept, alone = (
        (model.estimate(layer, half).latency_s or 0)
        / (model.estimate(layer, CompressionOption()).latency_s or 1)
        for model in (bound, MODEL)
    )
    assert kept == pytest.approx(alone)
    assert kept < 1.0


# -- the cache --------------------------------------------------------------------------------


def test_what_was_timed_is_looked_up_by_the_next_process(
    tiny_conv: ModelView, made_up_times: MadeUpTimes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = price(tiny_conv, MODEL, bindings={"N": 1})
    asked = len(made_up_times.asked)
    forget(tmp_path / "cache", monkeypatch)
    assert price(tiny_conv, MODEL, bindings={"N": 1}) == table
    assert len(made_up_times.asked) == asked
    price(tiny_conv, OnnxRuntimeCostModel(threads=2), bindings={"N": 1})
    assert len(made_up_times.asked) == 2 * asked


@pytest.mark.parametrize("content", ["", "{", "[]", '{"timings": {"a": 1}}', '{"timings": {"a": [-1, 0]}}'])
def test_a_broken_cache_is_written_anew(
    content: str, made_up_times: MadeUpTimes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layer = wide_layer()
    cost = MODEL.estimate(layer, CompressionOption())
    file = cache_file(1)
    whole = file.read_text()
    file.write_text(content)
    forget(tmp_path / "cache", monkeypatch)
    assert MODEL.estimate(layer, CompressionOption()) == cost
    assert file.read_text() == whole
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_cache_that_cannot_be_written_is_done_without(
    made_up_times: MadeUpTimes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("no folder")
    forget(tmp_path / "taken", monkeypatch)
    assert MODEL.estimate(wide_layer(), CompressionOption()).latency_s


# -- with a clock -----------------------------------------------------------------------------


def test_far_more_work_takes_more_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget(tmp_path, monkeypatch)
    small, large = (MODEL.estimate(square(extent), CompressionOption()) for extent in (16, 256))
    assert small.latency_s is not None
    assert large.latency_s is not None
    assert 0 < 10 * small.latency_s < large.latency_s  # for 4096 times the work
    assert small.uncertainty is not None


def test_copies_of_a_kernel_compute_what_it_computes(tiny_conv: ModelView) -> None:
    optimised = optimised_model(trace(tiny_conv).model)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)}
    values = every_value(optimised, feeds)
    nodes = onnx.ModelProto.FromString(optimised).graph.node
    assert nodes
    for node, kernel in zip(nodes, kernels_of(optimised, values), strict=True):
        assert kernel is not None
        model, fed = kernel.copies(3)
        [output] = open_session(model, threads=1, optimize=False).run(fed).values()
        np.testing.assert_array_equal(output, values[node.output[0]])
