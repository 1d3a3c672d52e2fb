"""Gradients of QuantizeLinear and DequantizeLinear: those of clipping."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gradient_cases import Arrays, Case, by_runtime, check, gradients, node

from onnx_admm.errors import NoGradient


def pair(dtype: type[np.integer], scale: np.ndarray, zero: int | None, axis: int = 1) -> Case:
    """Values that are quantised and read dequantised; some of them lie outside of the grid."""
    shape = [1] * 3
    if scale.size > 1:
        shape[axis] = scale.size
    steps = scale.reshape(shape)
    points = {"s": scale.astype(np.float32)}
    inputs = ["x", "s"]
    if zero is not None:
        points["z"] = np.full(scale.shape, zero, dtype)
        inputs.append("z")
    limits = np.iinfo(dtype)

    def forward(feeds: Arrays) -> np.ndarray:
        bounds = [
            (limit + half - (zero or 0)) * steps for limit, half in ((limits.min, -0.5), (limits.max, 0.5))
        ]
        return np.clip(feeds["x"], *bounds)

    nodes = [
        node("QuantizeLinear", inputs, ["q"], axis=axis),
        node("DequantizeLinear", ["q", *inputs[1:]], ["y"], axis=axis),
    ]
    name = f"{dtype.__name__} {scale.shape} {zero}"
    return Case(name, nodes, {"x": (4, 3, 5)}, points, exact=False, forward=forward)


def pairs() -> Iterator[Case]:
    yield pair(np.uint8, np.array(0.004), 128)
    yield pair(np.uint8, np.array(0.004), None)
    yield pair(np.int8, np.array(0.005), 0)
    yield pair(np.int8, np.array([0.003, 0.01, 0.005]), 0)
    yield pair(np.int8, np.array([0.003, 0.01, 0.005, 0.004]), 3, axis=0)


@pytest.mark.parametrize("case", list(pairs()), ids=lambda case: case.name)
def test_rounding_is_passed_through_and_clipping_is_not(case: Case) -> None:
    check(case)


def test_codes_are_moved_between_and_typed_by_an_attribute() -> None:
    """Of int8 by ``output_dtype``: half of the values are negative, and all have a gradient."""
    scale = {"s": np.array(0.1, np.float32), "t": np.array([5, 12])}
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=3),
        node("Reshape", ["q", "t"], ["r"]),
        node("DequantizeLinear", ["r", "s"], ["y"]),
    ]
    case = Case("moved", nodes, {"x": (4, 3, 5)}, scale, opset=21, exact=False)
    found = gradients(
        case, {"x": np.linspace(-9, 9, 60).reshape(4, 3, 5)}, np.ones((5, 12)), np.float32, by_runtime
    )
    assert found["x"] == pytest.approx(np.ones((4, 3, 5)))


def test_scales_of_blocks_are_named() -> None:
    points = {"s": np.full((2, 2), 0.01, np.float32), "z": np.zeros((2, 2), np.int8)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1, block_size=2),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1, block_size=2),
    ]
    case = Case("blocks", nodes, {"x": (2, 4)}, points, opset=21)
    with pytest.raises(NoGradient, match="does not cover this use of it"):
        gradients(case, {"x": np.ones((2, 4))}, np.ones((2, 4)), np.float32, by_runtime)
