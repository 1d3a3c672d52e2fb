"""Runs a module of this package in a separate process, whose memory is freed at its end.

Work whose process can be kept goes to the worker process (``onnx_admm.worker``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from onnx_admm.worker.process import cause_of_death


def run_module(module: str, arguments: Sequence[str], *, limit_s: float | None = None) -> str | None:
    """Run ``python -m module arguments`` to its end.

    The process imports what this one sees (its ``sys.path``), but never from the current folder. It has no
    stdin, and what it writes to stdout and stderr is dropped.

    Args:
        module: dotted name.
        arguments: arguments of the command line.
        limit_s: seconds after which the process is killed; None: no limit.

    Returns:
        None if it ended with exit code 0, else how it ended.
    """
    nowhere = subprocess.DEVNULL
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {limit_s:g} s"
    return cause_of_death(ended.returncode) if ended.returncode else None


def text_of(file: Path) -> str:
    """Return the content of a text file that a child process may have written; "" where there is none."""
    return file.read_text(encoding="utf-8") if file.exists() else ""
