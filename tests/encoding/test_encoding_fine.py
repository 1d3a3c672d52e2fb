"""Codes of 10 and 12 bits: found from the values alone, stored in their bits, decoded to the same values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_admm.api import inspect_model
from onnx_admm.contracts import PassContext
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.fine_coder import fine_coder
from onnx_admm.encoding.compression_options import FINE, Treated
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime.sessions import open_session

RNG = np.random.default_rng(0)
NET = """<ir_version: 8, opset_import: ["" : 13]>
g (float[N, ROWS] x) => (float[N, COLUMNS] y) { y = MatMul (x, w) }"""


@pytest.mark.parametrize(
    ("shape", "axis"), [((17, 33), 0), ((33, 17), 1), ((8, 4, 3, 3), 0), ((9, 40), None)]
)
@pytest.mark.parametrize("rounding", FINE, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rounding_is_found_again(
    shape: tuple[int, ...], axis: int | None, rounding: object, dtype: type[np.floating]
) -> None:
    values = Treated(RNG.normal(size=shape).astype(dtype), axis).apply(rounding)  # type: ignore[arg-type]
    coder = fine_coder(Weight("w", values))
    assert coder is not None
    assert coder.bits == FINE[rounding]  # type: ignore[index]


@pytest.mark.parametrize("size", [(24, 40), (300, 300)])
@pytest.mark.parametrize("rounding", FINE, ids=str)
def test_the_written_file_computes_the_same(size: tuple[int, int], rounding: object, tmp_path: Path) -> None:
    """In the plan of small weights, and by itself as a large one; with graph optimisation and without."""
    text = NET.replace("ROWS", str(size[0])).replace("COLUMNS", str(size[1]))
    values = Treated(RNG.normal(size=size).astype(np.float32), 1).apply(rounding)  # type: ignore[arg-type]
    model = parse_text(text, constants={"w": values})
    before = model.to_bytes()
    Encode("packed").run(model, PassContext(reference=model))
    model.save(tmp_path / "out.onnx")
    codes = values.size * FINE[rounding] / 8  # type: ignore[index]
    assert (tmp_path / "out.onnx").stat().st_size < codes + 4 * size[1] + 1000
    np.testing.assert_array_equal(ModelView.load(tmp_path / "out.onnx").read("w"), values)
    feeds = {"x": RNG.normal(size=(3, size[0])).astype(np.float32)}
    expected = open_session(ModelView.from_bytes(before)).run(feeds)["y"]
    for optimize in (True, False):
        got = open_session(tmp_path / "out.onnx", optimize=optimize).run(feeds)["y"]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    (layer,) = inspect_model(tmp_path / "out.onnx").layers
    assert layer.bits == FINE[rounding]  # type: ignore[index]


def test_values_on_no_grid_are_left() -> None:
    assert fine_coder(Weight("w", RNG.normal(size=(16, 16)).astype(np.float32))) is None
    assert fine_coder(Weight("w", RNG.normal(size=(16, 16)).astype(np.float16))) is None


def test_codes_of_eight_bits_take_eight() -> None:
    coarse = (RNG.integers(-127, 128, size=(16, 16)) * 0.5).astype(np.float32)
    (row,) = (
        Encode("packed")
        .run(
            model := parse_text(NET.replace("ROWS", "16").replace("COLUMNS", "16"), constants={"w": coarse}),
            PassContext(reference=model),
        )
        .figures["layers"]
    )
    assert row["coding"] == "bytes"
