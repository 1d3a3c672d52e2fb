"""Where time, energy and bytes go: as data, as JSON and as a table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import RunCommand

from onnx_admm.api import inspect_costs
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import CompressionOption, ModelView
from onnx_admm.model.analysis.text import parse_text

BOARD = "roofline:raspberry-pi-4"


def test_shares_gains_and_break_even_of_each_row(net: Path) -> None:
    facts = inspect_costs(net, cost_model("admm-nn"), {"N": 1})
    rows = {row.weight: row for row in facts.rows if row.weight}
    assert sum(row.shares["macs"] or 0 for row in facts.rows) == pytest.approx(1.0)
    conv = rows["w2"]
    assert conv.shares["macs"] == 16 * 216 / (64 * 36 + 16 * 216 + 72)
    assert conv.option == CompressionOption()
    assert conv.break_even == pytest.approx(2.22, abs=0.03)
    assert set(conv.gains) == {"90 % zeros", "8 bits", "4 bits"}
    factor = (conv.gains["90 % zeros"].latency_s or 0) / (conv.cost.latency_s or 1)
    assert factor == pytest.approx(1 / 6.6)
    assert (facts.quantity, facts.composition, facts.bindings) == (
        "latency_s",
        "the sum of the rows",
        {"N": 1},
    )
    by_bytes = inspect_costs(net, cost_model(BOARD), {"N": 1}, "bytes")
    assert {row.break_even for row in by_bytes.rows if row.weight} == {math.inf}


def test_only_what_a_weight_has_not_got_is_a_gain(tmp_path: Path) -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[1,2] x) => (float[1,8] y) <float[2,8] w =
            {1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0}>
        { y = MatMul (x, w) }""")
    view.save(tmp_path / "sparse.onnx")
    (row,) = inspect_costs(tmp_path / "sparse.onnx", cost_model("macs")).rows
    assert set(row.gains) == {"8 bits", "4 bits"}
    assert row.cost.macs == 1


def test_json_has_every_row_and_no_number_that_is_not_one(run: RunCommand, net: Path) -> None:
    code, out, _ = run("inspect", net, "--cost-model", BOARD, "--bind", "N=1", "--json")
    assert code == 0
    facts = json.loads(out)
    assert [row["op_type"] for row in facts["rows"]] == [
        "Conv", "Relu", "MaxPool", "Conv", "Relu", "MaxPool", "Flatten", "Gemm",
    ]  # fmt: skip
    assert facts["rows"][0]["break_even"] is None
    assert facts["rows"][0]["gains"]["8 bits"]["latency_s"] > 0
    assert facts["quantities"] == ["latency_s", "bytes", "macs", "mac_bits"]
    assert facts["total"]["latency_s"] == pytest.approx(
        sum(row["cost"]["latency_s"] for row in facts["rows"])
    )


def test_the_table_says_what_a_reader_needs(run: RunCommand, net: Path) -> None:
    code, out, _ = run("inspect", net, "--cost-model", BOARD, "--bind", "N=1")
    assert code == 0
    assert "latency, us" in out
    assert "never" in out
    assert "2 without weights  MaxPool" in out
    assert "The total is the sum of the rows, uncertain by 50 %; the costs are predicted." in out
    assert "'roofline' assumes: Raspberry Pi 4" in out


def test_the_table_lists_what_is_not_priced(run: RunCommand, tmp_path: Path) -> None:
    view: ModelView = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[2,3] x) => (float[2,4] y) <float[3,4] w>
        { e = Einsum <equation = "...j->...j"> (x) y = MatMul (e, w) }""")
    view.save(tmp_path / "net.onnx")
    code, out, _ = run("inspect", tmp_path / "net.onnx", "--cost-model", "macs")
    assert code == 0
    assert "Not priced, not in the total: 1 Einsum (the multiply-accumulates cannot be counted)." in out
