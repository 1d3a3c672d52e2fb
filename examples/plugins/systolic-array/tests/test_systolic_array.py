"""The cost model keeps its contract, and its costs change only with whole tiles."""

from __future__ import annotations

import math

from systolic_array import SystolicArray

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import CompressionOption
from onnx_admm.pricing.pricing import break_even
from onnx_admm.testing import check_cost_model, layers

ARRAY = SystolicArray(rows=8, columns=8, clock_mhz=100.0)
CONV = layers()[0]  # 16 output channels, 8 x 3 x 3 inputs, 12 x 12 outputs


def test_it_keeps_the_contract() -> None:
    check_cost_model(ARRAY)


def test_it_comes_with_a_profile() -> None:
    assert cost_model("systolic-array:tpu-v1,clock_mhz=350") == SystolicArray(
        rows=256, columns=256, clock_mhz=350.0
    )


def test_a_layer_takes_its_tiles() -> None:
    latency = ARRAY.estimate(CONV, CompressionOption()).latency_s
    assert latency == 9 * 2 * (144 + 16) / 100e6


def test_only_whole_tiles_pay() -> None:
    assert break_even(ARRAY, CONV) == math.inf
    assert break_even(ARRAY, CONV, structure="channel") == 2.0
