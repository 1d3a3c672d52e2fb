"""The worker process: ``python -m onnx_admm.worker.child [MODULES]`` reads tasks and answers them."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
import time
from typing import IO

from onnx_admm.worker.messages import Message, read_message, write_message


def main() -> None:
    """Answer tasks until the other side closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    _silence_stdout()
    _no_core_dumps()
    for module in sys.argv[1:]:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            _serve(sys.stdin.buffer, answers)


def _serve(tasks: IO[bytes], answers: IO[bytes]) -> None:
    message = read_message(tasks)
    head = dict(message.head)
    name, seconds = head.pop("task"), head.pop("seconds")
    _limit_processor_time(seconds)
    try:
        module, _, function = name.partition(":")
        answer, content = getattr(importlib.import_module(module), function)(head, message.content)
        reply = Message({"answer": answer}, content)
    except Exception as error:  # noqa: BLE001 (whatever it is, the other side says so)
        reply = Message({"raised": f"{type(error).__name__}: {error}"})
    write_message(answers, reply)


def _silence_stdout() -> None:
    """Keep output of C++ code out of the answers."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def _no_core_dumps() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_processor_time(seconds: float) -> None:
    """Let the system end this process after so much more processor time, even without the other side."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        until = math.ceil(time.process_time() + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (until if hard < 0 else min(until, hard), hard))


if __name__ == "__main__":
    main()
