"""A small net with 8-bit integer weights and activations, as text and constants."""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import ModelView
from onnx_admm.model.analysis.text import parse_text

_TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2,6,6] x) => (float[N,3] y) {
    xq = QuantizeLinear (x, sx, zx)
    xd = DequantizeLinear (xq, sx, zx)
    w1 = DequantizeLinear <axis = 0> (w1_codes, w1_scale, w1_zero)
    b1 = DequantizeLinear <axis = 0> (b1_codes, b1_scale, b1_zero)
    a = Conv <pads = [1, 1, 1, 1]> (xd, w1, b1)
    r = Relu (a)
    rq = QuantizeLinear (r, sr, zr)
    rd = DequantizeLinear (rq, sr, zr)
    p = GlobalAveragePool (rd)
    f = Flatten (p)
    w2 = DequantizeLinear (w2_codes, w2_scale, w2_zero)
    y = MatMul (f, w2)
}"""


def integer_net(seed: int = 0) -> ModelView:
    """Convolution by channels, with an int32 bias, and a MatMul on one scale."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.004, 0.01, 8).astype(np.float32)
    constants: dict[str, np.ndarray] = {
        "sx": np.array(0.03, np.float32),
        "zx": np.array(128, np.uint8),
        "sr": np.array(0.02, np.float32),
        "zr": np.array(0, np.uint8),
        "w1_codes": rng.integers(-127, 128, (8, 2, 3, 3)).astype(np.int8),
        "w1_scale": scales,
        "w1_zero": np.zeros(8, np.int8),
        "b1_codes": rng.integers(-900, 900, 8).astype(np.int32),
        "b1_scale": (scales * np.float32(0.03)).astype(np.float32),
        "b1_zero": np.zeros(8, np.int32),
        "w2_codes": rng.integers(0, 255, (8, 3)).astype(np.uint8),
        "w2_scale": np.array(0.01, np.float32),
        "w2_zero": np.array(127, np.uint8),
    }
    return parse_text(_TEXT, constants=constants)
