"""The cost model of multiply-accumulates."""

from __future__ import annotations

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import CompressionOption
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pricing.pricing import break_even
from onnx_admm.testing import layers


def test_zeros_are_skipped_and_bits_multiply() -> None:
    conv = layers()[0]
    dense = 16 * 144 * 8 * 9
    cost = cost_model("macs").estimate(conv, CompressionOption(0.25, 4))
    assert (cost.macs, cost.mac_bits) == (dense / 4, dense)
    assert (cost.latency_s, cost.bytes, cost.uncertainty) == (None, None, None)
    assert break_even(cost_model("macs"), conv) == 1.0


def test_products_of_activations_count_whole() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float16[3,4] x, float16[4,5] z) => (float16[3,5] y) { y = MatMul (x, z) }""")
    (product,) = node_profiles(view)
    cost = cost_model("macs").estimate(product, CompressionOption(bits=product.bits))
    assert (cost.macs, cost.mac_bits) == (60, 60 * 16)
