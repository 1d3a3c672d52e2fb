"""Temporary folders: gone with the run, and those of killed runs with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from onnx_admm.local_files.temporary_folder import TemporaryFolder, remove_leftovers

HOLD = """
import os, sys, time
from onnx_admm.local_files.temporary_folder import TemporaryFolder
with TemporaryFolder() as name:
    open(os.path.join(name, "model.onnx"), "w").close()
    print(name, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remove_leftovers.cache_clear()
    return tmp_path


def test_the_folder_goes_with_its_block(parent: Path) -> None:
    with TemporaryFolder() as name:
        assert Path(name).parent == parent
    assert list(parent.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_what_a_killed_run_left_goes_and_what_a_living_run_has_stays(parent: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(parent)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        try:
            remove_leftovers(str(parent))
            assert folder.is_dir()
        finally:
            run.kill()
    assert folder.is_dir()
    with TemporaryFolder() as name:  # looked once in this process, with a living run there
        assert folder.is_dir()
    remove_leftovers.cache_clear()
    with TemporaryFolder() as name:
        assert sorted(parent.iterdir()) == [Path(name)]


def test_a_folder_of_the_users_stays_whatever_it_is_called(parent: Path) -> None:
    theirs = parent / "onnx-admm-results"
    theirs.mkdir()
    for name in ("small.onnx", "lock"):
        (theirs / name).touch()
    os.utime(theirs, (time.time() - 1e6, time.time() - 1e6))
    with TemporaryFolder():
        assert sorted(file.name for file in theirs.iterdir()) == ["lock", "small.onnx"]


def test_a_link_is_not_followed(parent: Path) -> None:
    kept = parent / "kept"
    kept.mkdir()
    (kept / ".onnx-admm-lock").touch()
    (parent / "onnx-admm-link").symlink_to(kept, target_is_directory=True)
    with TemporaryFolder():
        assert (kept / ".onnx-admm-lock").exists()
