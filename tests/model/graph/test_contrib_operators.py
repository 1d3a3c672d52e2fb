"""Operators of ``com.microsoft``: their weights are compressed, and other constants have a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import pytest

from onnx_admm.api import compress
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.unsupported_weights import unsupported_weights

FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
RNG = np.random.default_rng(0)


def model(
    op: str,
    inputs: dict[str, tuple[int, list[int | str]]],
    weights: dict[str, tuple[int, ...]],
    **attributes: Any,
) -> onnx.ModelProto:
    """A node that reads its inputs, then its weights; a weight of no extent is left out."""
    names = [*inputs, *(name if shape else "" for name, shape in weights.items())]
    tensors = [
        nh.from_array(RNG.normal(0, 0.2, shape).astype(np.float32), name)
        for name, shape in weights.items()
        if shape
    ]
    graph = oh.make_graph(
        [oh.make_node(op, names, ["y"], "node", domain="com.microsoft", **attributes)],
        "g",
        [oh.make_tensor_value_info(name, *port) for name, port in inputs.items()],
        [oh.make_tensor_value_info("y", FLOAT, None)],
        tensors,
    )
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("com.microsoft", 1)]
    return oh.make_model(graph, opset_imports=opsets, ir_version=8)


X = {"x": (FLOAT, ["n", 64])}
CASES = {
    "FusedConv": (
        model(
            "FusedConv", {"x": (FLOAT, ["n", 16, 8, 8])}, {"w": (32, 16, 3, 3), "b": (32,)},
            activation="Relu", kernel_shape=[3, 3],
        ),
        {"w": (0, 1)},
    ),
    "FusedGemm": (model("FusedGemm", X, {"w": (64, 32), "b": (32,)}, activation="Relu"), {"w": (1, 0)}),
    "FusedGemm transposed": (
        model("FusedGemm", X, {"w": (32, 64), "b": (32,)}, activation="Relu", transB=1),
        {"w": (0, 1)},
    ),
    "FusedMatMul": (model("FusedMatMul", X, {"w": (64, 32)}, alpha=0.5), {"w": (1, 0)}),
    "FusedMatMul transposed": (model("FusedMatMul", X, {"w": (32, 64)}, transB=1), {"w": (0, 1)}),
    "Attention": (
        model("Attention", {"x": (FLOAT, ["n", 5, 32])}, {"w": (32, 96), "b": (96,)}, num_heads=4),
        {"w": (1, 0)},
    ),
    "EmbedLayerNormalization": (
        model(
            "EmbedLayerNormalization",
            {"ids": (INT, ["n", 6]), "segments": (INT, ["n", 6])},
            {"words": (100, 32), "places": (32, 32), "kinds": (2, 32), "gamma": (32,), "beta": (32,)},
        ),
        {"words": (0, 1), "places": (0, 1), "kinds": (0, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_are_found_and_compressed(case: str, tmp_path: Path) -> None:
    proto, expected = CASES[case]
    if case.startswith("EmbedLayer"):
        proto.graph.node[0].output.append("mask")
    onnx.save(proto, tmp_path / "in.onnx")
    view = ModelView.load(tmp_path / "in.onnx")
    assert {site.name: (site.out_axis, site.in_axis) for site in view.sites()} == expected
    assert unsupported_weights(view) == ()
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    quality = report.comparison.quality[0]
    assert quality.sqnr_db is not None
    assert quality.sqnr_db >= 20
    assert report.comparison.file_ratio > 2
    assert all(layer.bits < 16 for layer in report.comparison.after.layers if "kinds" not in layer.weight)


def test_a_table_that_is_no_weight_has_a_line() -> None:
    proto = model(
        "RotaryEmbedding",
        {"x": (FLOAT, ["n", 4, 64]), "places": (onnx.TensorProto.INT64, ["n", 4])},
        {"cos": (512, 16), "sin": (512, 16)},
        num_heads=2,
        rotary_embedding_dim=32,
    )
    view = ModelView.from_bytes(proto.SerializeToString())
    assert view.sites() == ()
    lines = {found.name: found.why_left() for found in unsupported_weights(view)}
    assert set(lines) == {"cos", "sin"}
    assert "RotaryEmbedding" in lines["cos"]


def test_operators_that_nobody_knows_have_a_line() -> None:
    proto = model("NoSuchOperator", X, {"w": (64, 32)})
    view = ModelView.from_bytes(proto.SerializeToString())
    assert [found.name for found in unsupported_weights(view)] == ["w"]
