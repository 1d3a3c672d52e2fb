"""What a run may take: the budget that counts it, and the thread that ends the run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import numpy as np
import pytest

from onnx_admm.errors import LimitReached, UsageError
from onnx_admm.limits import RunBudget, RunLimits, budget, current_budget, run_within
from onnx_admm.limits.budget import (
    BYTES_PER_STORED_BYTE,
    FREE_BYTES,
    FREE_OPERATIONS,
    process_bytes,
)


def test_arrays_count_while_they_live() -> None:
    budget = RunBudget()
    first = budget.keep(np.zeros(FREE_BYTES - 8, np.uint8), "one")
    with pytest.raises(
        LimitReached, match=r"two takes more memory .* got 1 MiB in addition to 128 MiB .*--max-memory"
    ):
        budget.reserve(9, "two")
    budget.reserve(8, "two")
    del first
    budget.reserve(FREE_BYTES, "two")


def test_more_is_allowed_for_larger_files() -> None:
    budget = RunBudget()
    assert budget.keep_limit == FREE_BYTES
    budget.add_stored(1000)
    assert budget.keep_limit == FREE_BYTES + 1000 * BYTES_PER_STORED_BYTE


def test_a_stated_memory_limit_replaces_the_proportional_one() -> None:
    assert RunBudget(RunLimits(max_memory_mb=3000)).keep_limit == 3000 << 20
    assert RunBudget(RunLimits(max_memory_mb=1)).keep_limit == 1 << 20


def test_operations_are_counted_until_a_time_limit_is_stated() -> None:
    budget = RunBudget()
    budget.operate(FREE_OPERATIONS, "decoding")
    with pytest.raises(LimitReached, match=r"decoding takes more operations .*--timeout"):
        budget.operate(1, "decoding")
    RunBudget(RunLimits(timeout_s=60)).operate(2 * FREE_OPERATIONS, "decoding")


def test_a_run_inside_a_run_is_a_part_of_it() -> None:
    with run_within(RunLimits(timeout_s=60)) as outer:
        assert current_budget() is outer
        with run_within() as inner:
            assert inner is outer
        with run_within(RunLimits(timeout_s=1000)) as inner:
            assert inner is current_budget() is not outer
            assert inner.remaining_s is not None
            assert inner.remaining_s <= 60
    assert current_budget() is not outer


def spin_for(seconds: float) -> None:
    ended = time.monotonic() + seconds
    with contextlib.suppress(Exception):  # which must not swallow the end of the run
        while time.monotonic() < ended:
            pass


def test_a_time_limit_ends_a_loop_that_never_asks() -> None:
    started = time.monotonic()
    sentence = r"the time limit of 0.1 s is reached. Raise the limit with --timeout"
    with pytest.raises(LimitReached, match=sentence), run_within(RunLimits(timeout_s=0.1)):
        spin_for(20)
    assert time.monotonic() < started + 10


def test_a_memory_limit_ends_a_run_that_takes_more() -> None:
    taken = process_bytes()
    assert taken is not None
    limit = (taken >> 20) + 64
    blocks: list[np.ndarray] = []

    def take() -> None:
        for _ in range(2000):
            blocks.append(np.ones(1 << 17))
            time.sleep(0.01)

    sentence = rf"the memory limit of {limit} MiB is reached; got \d+ MiB in use"
    with pytest.raises(LimitReached, match=sentence), run_within(RunLimits(max_memory_mb=limit)):
        take()
    assert len(blocks) < 400


def test_a_run_that_is_over_its_limits_does_not_begin() -> None:
    began = False
    with pytest.raises(LimitReached, match="the memory limit of 5 MiB"), run_within(RunLimits(5)):
        began = True
    assert not began


def test_a_large_request_is_refused_before_it_is_made() -> None:
    with pytest.raises(LimitReached, match=r"and 8,388,608 MiB more are needed"):
        RunBudget(in_proportion=False).check(1 << 43)


def test_memory_that_the_system_refuses_is_a_sentence() -> None:
    with (
        pytest.raises(LimitReached, match=r"the system refuses more memory \(Unable to allocate"),
        run_within(),
    ):
        np.ones((1 << 20, 1 << 30))


@pytest.mark.parametrize("limits", [{"max_memory_mb": 0}, {"timeout_s": -1.0}, {"timeout_s": float("nan")}])
def test_impossible_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="an impossible"):
        RunLimits(**limits)  # type: ignore[arg-type]


TRACED = """
import sys, threading, time
def trace(frame, event, argument):
    return trace
threading.settrace(trace)
sys.settrace(trace)
from onnx_admm.errors import LimitReached
from onnx_admm.limits import RunLimits, run, run_within
run._GRACE_S = 0.1
left = []
for body in (lambda: time.sleep(0.6), lambda: [None for _ in iter(int, 1)]):
    try:
        with run_within(RunLimits(timeout_s=0.1), abandon=left.append):
            body()
    except LimitReached:
        print("ended", flush=True)
print("left" if left else "waited for", sum(1 for _ in range(1000)))
"""


def test_a_traced_program_reaches_its_limit_and_goes_on() -> None:
    """CPython 3.11 stands still under a tracer while an exception is on its way, or was taken back."""
    command = [sys.executable, "-c", TRACED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["ended", "ended", "left", "1000"], done.stderr


def test_the_system_is_not_asked_for_memory_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(budget, "process_bytes", lambda: asked.append(None) or 1 << 20)
    monkeypatch.setattr(budget.time, "monotonic", lambda: 100.0)
    taken = RunBudget(RunLimits(max_memory_mb=64))
    for _ in range(1000):
        taken.operate(1, "a small step")
    assert len(asked) <= 1
    with pytest.raises(LimitReached):
        taken.check(coming=1 << 30)
