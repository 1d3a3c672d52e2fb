"""One rename puts a file in place; locks, links, modes and leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import ModelView
from onnx_admm.errors import OutputError, UsageError
from onnx_admm.model.writing import saving
from onnx_admm.model.writing.atomic_output import (
    forget_written,
    prepare_output,
    write_bytes,
    write_text,
    written_files,
)
from onnx_admm.model.writing.external_files import data_files_of_output, external_files
from onnx_admm.model.writing.output_lock import work_folder


@pytest.fixture
def heavy(tiny_mlp: ModelView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelView:
    """A model whose weights lie outside its file."""
    monkeypatch.setattr(saving, "_EXTERNAL_THRESHOLD", 100)
    folder = tmp_path / "source"
    folder.mkdir()
    tiny_mlp.save(folder / "net.onnx")
    proto = onnx.load(folder / "net.onnx")
    onnx.save(proto, folder / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return ModelView.load(folder / "net.onnx")


# -- the commit point ---------------------------------------------------------------------------


def test_a_text_is_written_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_is_prepared_and_not_committed_goes(tmp_path: Path) -> None:
    def interrupted() -> None:
        with prepare_output(tmp_path / "out.bin") as output:
            (output.folder / "out.bin").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not os.listdir(tmp_path)


def test_the_list_of_written_files_is_true_during_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = os.replace

    def watched(source: str, target: str) -> None:
        seen.append(written_files())
        rename(source, target)
        seen.append(written_files())

    forget_written()
    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "replace", watched)
    write_text(tmp_path / "a.txt", "new")
    assert seen == [(), (tmp_path / "a.txt",)]
    forget_written()
    assert written_files() == ()


def test_a_disk_that_does_not_confirm_is_told_of_a_file_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronise = os.fsync

    def fail_on_folders(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(5, "Input/output error")
        synchronise(handle)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    with pytest.raises(OutputError, match="the file is in place, but the disk did not confirm it"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


# -- external weights ---------------------------------------------------------------------------


def test_no_file_of_weights_is_ever_overwritten(heavy: ModelView, tmp_path: Path) -> None:
    (tmp_path / "out.onnx.data").write_text("somebody's")
    heavy.save(tmp_path / "out.onnx")
    (data,) = external_files(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_text() == "somebody's"
    content = data.read_bytes()
    (tmp_path / "out.onnx").unlink()
    data.write_text("not of this model any more")
    heavy.save(tmp_path / "out.onnx")
    (other,) = external_files(tmp_path / "out.onnx")
    assert data.read_text() == "not of this model any more"
    assert other != data
    assert other.read_bytes() == content


def test_saving_again_gives_the_same_names_and_bytes(heavy: ModelView, tmp_path: Path) -> None:
    heavy.save(tmp_path / "out.onnx")
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    heavy.save(tmp_path / "out.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == first


def test_only_the_earlier_weights_of_this_output_go(heavy: ModelView, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    heavy.save(out)
    (first,) = external_files(out)
    heavy.replace("w1", heavy.read("w1") + 1)
    heavy.save(out)
    (second,) = external_files(out)
    assert (first.exists(), second.exists()) == (False, True)
    (tmp_path / "copy.onnx").write_bytes(out.read_bytes())
    heavy.replace("w1", heavy.read("w1") + 1)
    heavy.save(out)
    assert second.exists()  # the copy refers to it
    ModelView.load(tmp_path / "copy.onnx").read("w1")
    (third,) = external_files(out)
    heavy.replace("w1", heavy.read("w1") + 1)
    heavy.save(out, inputs=(third,))
    assert third.exists()


def test_an_old_data_file_goes_with_the_model_that_used_it(
    heavy: ModelView, tiny_mlp: ModelView, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    onnx.save(
        onnx.load(tmp_path / "source" / "net.onnx"),
        out,
        save_as_external_data=True,
        location="out.onnx.data",
        size_threshold=0,
    )
    assert data_files_of_output(out) == (tmp_path / "out.onnx.data",)
    tiny_mlp.save(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "source"]


def test_a_link_into_another_folder_and_weights_beside_it_do_not_go_together(
    heavy: ModelView, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link.onnx").symlink_to("store/real.onnx")
    with pytest.raises(OutputError, match=r"a link into another folder.*Name the file itself: .*real\.onnx"):
        heavy.save(tmp_path / "link.onnx")
    assert not os.listdir(tmp_path / "store")


# -- modes and links ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_mode_and_owner_of_the_earlier_file_stay(heavy: ModelView, tmp_path: Path, mode: int) -> None:
    out = tmp_path / "out.onnx"
    out.touch()
    out.chmod(mode)
    heavy.save(out)
    for path in (out, *external_files(out)):
        assert path.stat().st_mode & 0o777 == mode, path
    write_bytes(out, b"report")
    assert out.stat().st_mode & 0o777 == mode


def test_a_link_stays_a_link_also_where_nothing_stands_behind_it(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to("store/real")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "store" / "real").read_text() == "text"
    assert os.listdir(tmp_path / "store") == ["real"]


def test_links_in_a_circle_get_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UsageError, match="cannot be written to"):
        write_text(tmp_path / "a", "text")


def test_names_that_are_not_utf8_and_names_as_long_as_they_get(heavy: ModelView, tmp_path: Path) -> None:
    for name in (os.fsdecode(b"\xff\xfe.onnx"), "l" * 235 + ".onnx"):
        heavy.save(tmp_path / name)
        again = ModelView.load(tmp_path / name)
        np.testing.assert_array_equal(again.read("w1"), heavy.read("w1"))


# -- locks and leftovers ------------------------------------------------------------------------

HOLDER = """
import sys, time
from onnx_admm.model.writing.atomic_output import prepare_output
with prepare_output(sys.argv[1]) as output:
    (output.folder / "half").write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_a_dead_one_is_cleaned_up_after(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    with subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another run is writing this file"):
            write_text(out, "mine")
        assert (work_folder(out) / "half").exists()
        holder.send_signal(signal.SIGKILL)
    assert work_folder(out).exists()
    write_text(out, "mine")
    assert os.listdir(tmp_path) == ["out.onnx"]


def test_two_outputs_in_one_process_are_locked_from_each_other(tmp_path: Path) -> None:
    with prepare_output(tmp_path / "a"), prepare_output(tmp_path / "b"):
        with pytest.raises(UsageError, match="another run"):
            write_text(tmp_path / "a", "")
        assert work_folder(tmp_path / "a").exists()
    assert not os.listdir(tmp_path)


def test_weights_placed_for_a_commit_that_never_came_go_with_the_next_run(
    heavy: ModelView, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    heavy.save(out)
    (used,) = external_files(out)
    folder = work_folder(out)
    folder.mkdir()
    (folder / "lock").touch()
    for name in (used.name, "out.onnx.00000000.data"):
        (tmp_path / name).touch()
        (folder / f"{name}.unless-used").touch()
    with prepare_output(out):
        assert not (tmp_path / "out.onnx.00000000.data").exists()
    assert used.exists()
    assert not folder.exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    folder = work_folder(tmp_path / "out")
    folder.mkdir()
    (folder / "diary").write_text("mine")
    with pytest.raises(UsageError, match="the name of the folder to work in is taken"):
        write_text(tmp_path / "out", "")
    assert (folder / "diary").read_text() == "mine"
