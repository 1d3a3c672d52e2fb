"""Costs written onto the nodes of a model."""

from __future__ import annotations

from pathlib import Path

from onnx_admm.api import annotate
from onnx_admm.contracts import ModelView
from onnx_admm.cost_models.storage import StorageCostModel
from onnx_admm.model.text import parse_text


def test_annotation_stands_on_the_nodes(net: Path, tmp_path: Path) -> None:
    costs = annotate(net, tmp_path / "noted.onnx", StorageCostModel())
    noted = ModelView.load(tmp_path / "noted.onnx")
    assert noted.ir_version >= 10
    for node in noted.nodes():
        figure = node.ir_node.metadata_props.get("onnx_admm.storage.bytes")
        assert figure == (f"{costs[node.name].bytes:.6g}" if node.name in costs else None)
    expected = f"{sum(cost.bytes or 0 for cost in costs.values()):.6g}"
    assert noted.metadata["onnx_admm.storage.bytes.total"] == expected
    assert noted.metadata["onnx_admm.storage.assumes"] == StorageCostModel.assumes


def test_annotation_of_an_old_model_stands_on_the_model(tmp_path: Path) -> None:
    old = parse_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3] x) => (float[N,2] y) <float[3,2] w> { y = MatMul (x, w) }
    """)
    old.save(tmp_path / "old.onnx")
    annotate(tmp_path / "old.onnx", tmp_path / "noted.onnx", StorageCostModel("dense"))
    assert ModelView.load(tmp_path / "noted.onnx").metadata["onnx_admm.storage.bytes:y"] == "24"


def test_annotating_twice_is_annotating_once(net: Path, tmp_path: Path) -> None:
    annotate(net, tmp_path / "once.onnx", StorageCostModel())
    annotate(tmp_path / "once.onnx", tmp_path / "twice.onnx", StorageCostModel())
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()
