"""Encode with format auto: the smallest form that holds, never a slower or larger one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CONV_NET, MLP, conv_net
from encoded_models import encode, feeds, run
from quantised_models import quantised

from onnx_admm.contracts import ModelView
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.text import parse_text

WIDE_NET = conv_net((4, 64), 3)
OF_OPSET_7 = """
    <ir_version: 3, opset_import: ["" : 7]>
    of_opset_7 (float[1,3,16,16] x, float[64,3,3,3] w) => (float[1,64,14,14] y)
    <float[64,3,3,3] w>
    {
        scaled = ImageScaler <bias = [1.0, 2.0, 3.0], scale = 0.5> (x)
        y = Conv (scaled, w)
    }"""
"""ImageScaler left the standard after opset 7: the model stays where it is."""
DECODING = {"TopK", "CumSum", "ScatterElements", "Mod", "Div", "Gather", "Split", "Cast", "Pad", "Mul"}


def test_auto_takes_the_smallest_form_that_holds() -> None:
    dense = quantised(parse_text(WIDE_NET), 0.2)
    view, report = encode(dense)
    (trial,) = report.figures["trials"]
    assert trial["verdict"] == "taken"
    assert trial["format"] == report.figures["format"] == "packed"
    assert trial["bytes"] == len(view.to_bytes()) < len(dense.to_bytes())
    assert trial["sqnr_db"] > 100


def test_auto_never_takes_a_slower_form() -> None:
    dense = quantised(parse_text(MLP.replace("16", "64")), 0.2)
    view, report = encode(dense, slowdown=0.0)
    assert not report.changed
    assert {trial["verdict"] for trial in report.figures["trials"]} <= {"slower", "no smaller than before"}
    assert view.to_bytes() == dense.to_bytes()


def test_auto_leaves_a_sparse_file_sparse_where_nothing_is_smaller() -> None:
    sparse, _ = encode(quantised(parse_text(CONV_NET), 0.05), format="sparse")
    view, report = encode(sparse, slowdown=0.0)
    assert not report.changed
    assert report.figures["format"] == "sparse"
    assert view.to_bytes() == sparse.to_bytes()


def test_kept_weights_on_no_grid_are_stored_as_they_are_beside_their_gaps(tmp_path: Path) -> None:
    wide = (
        MLP.replace("[8,16]", "[8,99]")
        .replace("[16]", "[99]")
        .replace("[3,16]", "[90,99]")
        .replace("3]", "90]")
    )
    view = quantised(parse_text(wide), density=1.0, levels=3)
    first, second = [site.name for site in view.sites()][:2]
    rng = np.random.default_rng(5)
    weights = rng.standard_normal(view.read(second).shape).astype(np.float32)
    view.replace(second, weights * (rng.random(weights.shape) < 0.1))  # on no grid
    encoded, report = encode(view)
    whats = {edit.layer: edit.what for edit in report.edits}
    assert re.fullmatch(r"gaps \(Rice \d\), plain values", whats[second])
    assert first in whats
    (row,) = (row for row in report.figures["layers"] if row["layer"] == second)
    assert row["data_bytes"] == 4 * row["nonzeros"] == 4 * np.count_nonzero(view.read(second))
    assert 4 * row["nonzeros"] / 8 < row["index_bytes"] < row["elements"] / 8
    encoded.save(tmp_path / "once.onnx")
    onnx.checker.check_model(str(tmp_path / "once.onnx"), full_check=True)
    again, repeated = encode(ModelView.load(tmp_path / "once.onnx"))
    assert not repeated.changed
    np.testing.assert_array_equal(again.read(second), view.read(second))
    np.testing.assert_array_equal(run(tmp_path / "once.onnx", feeds(view)), run(view, feeds(view)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("density", [0.9, 0.5, 0.02, 0.001])
def test_kept_values_come_back_to_the_bit(density: float, dtype: type) -> None:
    kind = "float16" if dtype is np.float16 else "float"
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((300, 40)).astype(dtype) * (rng.random((300, 40)) < density)
    text = f"g ({kind}[N,300] x) => ({kind}[N,40] y) {{ y = MatMul (x, w) }}"
    view = parse_text(f'<ir_version: 10, opset_import: ["" : 17]> {text}', constants={"w": weight})
    encoded, report = encode(view, format="packed")
    np.testing.assert_array_equal(encoded.read("w"), weight)
    assert len(encoded.to_bytes()) < len(view.to_bytes()) * (density * 1.1 + 0.13) + 900
    assert ("plain values" in report.edits[0].what) == (np.count_nonzero(weight) > 256)


def test_auto_takes_no_sparse_form_that_onnx_refuses(tmp_path: Path) -> None:
    """Double weights have no packed form here; the sparse one would be smaller, and fail the full check."""
    text = "g (double[N,64] x) => (double[N,64] y) { y = MatMul (x, w) }"
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((64, 64)) * (rng.random((64, 64)) < 0.1)
    view = parse_text(f'<ir_version: 10, opset_import: ["" : 17]> {text}', constants={"w": weight})
    encoded, report = encode(view)
    assert not report.changed
    assert report.figures["format"] == "dense"
    encoded.save(tmp_path / "out.onnx")
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)
    asked, _ = encode(view, format="sparse")
    assert len(asked.to_bytes()) < len(view.to_bytes()) / 4


def test_auto_never_writes_a_larger_file() -> None:
    tiny = "float[2,2] w1, float[2] b1, float[1,2] w2, float[1] b2"
    text = MLP.replace("float[8,16] w1, float[16] b1, float[3,16] w2, float[3] b2", tiny)
    dense = quantised(parse_text(text.replace("[N,8]", "[N,2]").replace("[N,3]", "[N,1]")), 0.5)
    _, report = encode(dense)
    assert not report.changed


def test_impossible_settings_are_refused() -> None:
    view = parse_text(MLP)
    for wrong in ({"bias_bits": 4}, {"float8_biases": True}, {"format": "zip"}):
        with pytest.raises(PassRefused):
            encode(view, **wrong)
