"""The worker process: kept, limited, and started again when it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from onnx_admm.errors import LimitReached
from onnx_admm.limits import RunLimits, run_within
from onnx_admm.worker import TaskFailed, TaskLimits, WorkerEnded, run_task, warm_up

TASKS = "worker_tasks"
"""A module that the worker finds, whenever it was started: this folder is added later."""

Answer = tuple[Any, bytes]


def ask(task: str, **arguments: Any) -> Answer:
    return run_task(f"{TASKS}:{task}", arguments)


def pid() -> int:
    return int(ask("echo")[0][0])


# -- this process ----------------------------------------------------------------------------


def test_it_answers_and_is_kept() -> None:
    (first, arguments), content = run_task(f"{TASKS}:echo", {"a": [1, None, "ü"]}, b"abc" * 100_000)
    assert first != os.getpid()
    assert arguments == {"a": [1, None, "ü"]}
    assert content == b"cba" * 100_000
    warm_up()
    assert pid() == first


def test_what_a_task_raises_is_named() -> None:
    before = pid()
    with pytest.raises(TaskFailed, match="KeyError: 'nothing there'"):
        ask("fail")
    assert pid() == before


@pytest.mark.parametrize(
    ("task", "arguments", "how"),
    [
        ("die", {"signal": signal.SIGFPE}, "killed its process by SIGFPE"),
        ("die", {"signal": signal.SIGSEGV}, "killed its process by SIGSEGV"),
        ("leave", {}, "ended its process with exit code 7"),
    ],
)
def test_it_starts_again_when_it_has_died(task: str, arguments: dict[str, Any], how: str) -> None:
    before = pid()
    with pytest.raises(WorkerEnded, match=how) as caught:
        ask(task, **arguments)
    assert caught.value.kind == "died"
    assert caught.value.as_limit("running") is None
    assert pid() != before


def test_it_is_ended_when_it_takes_too_long() -> None:
    with pytest.raises(WorkerEnded, match=r"did not end within 0.1 s of processor time") as caught:
        run_task(f"{TASKS}:spin", {}, limits=TaskLimits(1 << 40, 0.1))
    assert "--timeout" in str(caught.value.as_limit("running it"))


def test_it_is_ended_when_it_takes_too_much() -> None:
    with pytest.raises(WorkerEnded, match=r"takes more than 200 MiB") as caught:
        run_task(f"{TASKS}:take", {"bytes": 300 << 20}, limits=TaskLimits(200 << 20, 20))
    assert "--max-memory" in str(caught.value.as_limit("running it"))


def test_the_limits_of_the_run_replace_those_of_the_task() -> None:
    started = time.monotonic()
    with pytest.raises(LimitReached, match=r"time limit of 0\.3 s"), run_within(RunLimits(timeout_s=0.3)):
        ask("spin")
    assert time.monotonic() - started < 10
    with run_within(RunLimits(timeout_s=60)):
        answer = run_task(f"{TASKS}:echo", {}, limits=TaskLimits(1 << 40, 0.0))
    assert answer[0][0] == pid()


def test_threads_take_turns() -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(pid())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1
