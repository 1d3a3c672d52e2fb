"""What stops a compression: budgets, what is refused before the work, failures during it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import running
from fake_plugins import Bloat, Scale, Shrink

from onnx_admm.api import Compression, compress, measure
from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays
from onnx_admm.errors import (
    BudgetExceeded,
    DataError,
    OutputError,
    PassRefused,
    PromiseMissed,
    RecipeError,
    UsageError,
)
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pipeline import PROVENANCE
from onnx_admm.report import Report
from onnx_admm.runtime.evaluation import Quality

# -- budgets ----------------------------------------------------------------------------------


def test_over_budget_nothing_is_written_but_the_report(net: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BudgetExceeded, match=r"drops too much on 30 validation samples; got .*--keep writes it"
    ):
        compress(
            net,
            tmp_path / "small.onnx",
            **running(Shrink(factor=-1.0)),
            data=samples,
            max_drop=1.0,
            report=tmp_path / "report.json",
        )
    assert not (tmp_path / "small.onnx").exists()
    report = Report.from_json((tmp_path / "report.json").read_text())
    assert not report.written
    assert report.exceeded is not None


def test_over_budget_is_written_when_kept(net: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded, match="The result was kept"):
        compress(
            net,
            tmp_path / "small.onnx",
            **running(Shrink(factor=-1.0)),
            data=samples,
            max_drop=1.0,
            keep=True,
        )
    assert (tmp_path / "small.onnx").exists()


def test_wrecked_outputs_are_not_written(net: Path, tmp_path: Path) -> None:
    """Without labels a result must keep 10 dB; weights times -1 leave nothing."""
    small = tmp_path / "small.onnx"
    small.write_text("what was there")
    with pytest.raises(
        PromiseMissed, match=r"scores changes too much on 16 synthetic samples; got -.*--data"
    ):
        compress(net, small, **running(Shrink(factor=-1.0)), report=tmp_path / "report.json")
    assert small.read_text() == "what was there"
    report = Report.from_json((tmp_path / "report.json").read_text())
    assert not report.written
    missed = next(promise for promise in report.comparison.promises if not promise.met)
    assert (missed.name, missed.required, missed.stated) == ("sqnr_db", 10.0, False)
    with pytest.raises(PromiseMissed, match="The result was kept") as caught:
        compress(net, small, **running(Shrink(factor=-1.0)), keep=True)
    assert caught.value.exit_code == 3
    assert ModelView.load(small).read("w1").any()


def test_with_labels_only_the_stated_drop_counts(net: Path, samples: Path, tmp_path: Path) -> None:
    """The outputs are others altogether, and the stated drop is kept to."""
    report = compress(
        net, tmp_path / "small.onnx", **running(Shrink(factor=5.0)), data=samples, max_drop=100.0
    )
    assert report.written
    quality = report.comparison.quality[0]
    assert quality.sqnr_db is not None
    assert quality.sqnr_db < 0.0
    assert [promise.name for promise in report.comparison.promises] == ["max_drop", "size"]


def test_within_budget(net: Path, samples: Path, tmp_path: Path) -> None:
    compress(net, tmp_path / "small.onnx", **running(Shrink(factor=1.0)), data=samples, max_drop=0.0)
    assert (tmp_path / "small.onnx").exists()


def test_a_larger_file_is_never_written(net: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PromiseMissed, match=r"larger than the original; got .* bytes; expected at most"
    ) as caught:
        compress(net, tmp_path / "large.onnx", **running(Bloat()))
    assert not (tmp_path / "large.onnx").exists()
    assert caught.value.exit_code == 3
    report = Compression(**running(Bloat(), keep=True)).run(net, tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx").exists()
    with pytest.raises(PromiseMissed, match="The result was kept"):
        report.raise_if_missed()
    assert "The result is no smaller than the original." in report.notes


def test_provenance_does_not_make_a_file_larger(net: Path, tmp_path: Path) -> None:
    compress(net, tmp_path / "same.onnx", **running(Scale(factor=0.95)))
    assert PROVENANCE not in ModelView.load(tmp_path / "same.onnx").metadata
    assert (tmp_path / "same.onnx").stat().st_size == net.stat().st_size
    compress(net, tmp_path / "small.onnx", **running(Shrink(factor=0.95)))
    assert ModelView.load(tmp_path / "small.onnx").metadata[PROVENANCE] == "shrink"


# -- refusals before the work, failures during it ---------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"prune": "85x"}, UsageError, "--recipe and --prune"),
        ({"bits": 3, "format": "packed"}, UsageError, "--recipe and --bits, --format"),
        ({"max_drop": 1.0}, UsageError, "--max-drop: no samples to measure a drop on"),
        ({"data": "none.npz"}, DataError, "no such file or folder"),
        ({"test": "none.npz"}, UsageError, r"none\.npz: no such file or folder"),
        ({"recipe": "none.toml"}, RecipeError, "cannot read the file"),
        ({"report": "nowhere/report.json"}, UsageError, "the folder for the report does not exist"),
        ({"seed": -1}, UsageError, "--seed: a number out of range; got -1"),
    ],
)
def test_what_is_refused_before_the_work(
    net: Path, changes: dict[str, object], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        compress(net, net.parent / "small.onnx", **(running(Shrink()) | changes))
    assert os.listdir(net.parent) == ["net.onnx"]


def test_impossible_budget(net: Path, samples: Path) -> None:
    with pytest.raises(UsageError, match="--max-drop: a number out of range; got -1"):
        compress(net, net.parent / "small.onnx", **running(Shrink()), data=samples, max_drop=-1.0)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("net.onnx", "would overwrite the model; nothing was done"),
        ("../{folder}/net.onnx", "would overwrite the model"),
        ("nowhere/small.onnx", r"the folder for the result does not exist. Create it: mkdir -p .*nowhere"),
        (".", "the path of the output file is a folder"),
    ],
)
def test_impossible_places(net: Path, target: str, sentence: str) -> None:
    before = net.read_bytes()
    place = net.parent / target.format(folder=net.parent.name)
    with pytest.raises(UsageError, match=sentence):
        compress(net, place, **running(Shrink()))
    assert net.read_bytes() == before


def test_disk_full_leaves_nothing(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.onnx").write_text("what was there")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        compress(net, tmp_path / "small.onnx", **running(Shrink()), keep=True)
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        compress(net, tmp_path / "small.onnx", **running(Shrink()), keep=True)
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "small.onnx"]
    assert (tmp_path / "small.onnx").read_text() == "what was there"


def test_a_file_that_means_two_things_is_not_written(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_difference", lambda model, feeds: 0.0 if Path(model) == net else 0.3)
    with pytest.raises(OutputError, match="computes something else when graph optimisation is on"):
        compress(net, tmp_path / "small.onnx", **running(Shrink()))
    assert os.listdir(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize(
    ("plain", "optimised", "holds"),
    [(25.0, 40.0, True), (12.0, 14.0, True), (12.0, 30.0, False), (19.0, 21.0, False), (-3.0, -3.0, False)],
)
def test_integers_may_round_otherwise_where_the_plain_run_is_as_near_to_the_original(
    plain: float, optimised: float, holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,4] y)
    <float scale = {0.03}, uint8 zero = {128}>
    { q = QuantizeLinear (x, scale, zero) d = DequantizeLinear (q, scale, zero) y = MatMul (d, w) }"""
    rng = np.random.default_rng(0)
    data = from_arrays({"x": rng.normal(size=(4, 8)).astype(np.float32)})
    weight = {"w": rng.normal(size=(8, 4)).astype(np.float32)}
    for name in ("in", "out"):
        parse_text(text, constants=weight).save(tmp_path / f"{name}.onnx")
    monkeypatch.setattr(measure, "_difference", lambda model, _: 0.0 if Path(model).stem == "in" else 0.3)
    found = iter([plain, optimised])

    def evaluate(*_: object, **__: object) -> Quality:
        ratio = next(found)
        return Quality(None, None, ratio, 2, judged_db={"y": ratio})

    monkeypatch.setattr(measure, "evaluate", evaluate)
    with contextlib.nullcontext() if holds else pytest.raises(OutputError, match="something else"):
        measure.check_runs(tmp_path / "in.onnx", tmp_path / "out.onnx", data)


def test_refusal_of_a_pass_leaves_nothing(tmp_path: Path) -> None:
    parse_text("""
        <ir_version: 10, opset_import: ["" : 17]> net (float[N,3] x) => (float[N,3] y) { y = Relu (x) }
    """).save(tmp_path / "net.onnx")
    with pytest.raises(PassRefused, match="pass 1 of 1, scale: no layer to scale"):
        compress(tmp_path / "net.onnx", tmp_path / "small.onnx", **running(Scale()))
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_unknown_setting_is_a_type_error(net: Path) -> None:
    with pytest.raises(TypeError, match="ratio"):
        compress(net, net.parent / "small.onnx", ratio=3)
