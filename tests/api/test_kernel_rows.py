"""The table of kernels of a comparison: what the runtime makes of each layer of two models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import CONV_NET, RunCommand

from onnx_admm.api import compare
from onnx_admm.api.kernel_rows import kernel_rows
from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and the same with another activation behind its first layer and other names of weights."""
    model = parse_text(CONV_NET)
    model.save(tmp_path / "a.onnx")
    parse_text(CONV_NET.replace("w1", "v1").replace("w2", "v2").replace("w3", "v3")).save(tmp_path / "b.onnx")
    return tmp_path / "a.onnx", tmp_path / "b.onnx"


def test_each_layer_has_its_kernels_in_both(files: tuple[Path, Path], made_up_times: object) -> None:
    rows = compare(*files, threads=1, kernels=True).kernels
    assert [row.layer for row in rows] == ["w1", "w2", "w3", ""]
    assert ["Conv" in row.before for row in rows] == [True, True, False, False]
    assert all(row.before == row.after for row in rows)
    assert all(row.before_us is not None and row.before_us > 0 for row in rows[:3])


def test_without_the_flag_nothing_is_timed(files: tuple[Path, Path]) -> None:
    assert compare(*files, threads=1).kernels == ()


def test_the_command_prints_them(files: tuple[Path, Path], run: RunCommand, made_up_times: object) -> None:
    code, out, _ = run("compare", *files, "--threads", 1, "--kernels")
    assert code == 0
    assert "kernels before" in out
    assert "all other nodes" in out
    code, out, _ = run("compare", *files, "--threads", 1, "--kernels", "--json")
    assert json.loads(out)["kernels"][0]["before"][0] == "Conv"


def test_layers_of_other_operators_are_not_paired(tmp_path: Path, made_up_times: object) -> None:
    models = {
        "a": "(float[N,1,8,8] x) => (float[N,4,1,1] y) <float[4,1,8,8] k> { y = Conv (x, k) }",
        "b": "(float[N,1,8,8] x) => (float[N,4] y) <float[64,4] v> { f = Flatten (x) y = MatMul (f, v) }",
    }
    for name, body in models.items():
        parse_text(f'<ir_version: 8, opset_import: ["" : 17]> net {body}').save(tmp_path / f"{name}.onnx")
    first, second = (ModelView.load(tmp_path / f"{name}.onnx") for name in "ab")
    data = from_arrays({"x": np.zeros((2, 1, 8, 8), np.float32)})
    rows = kernel_rows(first, second, data, 1)
    assert [(row.layer, bool(row.before), bool(row.after)) for row in rows[:2]] == [
        ("k", True, False),
        ("v", False, True),
    ]
