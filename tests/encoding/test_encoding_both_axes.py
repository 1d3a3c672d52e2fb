"""Bytes with scales on both axes: found from the values alone, decoded the same, chosen where due."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_admm.api import compress
from onnx_admm.contracts import PassContext
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.column_shifts import LARGEST_SHIFT, balanced_columns, split_codes
from onnx_admm.encoding.coders.fine_coder import FineCoder, ShiftedByteCoder, fine_coder
from onnx_admm.encoding.compression_options import BOTH_AXES, BYTES, Treated
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime.sessions import open_session

NET = """<ir_version: 8, opset_import: ["" : 13]>
g (float[N, ROWS] x) => (float[N, COLUMNS] y) { y = MatMul (x, w) }"""


def spread(shape: tuple[int, ...], axis: int, seed: int = 0, span: float = 5.0) -> npt.NDArray[np.float32]:
    """Normal values whose columns, along the axis, differ in size by up to 2^span."""
    rng = np.random.default_rng(seed)
    sizes = np.exp2(rng.uniform(-span, 0, shape[axis]))
    sizes[0], sizes[-1] = 2.0**-span, 1.0
    return (
        rng.normal(size=shape) * sizes.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    ).astype(np.float32)


def squared_error(values: npt.NDArray[np.floating], rounded: npt.NDArray[np.floating]) -> float:
    return float(np.square(rounded.astype(float) - values).sum() / np.square(values.astype(float)).sum())


@given(seed=st.integers(0, 10**6), rows=st.integers(2, 40), columns=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_a_rounding_is_found_again(seed: int, rows: int, columns: int) -> None:
    """Also where a row's codes are all even, so that its scale is found twice as large."""
    rounded = Treated(spread((rows, columns), 1, seed), 0).apply(BOTH_AXES)
    weight = Weight("w", rounded)
    if weight.size < 64 or weight.grid is not None or weight.channel_grid is not None:
        return  # few elements, or one scale for each row holds them
    assert isinstance(fine_coder(weight), ShiftedByteCoder)
    grid = weight.fine_grid
    assert grid is not None
    split = split_codes(grid.codes, grid.scale, 0)
    assert split is not None
    np.testing.assert_array_equal(split.codes * split.columns * split.rows, rounded)
    assert np.all(np.log2(split.columns) % 1 == 0)
    assert split.columns.max() <= 2**LARGEST_SHIFT


@pytest.mark.parametrize(
    ("shape", "axis", "columns"),
    [((48, 64), 0, 1), ((64, 48), 1, 0), ((16, 24, 3, 3), 0, 1), ((1, 96, 40), 1, 2)],
)
def test_the_error_falls_as_estimated(shape: tuple[int, ...], axis: int, columns: int) -> None:
    treated = Treated(spread(shape, columns), axis)
    plain, both = (squared_error(treated.values, treated.apply(r)) for r in (BYTES, BOTH_AXES))
    assert both < 0.6 * plain
    assert treated.expected_error(BOTH_AXES) / treated.expected_error(BYTES) == pytest.approx(
        both / plain, rel=0.25
    )
    assert BOTH_AXES in treated.further


def test_columns_of_equal_size_need_no_scales() -> None:
    treated = Treated(np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32), 0)
    assert BOTH_AXES not in treated.further
    assert balanced_columns(np.zeros((4, 6), np.float32), 0, 1).error == 1.0


@pytest.mark.parametrize(("shape", "axis"), [((64,), 0), ((40, 60), None), ((1, 60), 0), ((40, 0), 0)])
def test_weights_without_rows_and_columns_have_none(shape: tuple[int, ...], axis: int | None) -> None:
    values = spread(shape, len(shape) - 1) if 0 not in shape else np.zeros(shape, np.float32)
    treated = Treated(values, axis)
    assert BOTH_AXES not in treated.further
    if values.size:
        np.testing.assert_array_equal(treated.apply(BOTH_AXES), treated.apply(BYTES))


def test_dead_columns_do_not_count() -> None:
    values = spread((48, 64), 1)
    values[:, ::2] = 0
    treated = Treated(values, 0)
    plain, both = (squared_error(values, treated.apply(r)) for r in (BYTES, BOTH_AXES))
    assert treated.expected_error(BOTH_AXES) / treated.expected_error(BYTES) == pytest.approx(
        both / plain, rel=0.3
    )
    assert treated.stored_bytes(BOTH_AXES) > values.size


def test_half_floats_hold_no_such_products() -> None:
    assert BOTH_AXES not in Treated(spread((40, 60), 1).astype(np.float16), 0).further


def test_codes_of_twelve_bits_in_one_column_take_twelve() -> None:
    codes = np.random.default_rng(0).integers(-2047, 2048, size=(24, 40))
    codes[:, :2] = [1, 2047]
    coder = fine_coder(Weight("w", (codes * np.float32(0.5)).astype(np.float32)))
    assert isinstance(coder, FineCoder)
    assert coder.bits == 12


@pytest.mark.parametrize("size", [(40, 24), (300, 300)])
def test_the_written_file_computes_the_same(size: tuple[int, int], tmp_path: Path) -> None:
    """In the plan of small weights, and by itself as a large one; with graph optimisation and without."""
    text = NET.replace("ROWS", str(size[0])).replace("COLUMNS", str(size[1]))
    values = Treated(spread(size, 0), 1).apply(BOTH_AXES)
    model = parse_text(text, constants={"w": values})
    before = model.to_bytes()
    report = Encode("packed").run(model, PassContext(reference=model))
    assert report.figures["layers"][0]["coding"] == "bytes, scales on both axes"
    model.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size < values.size + 4 * sum(size) + 1000
    np.testing.assert_array_equal(ModelView.load(tmp_path / "out.onnx").read("w"), values)
    feeds = {"x": np.random.default_rng(1).normal(size=(3, size[0])).astype(np.float32)}
    expected = open_session(ModelView.from_bytes(before)).run(feeds)["y"]
    for optimize in (True, False):
        got = open_session(tmp_path / "out.onnx", optimize=optimize).run(feeds)["y"]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_bare_command_takes_them_where_small_columns_meet_large_inputs(tmp_path: Path) -> None:
    """The first layer gives channels of very different size, which the second one balances."""
    rng, sizes = np.random.default_rng(3), np.exp2(np.linspace(-6, 0, 96))
    first = (rng.normal(size=(32, 96)) / sizes).astype(np.float32)
    second = (rng.normal(size=(96, 160)) * sizes[:, None]).astype(np.float32)
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, 32] x) => (float[N, 160] y) { a = MatMul (x, v) r = Relu (a) y = MatMul (r, w) }"""
    model = parse_text(text, constants={"v": first, "w": second})
    model.save(tmp_path / "in.onnx")
    data = tmp_path / "x.npz"
    np.savez(data, x=rng.normal(size=(64, 32)).astype(np.float32))
    compress(
        tmp_path / "in.onnx", tmp_path / "out.onnx", data=data, weights_only=True, report=tmp_path / "r.json"
    )
    assert "scales on both axes" in (tmp_path / "r.json").read_text()
