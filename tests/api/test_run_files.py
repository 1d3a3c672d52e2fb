"""No run writes what it reads, and no run judges by files that changed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import RunCommand, running

from onnx_admm.api import annotate, compare, compress
from onnx_admm.api.files.run_files import RunFiles
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import ModelView
from onnx_admm.errors import UsageError, WorkError
from onnx_admm.model.writing import saving


@pytest.fixture
def external(net: Path) -> Path:
    """``net`` with its weights in ``small.onnx.data``: the name that a result ``small.onnx`` once took."""
    proto = onnx.load(net)
    onnx.save(proto, net, save_as_external_data=True, location="small.onnx.data", size_threshold=0)
    return net


# -- overlaps -----------------------------------------------------------------------------------


def spelled_otherwise(path: Path) -> Path:
    return path.parent / ".." / path.parent.name / path.name


def beside_a_missing_folder(path: Path) -> Path:
    return path.parent / "missing" / ".." / path.name


def linked(path: Path) -> Path:
    (path.parent / "link").symlink_to(path)
    return path.parent / "link"


def hard_linked(path: Path) -> Path:
    os.link(path, path.parent / "hard")
    return path.parent / "hard"


@pytest.mark.parametrize("disguise", [Path, spelled_otherwise, beside_a_missing_folder, linked, hard_linked])
@pytest.mark.parametrize("what", ["result", "report", "annotated copy"])
def test_an_input_is_never_written_whatever_it_is_called(
    net: Path, what: str, disguise: Callable[[Path], Path]
) -> None:
    before, target = net.read_bytes(), disguise(net)
    runs: dict[str, Callable[[], object]] = {
        "result": lambda: compress(net, target),
        "report": lambda: compress(net, net.parent / "small.onnx", report=target),
        "annotated copy": lambda: annotate(net, target, cost_model("storage")),
    }
    with pytest.raises(UsageError, match=f"the {what} would overwrite the model; nothing was done"):
        runs[what]()
    assert net.read_bytes() == before
    assert not (net.parent / "small.onnx").exists()


@pytest.mark.parametrize(
    ("read", "flags"),
    [
        ("train.npz", "--data train.npz"),
        ("val.npz", "--data train.npz --val val.npz"),
        ("test.npz", "--test test.npz"),
        ("recipe.toml", "--recipe recipe.toml"),
        ("p.toml", "--preprocessing p.toml"),
        ("t4.toml", "--cost-model roofline:t4.toml"),
        ("train.npz", "--data described.toml"),
    ],
)
@pytest.mark.parametrize("written", ["OUT", "--report"])
def test_every_file_that_is_read_is_safe(
    samples: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch, read: str, flags: str, written: str
) -> None:
    monkeypatch.chdir(samples.parent)
    for name in ("val.npz", "test.npz"):
        shutil.copy(samples, name)
    for name in ("recipe.toml", "p.toml", "t4.toml"):
        Path(name).write_text("scale = 1.0\n")
    Path("described.toml").write_text('path = "train.npz"\n')
    before = Path(read).read_bytes()
    places = [read] if written == "OUT" else ["small.onnx", "--report", read]
    code, out, err = run("compress", "net.onnx", *places, *flags.split())
    assert (code, out) == (2, "")
    assert "would overwrite" in err
    assert Path(read).read_bytes() == before
    assert not Path("small.onnx").exists()


PROFILE = 'device = "board"\npeak_gmac_s = {float32 = 1}\nbandwidth_gb_s = 1\n'


@pytest.mark.parametrize(
    "command",
    [
        "annotate net.onnx board.toml --cost-model roofline:board.toml --bind N=1",
        "compress net.onnx board.toml --recipe recipe.toml",
        "compress net.onnx out.onnx --report board.toml --recipe recipe.toml",
    ],
)
def test_a_profile_is_safe_also_where_a_recipe_names_it(
    net: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(net.parent)
    Path("board.toml").write_text(PROFILE)
    Path("recipe.toml").write_text('cost_model = "roofline:board.toml"\n[[pass]]\nname = "fold_bias"\n')
    code, _, err = run(*command.split())
    assert (code, "would overwrite the profile" in err) == (2, True), err
    assert Path("board.toml").read_text() == PROFILE


def test_external_weights_are_safe_wherever_they_lie(external: Path, run: RunCommand) -> None:
    data = external.parent / "small.onnx.data"
    before = data.read_bytes()
    code, _, err = run("compress", external, data)
    assert code == 2
    assert "the result would overwrite the weights of the model" in err
    report = compress(external, external.parent / "small.onnx", threads=1)
    assert data.read_bytes() == before
    assert report.written
    ModelView.load(external)
    ModelView.load(external.parent / "small.onnx")
    annotate(external, external.parent / "small.onnx", cost_model("storage"))
    assert data.read_bytes() == before


def test_the_longer_name_of_a_data_file_is_no_growth(
    external: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_EXTERNAL_THRESHOLD", 0)
    target = external.parent / f"{'long' * 20}.onnx"
    report = compress(external, target, recipe=recipe, threads=1)
    assert report.written
    assert report.comparison.after.file_bytes > report.comparison.before.file_bytes


def test_results_that_fall_together_are_refused(net: Path) -> None:
    for report in (net.parent / "small.onnx", spelled_otherwise(net.parent / "small.onnx")):
        with pytest.raises(UsageError, match="the report and the result would be one file"):
            compress(net, net.parent / "small.onnx", report=report)


def test_samples_in_a_folder_are_safe_and_other_files_there_are_not_in_the_way(
    net: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "x.npy", np.zeros((4, 1, 8, 8), np.float32))
    files = RunFiles()
    files.read_data(folder, "the data")
    files.write(folder / "x.npy", "the result")
    with pytest.raises(UsageError, match="the result would overwrite the data"):
        files.check()
    (folder / "small.onnx").touch()
    beside = RunFiles()
    beside.read_data(folder, "the data")
    beside.write(folder / "small.onnx", "the result")
    beside.check()


@pytest.mark.parametrize("place", ["pipe", "folder", "/dev/null"])
def test_only_regular_files_are_written(net: Path, place: str) -> None:
    os.mkfifo(net.parent / "pipe")
    (net.parent / "folder").mkdir()
    for target, report in ((place, None), ("small.onnx", place)):
        with pytest.raises(UsageError, match=r"is a folder|only a regular file"):
            compress(net, net.parent / target, report=None if report is None else net.parent / report)
    assert stat.S_ISFIFO((net.parent / "pipe").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# -- changes ------------------------------------------------------------------------------------


def replaced(path: Path) -> None:
    content = path.read_bytes()
    path.with_name("new").write_bytes(content)
    os.replace(path.with_name("new"), path)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [replaced, truncated, removed])
@pytest.mark.parametrize("name", ["net.onnx", "small.onnx.data", "train.npz"])
def test_an_input_that_changes_during_the_run_is_an_error(
    external: Path,
    samples: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[Path], None],
) -> None:
    from onnx_admm.pipeline import Pipeline

    run_passes = Pipeline.run

    def meanwhile(*arguments: object, **more: object) -> object:
        result = run_passes(*arguments, **more)  # type: ignore[arg-type]
        change(external.parent / name)
        return result

    monkeypatch.setattr(Pipeline, "run", meanwhile)
    with pytest.raises(WorkError, match=rf"{name}: .* changed during the run"):
        compress(external, external.parent / "small.onnx", **running(), data=samples, keep=True)
    assert not (external.parent / "small.onnx").exists()


def test_a_comparison_of_files_that_change_is_refused(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx_admm.api.measure import Measurement

    shutil.copy(net, net.parent / "b.onnx")
    measure = Measurement.compare

    def meanwhile(*arguments: object) -> object:
        found = measure(*arguments)  # type: ignore[arg-type]
        replaced(net.parent / "b.onnx")
        return found

    monkeypatch.setattr(Measurement, "compare", meanwhile)
    with pytest.raises(WorkError, match="the model to compare changed during the run"):
        compare(net, net.parent / "b.onnx", threads=1)
