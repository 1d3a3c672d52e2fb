"""Two model files beside one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import running
from fake_plugins import Scale

from onnx_admm.api import compare, compress
from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays
from onnx_admm.errors import (
    UsageError,
)
from onnx_admm.model.analysis.text import parse_text


def test_compare_two_models(net: Path, samples: Path, tmp_path: Path) -> None:
    compress(net, tmp_path / "other.onnx", **running(Scale(factor=-1.0)), data=samples)
    found = compare(net, tmp_path / "other.onnx", samples, threads=1)
    (quality,) = found.quality
    assert quality.accuracy_before == 1.0
    assert quality.accuracy_after is not None
    assert quality.accuracy_after < 0.9
    itself = compare(net, net, from_arrays({"x": np.ones((4, 1, 8, 8), np.float32)}), threads=1)
    assert itself.quality[0].agreement == 1.0
    assert itself.file_ratio == 1.0


def test_compare_wants_the_same_inputs(net: Path, tiny_mlp: ModelView, tmp_path: Path) -> None:
    other = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[N,3] image) => (float[N,3] y) { y = Relu (image) }
    """)
    other.save(tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="do not have the same inputs; got image; expected x"):
        compare(net, tmp_path / "other.onnx")
