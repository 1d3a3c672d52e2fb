"""Estimated latencies: what profiles of two forms say of each unit, and of conversions."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from onnx_admm.contracts import Feeds, ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.quantization.integer_latency import integer_form
from onnx_admm.quantization.placing import estimate as module
from onnx_admm.quantization.placing.estimate import estimate_of
from onnx_admm.quantization.units import Kind, find_units
from onnx_admm.runtime.layer_kernels import CONVERSIONS, TOTAL, profile_nodes

NET = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,16,8,8] x) => (float[1,16,8,8] y)
    <float[16,16,3,3] w1, float[16,16,3,3] w2, float[16] slope>
    {
        [first] a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        [between] s = Sigmoid (a)
        [second] b = Conv <pads = [1, 1, 1, 1]> (s, w2)
        [relu] r = Relu (b)
        [sum] c = Add (r, b)
        [last] y = Sigmoid (c)
    }"""
FEEDS: Feeds = {"x": np.ones((1, 16, 8, 8), np.float32)}


def both_forms() -> tuple[ModelView, ModelView]:
    view = parse_text(NET)
    return view, integer_form(view, {unit.layer for unit in find_units(view)[0]})


@pytest.mark.parametrize("number", [0, 1])
def test_kernels_count_for_their_nodes_in_both_forms(number: int) -> None:
    view = both_forms()[number]
    found = profile_nodes(view, FEEDS, ["first", "second"], ["sum", "not there"])
    assert found["first"] > 0
    assert found["second"] > 0
    assert found["not there"] == 0
    named = sum(taken for name, taken in found.items() if name != TOTAL)
    assert named < found[TOTAL]  # the Sigmoids count for no unit
    assert (found["QuantizeLinear"] > 0) == bool(number)


def test_an_estimate_is_the_sum_of_units_and_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    view, form = both_forms()
    units, _ = find_units(view)
    nodes = {unit.output: unit.node for unit in units if unit.kind is Kind.PRODUCT}
    times = [
        {"first": 30.0, "second": 50.0, TOTAL: 100.0},
        {"first": 10.0, "second": 20.0, "QuantizeLinear": 6.0, "DequantizeLinear": 4.0, TOTAL: 60.0},
    ]

    def profiled(model: str, names: Collection[str], threads: int, measure: object) -> dict[str, float]:
        return dict.fromkeys(names, 0.0) | times.pop(0)

    monkeypatch.setattr(module, "profiled_seconds", profiled)
    sizes = {"x": 100.0, "a": 100.0, "s": 200.0, "b": 100.0, "r": 100.0, "c": 100.0}
    estimate = estimate_of(view, form, units, sizes, FEEDS)
    assert estimate(frozenset()) == 1.0
    # Q of x and s take 6 for 300 elements, DQ of a and b 4 for 200
    assert estimate(frozenset({nodes["a"]})) == pytest.approx(1.0 - 0.20 + 0.02 + 0.02)
    assert estimate(frozenset(nodes.values())) == pytest.approx(1.0 - 0.50 + 0.06 + 0.04)
    assert CONVERSIONS == ("QuantizeLinear", "DequantizeLinear")
