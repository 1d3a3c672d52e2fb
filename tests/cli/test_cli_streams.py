"""Streams that are closed or full, a system without HOME or TMPDIR, names that are not UTF-8: sentences."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = "from onnx_admm.cli import main; main()"


def run_shell(line: str, folder: Path, **environment: str | None) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line in which ``onnx-admm`` stands for the command."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    kept = {key: value for key, value in variables.items() if value is not None}
    line = line.replace("onnx-admm", f"{sys.executable} -c '{COMMAND}'")
    return subprocess.run(["bash", "-c", line], cwd=folder, env=kept, capture_output=True, check=False)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_file_and_no_exit_code(net: Path, redirection: str) -> None:
    before = net.read_bytes()
    done = run_shell(f"onnx-admm annotate net.onnx out.onnx {redirection}", net.parent)
    assert done.returncode == 0, done.stderr
    refused = run_shell(f"onnx-admm annotate net.onnx net.onnx {redirection}", net.parent)
    assert refused.returncode == 2
    assert net.read_bytes() == before
    assert b"Traceback" not in done.stderr + refused.stderr


def test_a_full_stdout_is_a_failure_that_says_what_stands(net: Path) -> None:
    done = run_shell("onnx-admm annotate net.onnx out.onnx > /dev/full", net.parent)
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"written before that: out.onnx" in done.stderr
    inspected = run_shell("onnx-admm inspect net.onnx --json > /dev/full", net.parent)
    assert inspected.returncode == 1
    assert b"nothing was written" in inspected.stderr
    assert b"Traceback" not in done.stderr + inspected.stderr


def test_a_full_stderr_is_nobodys_business(net: Path) -> None:
    assert run_shell("onnx-admm inspect none.onnx 2> /dev/full", net.parent).returncode == 2


def test_a_reader_that_leaves_gets_no_traceback(net: Path) -> None:
    done = run_shell("onnx-admm inspect net.onnx --json | true", net.parent)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_no_home_and_no_temporary_folder(net: Path) -> None:
    done = run_shell(
        "onnx-admm compress net.onnx out.onnx --threads 1 -q",
        net.parent,
        HOME=None,
        XDG_CACHE_HOME=None,
        TMPDIR="/nonexistent",
    )
    assert done.returncode == 0, done.stderr
    assert (net.parent / "out.onnx").exists()


def test_names_that_are_not_utf8(net: Path) -> None:
    os.rename(os.fsencode(net), os.path.join(os.fsencode(net.parent), b"\xff.onnx"))
    done = run_shell("onnx-admm annotate $'\\xff.onnx' $'\\xfe.onnx'", net.parent)
    assert done.returncode == 0, done.stderr
    missing = run_shell("onnx-admm inspect $'\\xfd.onnx'", net.parent)
    assert missing.returncode == 2
    assert b"no such model file" in missing.stderr
    assert b"Traceback" not in done.stderr + missing.stderr
