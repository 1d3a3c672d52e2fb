"""Latency of two models, measured interleaved in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx_admm.contracts import Array, Feeds, ModelView, Progress, SilentProgress
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.runtime.clock import Clock, clock_for
from onnx_admm.runtime.feeding import feed_at
from onnx_admm.runtime.sessions import ModelSource, Session, open_session

_LOADS = 4  # the first does not count where there are more: caches are cold
_ROUNDS_A_LOAD = 25
_ENOUGH_LOADING_US = 1e6  # above this the second of each is enough
_WARM_UP_RUNS = 3
_ROUND_US = 500.0  # a round repeats short runs until the clock's own cost no longer shows
_TOTAL_US = 2e6


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians over the rounds.

    Attributes:
        before_us: one run of the first model, microseconds.
        after_us: one run of the second under the load that the first had: ``before_us * ratio``.
        ratio: median over rounds of after / before: below 1 the second is faster. Steadier than the
            quotient of the medians, since both of a round meet the same load of the machine.
        before_load_ms: opening the first model, graph optimisation included, milliseconds.
        after_load_ms: opening the second.
    """

    before_us: float
    after_us: float
    ratio: float
    before_load_ms: float
    after_load_ms: float


def compare_latency(
    before: ModelSource,
    after: ModelSource,
    feeds: Mapping[str, Array],
    *,
    threads: int = 1,
    rounds: int = 101,
    progress: Progress | None = None,
) -> Latency:
    """Time two models on the same feeds, in turns, alternating which goes first.

    With one thread, the processor time of that thread counts, which a busy machine does not disturb; with
    more, wall-clock time.

    A round repeats runs shorter than half a millisecond; slow models get fewer rounds (never under 5), so
    that the whole takes a few seconds.

    Args:
        before: a model.
        after: the model to compare with it.
        feeds: samples as in a ``Batch``; those of one run are used: one sample gives the latency of one.
        threads: intra-op threads.
        rounds: rounds at most; each model is opened once for every 25 of them, four times at most.
        progress: receives the progress.

    Raises:
        OnnxAdmmError: from ``open_session`` and ``Session.run``.
    """
    clock = clock_for(threads)
    loads_us: tuple[list[float], list[float]] = ([], [])
    opened: dict[int, Session] = {}
    with TemporaryFolder() as folder:  # a session with wrong stored shapes reads its file again
        models = [_file(model, Path(folder, f"{i}.onnx")) for i, model in enumerate((before, after))]
        for number in range(min(_LOADS, max(1, rounds // _ROUNDS_A_LOAD))):
            opened.clear()
            for which in (1, 0):  # opening a decoded model takes most memory: nothing else is open then
                started = time.perf_counter_ns()
                opened[which] = open_session(models[which], threads=threads)
                loads_us[which].append((time.perf_counter_ns() - started) / 1e3)
            if number and sum(map(sum, loads_us)) > _ENOUGH_LOADING_US:
                break
        sessions = (opened[0], opened[1])
        fed = tuple(feed_at(session, feeds) for session in sessions)
        slowest_us = max(_warm_up(session, feed, clock) for session, feed in zip(sessions, fed, strict=True))
        repeats = max(1, round(_ROUND_US / slowest_us))
        rounds = min(rounds, max(5, round(_TOTAL_US / (2 * repeats * slowest_us))))
        times_us: tuple[list[float], list[float]] = ([], [])
        with (progress or SilentProgress()).task("latency", rounds) as task:
            for number in range(rounds):
                for which in _turns(number):
                    times_us[which].append(_time_us(sessions[which], fed[which], repeats, clock))
                task.advance()
    before_us = statistics.median(times_us[0])
    ratio = statistics.median(b / a for a, b in zip(*times_us, strict=True))
    return Latency(
        before_us=before_us,
        after_us=before_us * ratio,
        ratio=ratio,
        before_load_ms=statistics.median(loads_us[0][1:] or loads_us[0]) / 1e3,
        after_load_ms=statistics.median(loads_us[1][1:] or loads_us[1]) / 1e3,
    )


def _file(model: ModelSource, path: Path) -> ModelSource:
    if not isinstance(model, ModelView):
        return model
    data = model.to_bytes(maps=False)
    try:
        path.write_bytes(data)
    except OSError:  # no room: memory will have to do
        return data
    return path


def _turns(number: int) -> tuple[int, int]:
    return (0, 1) if number % 2 == 0 else (1, 0)


def _warm_up(session: Session, feed: Feeds, clock: Clock) -> float:
    return min(_time_us(session, feed, 1, clock) for _ in range(_WARM_UP_RUNS))


def _time_us(session: Session, feed: Feeds, repeats: int, clock: Clock) -> float:
    started = clock()
    for _ in range(repeats):
        session.run(feed)
    return max(clock() - started, 1) / 1e3 / repeats
