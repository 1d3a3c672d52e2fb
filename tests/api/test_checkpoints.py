"""Runs that go on from what an interrupted one left behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import RunCommand, running
from fake_plugins import Scale

from onnx_admm.api import compress
from onnx_admm.api.files import checkpoints
from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.errors import UsageError, WorkError
from onnx_admm.report import Report
from onnx_admm.runtime import timing_cache
from onnx_admm.runtime.timing import KernelTime

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Fragile:
    """Counts its runs, halves the weights, and stops as often as it is told to."""

    name: ClassVar[str] = "fragile"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    runs: ClassVar[int] = 0
    stops: ClassVar[int] = 0

    def requires(self, model: ModelView, context: PassContext) -> None:
        return None

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        cls = type(self)
        cls.runs += 1
        if cls.stops:
            cls.stops -= 1
            raise RuntimeError("the power went")
        return Scale(factor=0.5).run(model, context)


@pytest.fixture(autouse=True)
def unbroken() -> None:
    Fragile.runs = Fragile.stops = 0


def go(net: Path, samples: Path, **changes: object) -> Report:
    passes = (Scale(factor=0.25), Fragile(), Fragile())
    folder = net.parent
    return compress(
        net, folder / "out.onnx", **running(*passes), data=samples, resume=folder / "kept", **changes
    )


def test_a_run_goes_on_where_it_was_interrupted(net: Path, samples: Path, tmp_path: Path) -> None:
    passes = (Scale(factor=0.25), Fragile(), Fragile())
    compress(net, tmp_path / "at-once.onnx", **running(*passes), data=samples)
    Fragile.runs, Fragile.stops = 0, 1
    with pytest.raises(WorkError, match="pass 2 of 3, fragile"):
        go(net, samples)
    assert not (tmp_path / "out.onnx").exists()
    report = go(net, samples)
    assert Fragile.runs == 1 + 2
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "at-once.onnx").read_bytes()
    assert f"1 of 3 passes were taken from {tmp_path / 'kept'}." in report.notes
    assert [step.name for step in report.steps] == ["scale", "fragile", "fragile"]
    assert report.steps[0].edits.keys() == report.steps[1].edits.keys() != set()


def test_a_finished_run_is_not_run_again(net: Path, samples: Path) -> None:
    first = go(net, samples)
    assert not any("were taken" in note for note in first.notes)
    again = go(net, samples)
    assert Fragile.runs == 2
    assert again.steps == first.steps


@pytest.mark.parametrize("what", ["seed", "memory_mb", "model", "data"])
def test_another_run_finds_nothing(net: Path, samples: Path, what: str) -> None:
    go(net, samples)
    if what == "model":
        view = ModelView.load(net)
        view.replace("w1", view.read("w1") * np.float32(1.25))
        view.save(net)
    if what == "data":
        arrays = dict(np.load(samples))
        np.savez(samples, **{**arrays, "x": arrays["x"] + np.float32(0.01)})
    report = go(net, samples, **({what: 5} if what in ("seed", "memory_mb") else {}))
    assert Fragile.runs == 4
    assert not any("were taken" in note for note in report.notes)


def test_a_result_without_its_report_is_run_again(net: Path, samples: Path, tmp_path: Path) -> None:
    go(net, samples)
    for said in (tmp_path / "kept").glob("02-*.json"):
        said.unlink()
    report = go(net, samples)
    assert Fragile.runs == 3
    assert any(note.startswith("1 of 3 passes") for note in report.notes)


@pytest.mark.parametrize("content", ["{", json.dumps({"name": "scale"})])
def test_a_damaged_checkpoint_gets_a_sentence(net: Path, samples: Path, tmp_path: Path, content: str) -> None:
    go(net, samples)
    (said,) = (tmp_path / "kept").glob("01-*.json")
    said.write_text(content)
    with pytest.raises(UsageError, match=r"01-scale.*a checkpoint is damaged.*Delete it"):
        go(net, samples)


def test_a_checkpoint_model_that_is_not_the_one_written_is_refused(
    net: Path, samples: Path, tmp_path: Path
) -> None:
    go(net, samples)
    (file,) = (tmp_path / "kept").glob("03-*.onnx")
    view = ModelView.load(file)
    view.replace("w1", view.read("w1") * np.float32(3))
    view.save(file)
    with pytest.raises(UsageError, match=r"03-fragile.*damaged; got .*not the file that was written.*Delete"):
        go(net, samples)
    file.unlink()
    with pytest.raises(UsageError, match=r"03-fragile.*a checkpoint is damaged"):
        go(net, samples)


def test_a_report_that_was_changed_is_refused(net: Path, samples: Path, tmp_path: Path) -> None:
    go(net, samples)
    (said,) = (tmp_path / "kept").glob("02-*.json")
    told = json.loads(said.read_text())
    said.write_text(json.dumps({**told, "seconds": 0.0}))
    with pytest.raises(UsageError, match="its digest does not fit its content"):
        go(net, samples)
    said.write_text(json.dumps(told)[:-20])
    with pytest.raises(UsageError, match="a checkpoint is damaged"):
        go(net, samples)


def test_a_checkpoint_under_the_name_of_another_is_refused(net: Path, samples: Path, tmp_path: Path) -> None:
    go(net, samples)
    (second,), (third,) = ((tmp_path / "kept").glob(f"0{number}-*.json") for number in (2, 3))
    third.write_bytes(second.read_bytes())
    with pytest.raises(UsageError, match="it was written for another run"):
        go(net, samples)


def test_a_sample_that_no_look_at_some_would_find_counts(net: Path, samples: Path) -> None:
    arrays = dict(np.load(samples))
    many = {name: np.concatenate([array] * 20) for name, array in arrays.items()}
    np.savez(samples, **many)
    go(net, samples)
    many["x"][1] += np.float32(0.01)
    np.savez(samples, **many)
    go(net, samples)
    assert Fragile.runs == 4


def test_the_content_of_a_profile_counts(net: Path, samples: Path, tmp_path: Path) -> None:
    profile = tmp_path / "device.toml"
    dense, packed = 'format = "dense"\n', 'format = "packed"\n'
    for content, runs in ((dense, 2), (packed, 4), (packed, 4)):
        profile.write_text(content)
        go(net, samples, cost_model=f"storage:{profile}")
        assert Fragile.runs == runs


def test_a_result_that_rests_on_other_times_is_made_again(
    net: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "used_timings", lambda: {"cache": {"kernel": [1.0, 0.0]}})
    go(net, samples)
    monkeypatch.setattr(checkpoints, "are_current", lambda used: used["cache"]["kernel"] == [1.0, 0.0])
    go(net, samples)
    assert Fragile.runs == 2
    monkeypatch.setattr(checkpoints, "are_current", lambda used: False)
    report = go(net, samples)
    assert Fragile.runs == 4
    assert not any("were taken" in note for note in report.notes)


def test_times_that_were_used_are_compared_with_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timing_cache, "_MEMORY", {})
    timing_cache.forget_used_timings()
    timing_cache.keep_timings(1, {"call []": KernelTime(1e-3, 1e-5), "switch": KernelTime(2e-6, 0.0)})
    assert timing_cache.used_timings() == {}
    assert timing_cache.switch_timing(1).seconds == 2e-6
    used = timing_cache.used_timings()
    assert [list(timings) for timings in used.values()] == [["switch"]]
    assert timing_cache.are_current(used)
    timing_cache.keep_timings(1, {"call []": KernelTime(5e-3, 1e-5)})
    assert timing_cache.are_current(used)
    timing_cache.keep_timings(1, {"switch": KernelTime(3e-6, 0.0)})
    assert not timing_cache.are_current(used)
    timing_cache.cache_file(1).unlink()
    assert timing_cache.are_current(used)


def test_no_place_for_checkpoints_is_said(net: Path, run: RunCommand) -> None:
    folder = net.parent / "missing" / "kept"
    code, _, err = run("compress", net, net.parent / "out.onnx", "--resume", folder)
    assert code == 1
    assert "no folder for checkpoints" in err
    assert "mkdir -p" in err
    assert not (net.parent / "out.onnx").exists()
