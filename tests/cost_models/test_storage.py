"""The storage cost model: bytes by format."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import CompressionOption, CostModel, LayerProfile
from onnx_admm.cost_models.storage import StorageCostModel
from onnx_admm.encoding.coders.bits import rice_bits
from onnx_admm.pricing.pricing import break_even
from onnx_admm.testing import check_cost_model


def gemm(name: str, rows: int, columns: int) -> LayerProfile:
    size = rows * columns
    return LayerProfile(
        node=name,
        op_type="Gemm",
        weight=f"{name}.w",
        weight_shape=(rows, columns),
        out_axis=0,
        parameters=size,
        nonzeros=size,
        macs=size,
    )


FC1 = gemm("fc1", 500, 800)


def price(format: str, density: float = 1.0, bits: int = 32, structure: str = "unstructured") -> float:
    cost = StorageCostModel(format).estimate(FC1, CompressionOption(density, bits, structure)).bytes  # type: ignore[arg-type]
    assert cost is not None
    return cost


def test_it_comes_through_its_entry_point() -> None:
    model = cost_model("storage")
    assert isinstance(model, CostModel)
    assert isinstance(model, StorageCostModel)


@pytest.mark.parametrize("format", ["auto", "dense", "qdq", "sparse", "packed"])
def test_it_keeps_the_contract(format: str) -> None:
    check_cost_model(StorageCostModel(format))  # type: ignore[arg-type]


def test_known_figures() -> None:
    assert price("dense", 0.1, 4) == 1_600_000
    assert price("qdq", 1.0, 8) == 400_000 + 500 * 5
    assert price("qdq", 1.0, 3) == 200_000 + 500 * 5
    assert price("sparse", 0.01) == 4_000 * 7
    assert price("packed", 0.5, 4, "2:4") == 200_000 * 6 / 8 + 64
    assert price("packed", 0.5, 4, "channel") == 200_000 * 4 / 8 + 64


def test_index_is_near_what_random_supports_need() -> None:
    """Little above Shannon's bound n H(d), as far as whole bits of Rice code can be."""
    for density in (0.002, 0.01, 0.05, 0.2):
        index = price("packed", density, 2) - density * 400_000 * 2 / 8 - 16
        bound = 400_000 * (-density * math.log2(density) - (1 - density) * math.log2(1 - density)) / 8
        assert bound <= index <= 1.05 * bound


def test_gap_formula_agrees_with_a_count() -> None:
    """Against the Rice code of a random support."""
    positions = np.flatnonzero(np.random.default_rng(0).random(400_000) < 0.01)
    counted = min(rice_bits(positions, low) for low in range(17))
    assert price("packed", 0.01, 2) - 4_000 * 2 / 8 - 16 == pytest.approx(counted / 8, rel=0.02)


def test_where_little_is_zero_digits_are_cheaper_than_gaps() -> None:
    assert price("packed", 0.95, 1) == pytest.approx(400_000 * 1.6 / 8 + 8)  # five ternary digits to a byte


@given(density=st.floats(0, 1), bits=st.integers(1, 32))
def test_auto_is_the_cheapest(density: float, bits: int) -> None:
    assert price("auto", density, bits) == min(
        price(format, density, bits) for format in ("dense", "qdq", "sparse", "packed")
    )


def test_break_even_is_where_the_costs_cross() -> None:
    model = StorageCostModel("packed")
    for bits in (2, 3, 8):
        ratio = break_even(model, FC1, bits)
        at, before = 1 / ratio, 1 / ratio + 2 / FC1.parameters
        assert price("packed", at, bits) < price("packed", 1.0, bits) <= price("packed", before, bits)
        assert 1.1 < ratio < 3
    assert break_even(model, FC1, 2) > break_even(model, FC1, 8)


def test_zeros_save_nothing_where_they_are_stored() -> None:
    assert break_even(StorageCostModel("dense"), FC1, 8) == math.inf
    assert break_even(StorageCostModel("qdq"), FC1, 8) == math.inf


def test_a_layer_without_weights_takes_no_bytes() -> None:
    relu = LayerProfile(node="r", op_type="Relu")
    assert StorageCostModel().estimate(relu, CompressionOption()).bytes == 0


def test_double_weights_take_eight_bytes() -> None:
    assert price("dense", bits=64) == 8 * 400_000
    assert price("auto", bits=64) == 8 * 400_000
