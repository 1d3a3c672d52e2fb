"""Running modules of this package in processes of their own, and saying how such a process ended.

What ends its process, hangs, writes to stdout or changes global state does so there.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from onnx_admm.limits import interruptible


def run_module(module: str, arguments: Sequence[str], *, limit_s: float | None = None) -> str | None:
    """Run ``python -m module arguments`` to its end.

    The process imports what this one sees (its ``sys.path``), but never from the current folder. It has no
    stdin, and what it writes to stdout and stderr is dropped.

    Args:
        module: dotted name.
        arguments: of the command line.
        limit_s: seconds after which the process is killed; None: no limit.

    Returns:
        None if it ended with exit code 0, else how it ended (see ``end_in_words``).
    """
    nowhere = subprocess.DEVNULL
    try:
        ended = subprocess.run(
            _command(module, arguments),
            env=_surroundings(),
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {limit_s:g} s"
    return end_in_words(ended.returncode) if ended.returncode else None


class KeptProcess:
    """A process that does one task after another; it starts with the first, and anew after it has ended.

    The module runs ``serve`` when it is started as a script. The process ends with this one.

    Args:
        module: dotted name of the module.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def do(self, task: str) -> str | None:
        """Have a task done, after those that other threads gave.

        Args:
            task: one line that the module understands.

        Returns:
            None once it is done; else how the process ended at it (see ``end_in_words``).
        """
        with self._lock:
            process = self._running()
            stdin, stdout = process.stdin, process.stdout
            if stdin is None or stdout is None:
                raise RuntimeError("the process has no pipes")
            try:
                with interruptible(process.kill):
                    stdin.write(task.encode() + b"\n")
                    stdin.flush()
                    if stdout.readline():
                        return None
            except BrokenPipeError:
                pass
            except BaseException:  # an interruption; its answer must not be taken for that of the next task
                self.close(kill=True)
                raise
            self.close()
            return end_in_words(process.returncode)

    def close(self, *, kill: bool = False) -> None:
        """End the process, where one runs."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        if kill:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        known = self._process
        if known is not None and self._owner == os.getpid() and known.poll() is None:
            return known
        self.close()
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            _command(self._module, ()),
            env=_surroundings(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._process


def serve(work: Callable[[str], None]) -> None:
    """Do the tasks that ``KeptProcess.do`` hands over, one at a time, until the other process ends.

    Args:
        work: does one task; what it writes to stdout is dropped.
    """
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    for line in sys.stdin.buffer:
        work(line.decode().rstrip("\n"))
        answers.write(b"done\n")


def _command(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]


def _surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def end_in_words(status: int) -> str:
    """Exit status of a child process in words; a negative one is the signal that killed it."""
    if status >= 0:
        return f"ended its process with exit code {status}"
    try:
        return f"killed its process by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed its process by signal {-status}"


def text_of(file: Path) -> str:
    """Content of a text file that a child process may have written; "" where there is none."""
    return file.read_text(encoding="utf-8") if file.exists() else ""
