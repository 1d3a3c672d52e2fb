"""First runs of a model in a process of their own: one that crashes or hangs takes nobody along.

Some models kill the process they run in on a shape they were not made for (an integer division by zero
among their shape computations is enough), and where no process is left nobody can catch anything. So what
a model runs with is found out by ``python -m onnx_admm.runtime.probe MODEL VERDICTS FEEDS...``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_admm.contracts import Dataset, Feeds, ModelView
from onnx_admm.errors import DataError, OnnxAdmmError, WorkError
from onnx_admm.named_arrays import read_npz, write_npz
from onnx_admm.runtime.child_process import run_module, text_of
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.installed import require_runtime
from onnx_admm.runtime.sessions import open_session

LIMIT_S = 120.0
"""Seconds the attempts of one process may take, its start and the opening of the model included."""

_RUNS = "runs"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt came to nothing; ``fatal`` where it took its process along."""

    why: str
    fatal: bool = False


def first_that_runs(model: ModelView, attempts: Sequence[Dataset], *, limit_s: float = LIMIT_S) -> int:
    """Index of the first dataset whose first sample the model runs with, found out in another process.

    The likeliest comes first, so that one has a process to itself. The rest share the next one, until an
    attempt kills it or hangs; then another goes on behind that attempt.

    Args:
        model: what to run.
        attempts: data that fits the model's inputs.
        limit_s: seconds a process may take for its attempts; the one it is at then counts as hung.

    Raises:
        RuntimeMissing: no runtime, or two.
        DataError: the runtime refuses every attempt; the message is that of the last.
        WorkError: an attempt killed its process or hung, and no other ran; names shapes and signal.
    """
    require_runtime()
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="onnx-admm-probe-") as name:
        model.save(Path(name) / "model.onnx")
        while len(failures) < len(attempts):
            more, ran = _run_some(
                attempts[len(failures) :] if failures else attempts[:1], Path(name), limit_s
            )
            failures += more
            if ran:
                return len(failures)
    raise _nothing_runs(attempts, failures)


def _run_some(attempts: Sequence[Dataset], folder: Path, limit_s: float) -> tuple[list[Failure], bool]:
    """One process: the attempts that failed, and whether the one behind them ran."""
    verdicts = folder / "verdicts.txt"
    verdicts.unlink(missing_ok=True)
    files = [str(folder / f"{number}.npz") for number in range(len(attempts))]
    for file, attempt in zip(files, attempts, strict=True):
        write_npz(file, _first_sample(attempt))
    arguments = [str(folder / "model.onnx"), str(verdicts), *files]
    end = run_module(__spec__.name, arguments, limit_s=limit_s)
    lines = text_of(verdicts).splitlines()
    ran = _RUNS in lines
    failures = [Failure(line) for line in lines if line != _RUNS]
    if end is not None and not ran:
        failures.append(Failure(end, fatal=True))
    return failures, ran


def _nothing_runs(attempts: Sequence[Dataset], failures: Sequence[Failure]) -> OnnxAdmmError:
    nothing, hint = "the model runs with none of the inputs tried", "Give some real samples"
    fatal = [number for number, failure in enumerate(failures) if failure.fatal]
    if not fatal:
        return DataError(f"{nothing}; the last failed so: {failures[-1].why}", hint=hint)
    feeds, why = _first_sample(attempts[fatal[-1]]), failures[fatal[-1]].why
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
    return WorkError(f"{nothing}; a run on {shapes} {why}", hint=hint)


def _first_sample(attempt: Dataset) -> Feeds:
    return next(attempt.select(np.zeros(1, np.int64)).batches(1)).feeds


def _work(model: str, verdicts: str, files: Sequence[str]) -> None:
    """The other process: one line for each attempt, up to the first that runs."""
    session = None
    with open(verdicts, "w", encoding="utf-8", buffering=1) as report:
        for file in files:
            arrays = read_npz(file)
            try:
                session = session or open_session(model, threads=1)
                for _ in run_samples(session, arrays):
                    pass
            except OnnxAdmmError as error:
                report.write(f"{' '.join(str(error).split())}\n")
            else:
                report.write(f"{_RUNS}\n")
                return


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2], sys.argv[3:])
