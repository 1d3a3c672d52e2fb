"""One worker process with limits on memory and time: started on first need, kept, restarted when it ends.

Code there may crash, hang or fill its memory without harm to this process: third-party code that cannot be
stopped otherwise, such as the shape inference of ``onnx`` and the first run of a model in ONNX Runtime.

A task is a function ``(arguments, content) -> (answer, content)`` of a module, named ``module:function``;
arguments and answers are JSON values, contents are bytes. Nothing the worker answers is executed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnx_admm.errors import LimitReached
from onnx_admm.limits import RunBudget, current_budget
from onnx_admm.limits.budget import RAISE_MEMORY, RAISE_TIME, worker_pids
from onnx_admm.limits.memory import resident_bytes
from onnx_admm.worker.messages import Message, read_message, write_message

FREE_BYTES = 768 << 20
"""Resident memory of any task, in bytes."""

BYTES_PER_BYTE = 100
"""Further resident memory for each byte of its content."""

FREE_S = 20.0
"""Processor seconds of any task."""

BYTES_PER_S = 1 << 20
"""Bytes of its content for each further second."""

_WALL = 2.0
"""Wall-clock seconds for each processor second: the machine may be busy."""

_POLL_S = 0.01
_KEPT_BYTES = 512 << 20
"""Memory above which a worker is not kept."""


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """Limits of one task: resident bytes, processor seconds."""

    memory_bytes: int
    seconds: float

    @classmethod
    def for_bytes(cls, nbytes: int, *, seconds: float = FREE_S) -> TaskLimits:
        """Return the defaults for a task on so many bytes; stated limits of the run replace them."""
        return cls(FREE_BYTES + BYTES_PER_BYTE * nbytes, seconds + nbytes / BYTES_PER_S)


class WorkerEnded(Exception):
    """The worker ended during a task, or was ended.

    Attributes:
        kind: whether it died by itself, took too much memory, or too long.
        how: the rest of a sentence that begins with its work.
    """

    def __init__(self, kind: Literal["died", "memory", "time"], how: str) -> None:
        self.kind = kind
        self.how = how
        super().__init__(how)

    def as_limit(self, doing: str) -> LimitReached | None:
        """Return the limit that was reached; None where the worker died by itself."""
        if self.kind == "died":
            return None
        return LimitReached(f"{doing} {self.how}", hint=RAISE_MEMORY if self.kind == "memory" else RAISE_TIME)


class TaskFailed(Exception):
    """The task raised an unexpected error; the message names it."""


def run_task(
    task: str, arguments: Mapping[str, Any], content: bytes = b"", *, limits: TaskLimits | None = None
) -> tuple[Any, bytes]:
    """Run a task in the worker.

    Args:
        task: ``module:function``.
        arguments: JSON values.
        content: bytes.
        limits: limits of the task; None for the defaults for ``content``.

    Returns:
        The task's result: JSON values, and bytes.

    Raises:
        WorkerEnded: it crashed, or reached a limit.
        TaskFailed: it raised.
        LimitReached: the run reached a limit meanwhile.
    """
    message = Message({"task": task, **arguments}, content)
    return _shared.run(message, current_budget(), limits or TaskLimits.for_bytes(len(content)))


def warm_up(modules: Sequence[str] = ()) -> None:
    """Start the worker, which imports these modules, and do not wait for it."""
    _shared.start(modules)


class _Worker:
    """The process and the pipes to it; one task at a time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def start(self, modules: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        with self._lock:
            process = self._process
            if process is not None and process.poll() is None and self._owner == os.getpid():
                return process
            self._forget()
            # Not from the folder the user stands in (-P), but with the modules that this process sees.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "onnx_admm.worker.child", *modules],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process, which ends the other
            )
            self._process, self._owner = process, os.getpid()
            worker_pids.add(process.pid)
            return process

    def run(self, message: Message, budget: RunBudget, limits: TaskLimits) -> tuple[Any, bytes]:
        with self._lock:
            limits = _stated(limits, budget)
            message.head["seconds"] = limits.seconds
            process = self.start()
            answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
            threading.Thread(target=_exchange, args=(process, message, answers), daemon=True).start()
            try:
                answer = self._wait(process, answers, budget, limits)
            except BaseException:
                self.end()
                raise
            if (resident_bytes(process.pid) or 0) > _KEPT_BYTES:
                self.end()
        if "raised" in answer.head:
            raise TaskFailed(answer.head["raised"])
        return answer.head.get("answer"), answer.content

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        answers: queue.SimpleQueue[Message | None],
        budget: RunBudget,
        limits: TaskLimits,
    ) -> Message:
        deadline = time.monotonic() + _WALL * limits.seconds
        while True:
            with contextlib.suppress(queue.Empty):
                answer = answers.get(timeout=_POLL_S)
                if answer is None:
                    raise _death(process, limits)
                return answer
            if (resident_bytes(process.pid) or 0) > limits.memory_bytes:
                raise WorkerEnded("memory", f"takes more than {limits.memory_bytes >> 20:,} MiB")
            if time.monotonic() > deadline:
                raise WorkerEnded("time", f"did not end within {limits.seconds:.3g} s of processor time")
            budget.check()

    def end(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            process = self._process
            if process is not None and self._owner == os.getpid():
                process.kill()
                process.wait()
            self._forget()

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            worker_pids.discard(process.pid)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


_shared = _Worker()
atexit.register(_shared.end)


def _stated(limits: TaskLimits, budget: RunBudget) -> TaskLimits:
    """Return the limits that the run states, in place of defaults, and what is left of them."""
    memory, seconds = limits.memory_bytes, limits.seconds
    if budget.memory_limit is not None:
        left = max(0, budget.memory_limit - (resident_bytes() or 0))
        memory = left if budget.limits.max_memory_mb is not None else min(memory, left)
    if budget.remaining_s is not None:
        seconds = max(0.0, budget.remaining_s)
    return TaskLimits(memory, seconds)


def _exchange(
    process: subprocess.Popen[bytes], message: Message, answers: queue.SimpleQueue[Message | None]
) -> None:
    """Send a message and put the answer into the queue; None where the process ends before."""
    try:
        if process.stdin is None or process.stdout is None:
            raise EOFError
        write_message(process.stdin, message)
        answers.put(read_message(process.stdout))
    except (EOFError, OSError, ValueError):
        answers.put(None)


def _death(process: subprocess.Popen[bytes], limits: TaskLimits) -> WorkerEnded:
    """Return the cause of a process that closed its pipe."""
    try:
        status = process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        return WorkerEnded("died", "ended its process")
    if hasattr(signal, "SIGXCPU") and status == -signal.SIGXCPU:
        return WorkerEnded("time", f"did not end within {limits.seconds:.3g} s of processor time")
    return WorkerEnded("died", cause_of_death(status))


def cause_of_death(status: int) -> str:
    """Return a child's exit status in words; a negative one is the signal that killed it."""
    if status >= 0:
        return f"ended its process with exit code {status}"
    try:
        return f"killed its process by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed its process by signal {-status}"
