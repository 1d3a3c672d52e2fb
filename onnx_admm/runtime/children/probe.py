"""First runs of a model in the worker process, where a crash, a hang or full memory does no harm.

Some models kill their process on an unexpected shape (an integer division by zero among their shape
computations is enough), some never end, and the runtime computes constants as it opens a model, whatever
memory they take. So a model that has not run yet runs there first, on one sample.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_admm.contracts import Dataset, Feeds, ModelView
from onnx_admm.errors import DataError, LimitReached, OnnxAdmmError, WorkError
from onnx_admm.limits import current_budget
from onnx_admm.limits.budget import RAISE_MEMORY, RAISE_TIME
from onnx_admm.local_files.named_arrays import write_npz
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.model.rewrite.weight_storage import stored_weight_bytes
from onnx_admm.runtime.installed import require_runtime
from onnx_admm.worker import TaskFailed, TaskLimits, WorkerEnded, run_task

LIMIT_S = 20.0
"""Processor seconds for all attempts on a model; more for large files."""

PROBED_SAMPLES = 3
_MOST_PARTLY = 4
"""Attempts with non-finite values, after which more of the same kind are not tried."""

_BYTES_PER_S = 4 << 20
_BYTES_PER_BYTE_FED = 32
_MOST_IN_MEMORY = 256 << 20
_TASKS = "onnx_admm.runtime.children.first_runs"
_NOTHING = "the model runs with none of the inputs tried"
_HINT = "Give some real samples: --data D.npz."


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why an attempt failed.

    Attributes:
        why: the reason.
        feeds: what was fed.
        end: how the process ended, where the attempt ended it or was ended.
        runs_alone: whether one sample alone runs.
    """

    why: str
    feeds: str
    end: WorkerEnded | None = None
    runs_alone: bool = False


@dataclass(frozen=True, slots=True)
class FirstRun:
    """An attempt with which the model runs.

    Attributes:
        index: number of the attempt.
        not_finite: what is not finite in its outputs; None where all is.
        useless: whether an output has hardly a finite value.
    """

    index: int
    not_finite: str | None = None
    useless: bool = False


def first_that_runs(
    model: ModelView, attempts: Iterable[Dataset], *, limit_s: float | None = None
) -> FirstRun:
    """Return the first dataset whose samples the model runs with, tried in the worker process.

    Attempts are drawn, written and tried one at a time, the likeliest first. Up to ``PROBED_SAMPLES`` samples
    of each are run, one alone and all together. Outputs that are finite are preferred.

    Args:
        model: the model to run.
        attempts: data that fits the model's inputs; at least one.
        limit_s: processor seconds for all attempts; None for 20, and one more for each 4 MiB of the model.

    Raises:
        RuntimeMissing: no runtime, or two.
        DataError: the runtime refuses every attempt; the message is that of the last.
        WorkError: an attempt killed its process, and no other ran; names shapes and signal.
        LimitReached: an attempt took too much time or memory, and no other ran.
    """
    require_runtime()
    failures: list[Failure] = []
    partly: list[FirstRun] = []
    with TemporaryFolder() as name:
        file = Path(name) / "model.onnx"
        size = _write(model, file)
        left = LIMIT_S + size / _BYTES_PER_S if limit_s is None else limit_s
        for number, attempt in enumerate(attempts):
            current_budget().check()
            started = time.monotonic()
            result = _attempt(file, size, attempt, left)
            if isinstance(result, Failure):
                failures.append(result)
            elif result.not_finite is None:
                return replace(result, index=number)
            else:
                partly.append(replace(result, index=number))
            left -= time.monotonic() - started
            if left <= 0 or len(partly) == _MOST_PARTLY:
                break
    if partly:
        return min(partly, key=lambda found: found.useless)
    raise _nothing_runs(failures)


def runs_together(model: ModelView, data: Dataset) -> bool:
    """Run a model on a few samples in the worker process, before it runs in this one.

    A model or a sample that the runtime merely refuses passes: the run in this process reports the reason.

    Returns:
        False where it runs one sample and refuses several at once, whatever its inputs state: a Reshape
        inside may fix their number.

    Raises:
        RuntimeMissing: no runtime, or two.
        WorkError: the run killed the worker.
        LimitReached: the run took too much time or memory.
    """
    require_runtime()
    with TemporaryFolder() as name:
        file = Path(name) / "model.onnx"
        size = _write(model, file)
        failure = _attempt(file, size, data, LIMIT_S + size / _BYTES_PER_S)
    if isinstance(failure, Failure) and failure.end is not None:
        raise _ended("the model does not run", failure, failure.end)
    return not (isinstance(failure, Failure) and failure.runs_alone)


def _write(model: ModelView, file: Path) -> int:
    """Write a model without checks; return its bytes."""
    if stored_weight_bytes(model) > _MOST_IN_MEMORY:
        return model.save(file)
    return file.write_bytes(model.to_bytes())


def _attempt(file: Path, size: int, attempt: Dataset, seconds: float) -> Failure | FirstRun:
    """Run one attempt; return its failure or its outputs' finiteness."""
    feeds = _some_samples(attempt)
    fed = sum(array.nbytes for array in feeds.values())
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
    usual = TaskLimits.for_bytes(size)
    limits = TaskLimits(usual.memory_bytes + _BYTES_PER_BYTE_FED * fed, seconds)
    path = file.with_name("feeds.npz")
    write_npz(str(path), feeds)
    try:
        verdict, _ = run_task(f"{_TASKS}:run", {"model": str(file), "feeds": str(path)}, limits=limits)
        if verdict["why"] is None:
            with contextlib.suppress(TaskFailed, WorkerEnded):
                run_task(f"{_TASKS}:forget", {})
            return FirstRun(0, verdict["not_finite"], verdict["useless"])
        return Failure(str(verdict["why"]), shapes, runs_alone=bool(verdict["alone"]))
    except TaskFailed as error:
        return Failure(str(error), shapes)
    except WorkerEnded as error:
        return Failure(error.how, shapes, error)
    finally:
        path.unlink(missing_ok=True)


def _nothing_runs(failures: list[Failure]) -> OnnxAdmmError:
    ended = [failure for failure in failures if failure.end is not None]
    if not ended:
        last = failures[-1]
        return DataError(f"{_NOTHING}; the last failed so: {last.why}", where=last.feeds, hint=_HINT)
    last = ended[-1]
    return _ended(_NOTHING, last, last.end)


def _ended(what: str, failure: Failure, end: WorkerEnded | None) -> OnnxAdmmError:
    """Return the error for a run that ended the worker."""
    sentence = f"{what}; a run on {failure.feeds} {failure.why}"
    match end:
        case WorkerEnded(kind="memory"):
            return LimitReached(sentence, hint=RAISE_MEMORY)
        case WorkerEnded(kind="time"):
            return LimitReached(sentence, hint=RAISE_TIME)
        case _:
            return WorkError(sentence, hint=_HINT)


def _some_samples(attempt: Dataset) -> Feeds:
    count = min(len(attempt), PROBED_SAMPLES)
    return next(attempt.select(np.arange(count)).batches(count)).feeds
