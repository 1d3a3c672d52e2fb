"""Faults at file-system calls: the call fails, or the process dies or is told to end there.

A run happens in a forked child. An audit hook sees every call that opens, renames, links, makes, removes or
changes a file below a folder; writing and synchronising, which no hook sees, are wrapped. At the chosen call
the fault happens, once.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WATCHED = {
    "open",
    "os.rename",
    "os.link",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "shutil.copyfile",
}
LONGEST_S = 60
FAULTS = ("ENOSPC", "EIO", "KILL", "TERM", "INT")


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        status: exit code; negative: the number of the signal that ended it.
        stderr: what it printed there.
        calls: watched calls, in order; of a run that was killed none.
    """

    status: int
    stderr: str
    calls: tuple[str, ...]


class _Injector:
    """Counts watched calls, and lets the fault happen at one of them."""

    def __init__(self, folder: Path, fault: str | None, at: int) -> None:
        self._folder, self._fault, self._at = os.fspath(folder), fault, at
        self.calls: list[str] = []

    def install(self) -> None:
        synchronise, opened = os.fsync, io.open
        sys.addaudithook(self._see)
        os.fsync = lambda handle: (
            self._count(f"fsync {os.path.basename(_name_of(handle))}"),
            synchronise(handle),
        )[1]  # type: ignore[assignment]

        def open_counted(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            stream = opened(file, mode, *rest, **more)
            if "w" in mode and isinstance(file, str | os.PathLike) and self._is_below(os.fspath(file)):
                return _Counted(stream, lambda: self._count(f"write {os.path.basename(os.fspath(file))}"))
            return stream

        io.open = open_counted  # pathlib's
        __builtins__["open"] = open_counted  # type: ignore[index]

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WATCHED:
            return
        named = arguments[:1] if event == "open" else arguments[:2]
        paths = [os.fsdecode(a) for a in named if isinstance(a, str | bytes | os.PathLike)]
        below = [os.path.basename(path) for path in paths if self._is_below(path)]
        if below:
            self._count(f"{event} {' '.join(below)}")

    def _is_below(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self._folder)

    def _count(self, call: str) -> None:
        self.calls.append(call)
        if self._fault is None or len(self.calls) - 1 != self._at:
            return
        if self._fault.startswith("E"):
            number = getattr(errno, self._fault)
            raise OSError(number, os.strerror(number))
        if self._fault == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        signal.raise_signal(getattr(signal, f"SIG{self._fault}"))


class _Counted:
    """A file opened for writing whose writes are counted."""

    def __init__(self, stream: Any, count: Callable[[], None]) -> None:
        self._stream, self._count = stream, count

    def write(self, data: Any) -> Any:
        self._count()
        return self._stream.write(data)

    def __enter__(self) -> _Counted:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._stream.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _name_of(handle: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return str(handle)


def run_with(work: Callable[[], object], folder: Path, fault: str | None = None, at: int = 0) -> Ending:
    """Run ``work`` in a forked child with a fault at its watched call number ``at``.

    Args:
        work: leaves by `SystemExit` or returns.
        folder: calls below it are watched.
        fault: one of `FAULTS`; None counts alone.
        at: from 0.
    """
    with tempfile.TemporaryDirectory() as told:
        child = os.fork()
        if child == 0:
            _be_the_child(work, _Injector(folder, fault, at), Path(told))
        _, state = os.waitpid(child, 0)
        stderr, calls = Path(told, "stderr"), Path(told, "calls")
        return Ending(
            status=os.waitstatus_to_exitcode(state),
            stderr=stderr.read_text(errors="replace") if stderr.exists() else "",
            calls=tuple(json.loads(calls.read_text())) if calls.exists() else (),
        )


def _be_the_child(work: Callable[[], object], injector: _Injector, told: Path) -> None:
    status = 70
    signal.alarm(LONGEST_S)  # ends a child that hangs
    try:
        handle = os.open(told / "stderr", os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        plain = os.write
        injector.install()
        try:
            work()
            status = 0
        except SystemExit as left:
            status = int(left.code or 0)
        except BaseException:  # noqa: BLE001 (printed: the test shows it)
            traceback.print_exc()
        sys.stderr.flush()
        handle = os.open(told / "calls", os.O_WRONLY | os.O_CREAT)
        plain(handle, json.dumps(injector.calls).encode())
    finally:
        os._exit(status)
