"""Compressing from Python: the flow from file to file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import running
from fake_plugins import Scale, Shrink

from onnx_admm.api import Compression, compress, inspect_model
from onnx_admm.api.notes import FRAGILE
from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays
from onnx_admm.report import Report


def test_plan_runs_nothing(net: Path, samples: Path) -> None:
    plan = Compression(**running(Scale()), data=samples).plan(net)  # type: ignore[arg-type]
    assert plan.train is not None
    assert plan.validation is not None
    assert (len(plan.train), len(plan.validation)) == (270, 30)
    assert plan.facts.parameters == inspect_model(net).parameters
    assert any("30 validation samples give only" in note for note in plan.notes)


def test_the_whole_way(net: Path, samples: Path, tmp_path: Path) -> None:
    before = net.read_bytes()
    report = compress(
        net,
        tmp_path / "small.onnx",
        **running(Shrink(factor=0.9)),
        data=samples,
        test=samples,
        report=tmp_path / "report.json",
        seed=3,
    )
    assert net.read_bytes() == before
    assert report.written
    assert [step.name for step in report.steps] == ["shrink"]
    assert report.comparison.after.file_bytes == (tmp_path / "small.onnx").stat().st_size < len(before)
    validation, test = report.comparison.quality
    assert (validation.data, validation.samples) == ("validation", 30)
    assert (test.data, test.samples) == ("test", 300)
    assert test.accuracy_before == 1.0
    assert test.sqnr_db is not None
    assert report.comparison.timing is not None
    assert report.comparison.timing.before_us > 0
    assert report.versions["numpy"] == np.__version__
    assert Report.from_json((tmp_path / "report.json").read_text()) == report
    assert report.comparison.after.path == str(tmp_path / "small.onnx")
    np.testing.assert_array_equal(
        ModelView.load(tmp_path / "small.onnx").read("w1"), ModelView.load(net).read("w1") * np.float32(0.9)
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "net.onnx", "report.json", "small.onnx", "train.npz"
    ]  # fmt: skip


def test_same_seed_same_bytes(net: Path, samples: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        compress(net, tmp_path / name, **running(Shrink()), data=samples)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_without_data_random_inputs_judge_and_the_note_says_so(net: Path, tmp_path: Path) -> None:
    report = compress(net, tmp_path / "small.onnx", **running(Shrink(factor=0.95)))
    (quality,) = report.comparison.quality
    assert quality.data == "synthetic"
    assert quality.accuracy_before is None
    assert any("No data was given" in note for note in report.notes)


@pytest.mark.parametrize(("factor", "fragile"), [(0.999, False), (0.93, True)])
def test_outputs_that_change_much_on_random_inputs_get_a_note(
    net: Path, tmp_path: Path, factor: float, fragile: bool
) -> None:
    report = compress(net, tmp_path / "small.onnx", **running(Shrink(factor=factor)))
    assert (FRAGILE in report.notes) == fragile
    assert report.comparison.quality[0].sqnr_by_output.keys() == {"scores"}


def test_lost_accuracy_gets_a_note_where_no_drop_is_stated(net: Path, samples: Path, tmp_path: Path) -> None:
    settings = running(Shrink(factor=-1.0), data=samples)
    notes = compress(net, tmp_path / "small.onnx", **settings).notes
    fallen = [note for note in notes if "The accuracy fell by more than half, from " in note]
    assert fallen
    assert "from 100.0%" in fallen[0]
    report = compress(net, tmp_path / "small.onnx", **settings, max_drop=100.0)
    assert not any("The accuracy fell" in note for note in report.notes)


def test_the_report_repeats_the_run(
    net: Path, samples: Path, tmp_path: Path, scale_is_registered: None
) -> None:
    first = compress(net, tmp_path / "a.onnx", **running(Scale(factor=0.3)), data=samples)
    (tmp_path / "again.toml").write_text(first.recipe)
    compress(net, tmp_path / "b.onnx", recipe=tmp_path / "again.toml", threads=1, data=samples)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_empty_pipeline_keeps_the_model(net: Path, tmp_path: Path) -> None:
    report = compress(net, tmp_path / "same.onnx", **running())
    assert (tmp_path / "same.onnx").read_bytes() == net.read_bytes()
    assert "No pass changed the model." in report.notes


def test_epochs_go_by_the_samples_that_are_left_to_train_on(net: Path, samples: Path) -> None:
    def epochs(**asked: object) -> list[int]:
        recipe = Compression(prune="2x", bits=4, **asked).plan(net).recipe  # type: ignore[arg-type]
        return [step.epochs for step in recipe.passes if hasattr(step, "epochs")]

    own = epochs()
    assert epochs(data=samples) == [60, 60]
    many = from_arrays({"x": np.zeros((7111, 1, 8, 8), np.float32)})  # 6,400 are left
    assert epochs(data=many) == [40, 40]
    assert epochs(data=samples, fine_tune=False) == own
    assert epochs(data=samples, epochs=2) == [2, 2]
