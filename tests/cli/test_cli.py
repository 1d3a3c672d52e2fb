"""The commands: what each prints, what it exits with, what it writes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from conftest import RunCommand
from fake_plugins import register

from onnx_admm.contracts import ModelView
from onnx_admm.report import Report


def test_compress_reports_and_writes(run: RunCommand, net: Path, samples: Path, recipe: Path) -> None:
    target, report = net.parent / "small.onnx", net.parent / "report.json"
    code, out, err = run(
        "compress", net, target, "--data", samples, "--test", samples, "--recipe", recipe, "--report", report,
        "--threads", 1, "-v",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for piece in (
        "file bytes",
        "accuracy (validation, 30 samples)",
        "accuracy (test, 300 samples)",
        "latency, us",
    ):
        assert piece in out
    assert f"{target} written in" in out
    assert ModelView.load(target).read("w1").shape == (4, 1, 3, 3)
    assert Report.from_json(report.read_text()).seed == 0


def test_quiet_says_nothing(run: RunCommand, net: Path, recipe: Path) -> None:
    assert run("compress", net, net.parent / "small.onnx", "--recipe", recipe, "-q") == (0, "", "")


def test_dry_run_writes_nothing(run: RunCommand, net: Path, samples: Path, recipe: Path) -> None:
    before = sorted(os.listdir(net.parent))
    code, out, _ = run(
        "compress", net, net.parent / "s.onnx", "--data", samples, "--recipe", recipe, "--dry-run"
    )
    assert code == 0
    assert "factor = 0.9" in out
    assert "train: 270 samples" in out
    assert "Dry run: nothing was run or written." in out
    assert sorted(os.listdir(net.parent)) == before


def test_over_budget_is_3(run: RunCommand, net: Path, samples: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("0.9", "-1.0"))
    target = net.parent / "small.onnx"
    arguments = ["compress", net, target, "--data", samples, "--val", samples, "--recipe", recipe]
    code, out, err = run(*arguments, "--max-drop", 5)
    assert code == 3
    assert "file bytes" in out
    assert re.fullmatch(r"error: accuracy drops too much .* expected at most 5\. .*--keep writes it\.\n", err)
    assert not target.exists()
    assert run(*arguments, "--max-drop", 5, "--keep", "-q")[0] == 3
    assert target.exists()
    assert run(*arguments, "--max-drop", 100, "-q")[0] == 0


def test_inspect(run: RunCommand, net: Path) -> None:
    code, out, _ = run("inspect", net)
    assert code == 0
    assert "4x1x3x3" in out
    assert "net.onnx: " in out
    code, out, _ = run("inspect", net, "--json")
    assert json.loads(out)["parameters"] == 324


def test_annotate(run: RunCommand, net: Path) -> None:
    code, out, _ = run("annotate", net, net.parent / "noted.onnx")
    assert code == 0
    assert "8 nodes priced by 'storage', 0 not" in out
    assert "onnx_admm.storage.bytes.total" in ModelView.load(net.parent / "noted.onnx").metadata


def test_compare_is_a_gate(run: RunCommand, net: Path, samples: Path) -> None:
    code, out, _ = run("compare", net, net, "--data", samples, "--threads", 1, "--json")
    assert code == 0
    assert json.loads(out)["quality"][0]["samples"] == 300
    code, out, err = run("compare", net, net, "--threads", 1, "--min-ratio", 2)
    assert code == 3
    assert "file bytes" in out
    assert err == "error: the file is not small enough; got 1 times smaller; expected at least 2\n"
    assert run("compare", net, net, "--threads", 1, "--max-drop", 0, "--min-ratio", 1)[0] == 0


def test_plugins_lists_them(run: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = {"onnx_admm.passes": {"scale": "fake_plugins:Scale", "gone": "no_such_module:Gone"}}
    register(monkeypatch, tmp_path, entry)
    code, out, _ = run("plugins")
    assert code == 0
    for piece in (
        "fake_plugins:Scale",
        "fake-plugins 1.2.3",
        "Multiplies every weight.",
        "storage",
        "broken: ",
    ):
        assert piece in out
