"""Costs written onto the nodes of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_admm.api import annotate
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import ModelView
from onnx_admm.cost_models.storage import StorageCostModel
from onnx_admm.errors import UnknownExtent
from onnx_admm.model.analysis.text import parse_text

ADMM_NN = "onnx_admm.admm-nn"


def test_every_node_carries_its_cost(net: Path, tmp_path: Path) -> None:
    facts = annotate(net, tmp_path / "noted.onnx", cost_model("admm-nn"), {"N": 2})
    noted = ModelView.load(tmp_path / "noted.onnx")
    assert noted.ir_version >= 10
    priced = {row.node: row for row in facts.rows}
    assert len(noted.nodes()) >= 3
    for node in noted.nodes():
        notes = node.ir_node.metadata_props
        row = priced[node.name]
        assert notes[f"{ADMM_NN}.latency_s"] == f"{row.cost.latency_s:.6g}"
        assert notes[f"{ADMM_NN}.uncertainty"] == "0.5"
        assert (f"{ADMM_NN}.break_even" in notes) == bool(row.weight)
    conv = noted.nodes("Conv")[1].ir_node.metadata_props
    assert conv[f"{ADMM_NN}.option"] == "density 1, 32 bits, unstructured"
    assert float(conv[f"{ADMM_NN}.break_even"]) == pytest.approx(2.22, abs=0.04)
    total = sum(row.cost.latency_s or 0 for row in facts.rows)
    assert noted.metadata[f"{ADMM_NN}.latency_s.total"] == f"{total:.6g}"
    assert noted.metadata[f"{ADMM_NN}.composition"] == "the sum of the rows"
    assert noted.metadata[f"{ADMM_NN}.assumes"] == cost_model("admm-nn").assumes
    assert noted.metadata[f"{ADMM_NN}.bindings"] == "N=2"


def test_annotation_of_an_old_model_stands_on_the_model(tmp_path: Path) -> None:
    old = parse_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3] x) => (float[N,2] y) <float[3,2] w> { y = MatMul (x, w) }
    """)
    old.save(tmp_path / "old.onnx")
    annotate(tmp_path / "old.onnx", tmp_path / "noted.onnx", StorageCostModel("dense"))
    metadata = ModelView.load(tmp_path / "noted.onnx").metadata
    assert metadata["onnx_admm.storage.bytes:y"] == "24"
    assert metadata["onnx_admm.storage.break_even:y"] == "never"


def test_annotating_twice_is_annotating_once(net: Path, tmp_path: Path) -> None:
    annotate(net, tmp_path / "once.onnx", StorageCostModel())
    annotate(tmp_path / "once.onnx", tmp_path / "twice.onnx", StorageCostModel())
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()


def test_both_weights_of_a_recurrent_layer_are_named(tmp_path: Path) -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[5,1,3] x) => (float[5,1,1,2] y) <float[1,8,3] w, float[1,8,2] r>
        { y = LSTM <hidden_size = 2> (x, w, r) }
    """)
    view.save(tmp_path / "net.onnx")
    annotate(tmp_path / "net.onnx", tmp_path / "noted.onnx", cost_model("macs"))
    (lstm,) = ModelView.load(tmp_path / "noted.onnx").nodes()
    notes = lstm.ir_node.metadata_props
    assert notes["onnx_admm.macs.macs"] == str(5 * 8 * 5)
    assert notes["onnx_admm.macs.break_even"] == "w: 1; r: 1"


def test_nodes_without_a_price_say_why(tmp_path: Path) -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,2] y) <float[2,3] w>
        {
            t = Transpose (w)
            e = Einsum <equation = "...j->...j"> (x)
            y = MatMul (e, t)
        }
    """)
    view.save(tmp_path / "net.onnx")
    facts = annotate(tmp_path / "net.onnx", tmp_path / "noted.onnx", cost_model("macs"))
    transpose, einsum, product = ModelView.load(tmp_path / "noted.onnx").nodes()
    assert transpose.ir_node.metadata_props == {
        "onnx_admm.macs.folded": "computed once, when the model is loaded"
    }
    sentence = "the multiply-accumulates cannot be counted"
    assert einsum.ir_node.metadata_props == {"onnx_admm.macs.unpriced": sentence}
    assert product.ir_node.metadata_props["onnx_admm.macs.macs"] == "12"
    assert [(row.op_type, row.why) for row in facts.unpriced] == [("Einsum", sentence)]


def test_an_open_axis_leaves_nothing_behind(net: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownExtent, match="--bind N=1"):
        annotate(net, tmp_path / "noted.onnx", cost_model("macs"))
    assert not (tmp_path / "noted.onnx").exists()
