"""Two model files beside one another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import RunCommand, running
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


def test_agreement_is_never_called_accuracy(net: Path, run: RunCommand, tmp_path: Path) -> None:
    unlabelled = tmp_path / "x.npz"
    np.savez(unlabelled, x=np.ones((4, 1, 8, 8), np.float32))
    report = tmp_path / "r.json"
    for data in ([], ["--data", unlabelled]):
        command = ("compare", net, net, "--max-drop", "1", "--report", report, *data)
        code, shown, _ = run(*command)
        assert code == 0
        assert "same prediction" in shown
        assert "accuracy" not in shown
        quality = json.loads(report.read_text(encoding="utf-8"))["quality"][0]
        assert (quality["metric"], quality["drop_points"]) == ("agreement", 0.0)


def test_compare_wants_the_same_inputs(net: Path, tiny_mlp: ModelView, tmp_path: Path) -> None:
    other = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[N,3] image) => (float[N,3] y) { y = Relu (image) }
    """)
    other.save(tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="do not have the same inputs; got image; expected x"):
        compare(net, tmp_path / "other.onnx")


def test_a_comparison_is_a_gate_with_a_report(
    net: Path, samples: Path, tmp_path: Path, run: RunCommand
) -> None:
    report = tmp_path / "r.json"
    command = ("compare", net, net, "--data", samples, "--threads", "1", "-q", "--report", report)
    assert run(*command, "--max-drop", "0.5%") == (0, "", "")
    told = json.loads(report.read_text(encoding="utf-8"))
    assert (told["verdict"], told["promises"][0]["required"], told["file_ratio"]) == ("met", 0.5, 1)
    code, out, err = run(*command, "--min-ratio", "20X")
    assert (code, out) == (3, "")
    assert "not small enough; got 1 times smaller; expected at least 20" in err
    told = json.loads(report.read_text(encoding="utf-8"))
    assert (told["verdict"], told["missed"]["name"]) == ("missed", "min_ratio")


def test_the_report_never_takes_the_place_of_what_is_read(net: Path, run: RunCommand) -> None:
    before = net.read_bytes()
    code, _, err = run("compare", net, net, "--report", net)
    assert code == 2
    assert "would overwrite" in err
    assert net.read_bytes() == before


@pytest.mark.parametrize("flag", ["--max-drop", "--min-ratio"])
def test_what_is_no_amount_is_wrong_usage(net: Path, run: RunCommand, flag: str) -> None:
    code, _, err = run("compare", net, net, flag, "much")
    assert code == 2
    assert f"{flag}: not a number; got 'much'" in err


def test_the_width_of_tables_is_that_of_the_reader(
    net: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert max(map(len, run("inspect", net)[1].splitlines())) <= 30
    monkeypatch.delenv("COLUMNS")
    assert max(map(len, run("inspect", net)[1].splitlines())) > 30
