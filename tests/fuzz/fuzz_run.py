"""Run mutants of every format and judge each: a right result or one sentence, within time and memory.

    python tests/fuzz/fuzz_run.py --examples 500      a set number of mutants, always the same ones
    python tests/fuzz/fuzz_run.py --minutes 10        new ones until the time is over
    python tests/fuzz/fuzz_run.py --replay FOLDER     one that was kept, with its traceback

Mutants are judged in a child process, which is started again after it dies: a crash, a hang or a flood of
memory is a fault of that mutant. Hypothesis draws mutants and makes those that fail smaller.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from fuzz_targets import Files, Target, targets
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisException

from onnx_admm.errors import OnnxAdmmError
from onnx_admm.model.files import file_tensor, protobuf_wire

SECONDS = 60
MEBIBYTES = 1024
_SMALL = 64
"""Tensors from this size on stay in their file, so that the small ones here take the ways of large ones."""


class Fault(Exception):
    """A mutant that ends in anything but a result or a sentence."""


def _is_fault(end: str) -> bool:
    return not end.startswith(("result", "sentence: "))


@dataclass
class Tally:
    """What became of the mutants.

    Attributes:
        ends: mutants by target and end.
        sentences: mutants by the sentence they end in.
        faults: folder of one mutant for each kind of fault.
        kept: where such mutants are kept.
    """

    kept: Path
    ends: dict[str, Counter[str]] = field(default_factory=dict)
    sentences: Counter[str] = field(default_factory=Counter)
    faults: dict[str, Path] = field(default_factory=dict)

    def judged(self) -> int:
        return sum(sum(ends.values()) for ends in self.ends.values())


class Judge:
    """Judges mutants of one format in a child process, which is started again after it dies.

    The child is forked from this process, which has loaded everything, and keeps what the program keeps
    between files, such as its own worker process.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._child: BaseProcess | None = None

    def judge(self, files: Files) -> str:
        """Return ``result``, ``sentence: `` and which, or what is wrong: the exception, a signal, a limit."""
        folder = Path(tempfile.mkdtemp(prefix="onnx-admm-fuzz-"))
        try:
            write(folder, files)
            if self._child is None:
                self._pipe, theirs = multiprocessing.Pipe()
                self._child = multiprocessing.get_context("fork").Process(target=self._serve, args=(theirs,))
                self._child.start()
                theirs.close()
            self._pipe.send(folder)
            if not self._pipe.poll(SECONDS):
                self.close()
                return f"over {SECONDS} s"
            end, peak = self._pipe.recv()
            return f"over {MEBIBYTES} MiB" if peak > MEBIBYTES << 10 else str(end)
        except EOFError:
            assert self._child is not None
            self._child.join()
            number = -(self._child.exitcode or 0)
            self.close()
            return (
                f"signal {signal.Signals(number).name}" if number > 0 else f"an end of the process: {-number}"
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End the child and what it started."""
        if self._child is not None:
            assert self._child.pid is not None
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.join()
            self._pipe.close()
            self._child = None

    def _serve(self, pipe: Connection) -> None:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while True:
            folder = pipe.recv()
            _forget_peak()
            pipe.send((run(self._target, folder), _peak_kib()))


def _forget_peak() -> None:
    """Have the system measure the largest resident memory anew (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_kib() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.partition("VmHWM:")[2].split()[0])


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def run(target: Target, folder: Path) -> str:
    """Judge a mutant in this process."""
    try:
        target.judge(folder)
    except OnnxAdmmError as error:
        sentence = str(error)
        wrong = not sentence.strip() or "Traceback" in sentence or error.exit_code not in (1, 2, 3)
        unexpected = "failed unexpectedly" in sentence
        return f"not a sentence: {sentence[:300]}" if wrong or unexpected else f"sentence: {error.what[:100]}"
    except BaseException as error:
        return f"{type(error).__name__}{_place(error)}: {str(error)[:200]}"
    return "result"


def _place(error: BaseException) -> str:
    """Where in this program an exception was raised, or came through last."""
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(part in Path(frame.filename).parts for part in ("onnx_admm", "passes", "cost_models"))
    ]
    return f" at {Path(ours[-1].filename).name}:{ours[-1].lineno} in {ours[-1].name}" if ours else ""


def hunt(name: str, target: Target, examples: int, number: int, tally: Tally) -> None:
    """Judge mutants of one format; a new kind of fault is made smaller and kept."""
    ends = tally.ends.setdefault(name, Counter())
    last: dict[str, Files] = {}
    judge = Judge(target)

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(target.files)
    def check(files: Files) -> None:
        end = judge.judge(files)
        head = end.split(": ")[0]
        ends["fault" if _is_fault(end) else head] += 1
        tally.sentences[end] += not _is_fault(end)
        kind = f"{name}: {head}"
        if _is_fault(end) and kind not in tally.faults:
            last[kind] = files
            last["end"] = {"end": end.encode()}
            raise Fault(kind)

    try:
        check()
    except Fault as fault:
        kind = str(fault)
        place = tally.kept / f"{len(tally.faults) + 1:03}"
        shutil.rmtree(place, ignore_errors=True)
        write(place, last[kind])
        (place / "target").write_text(name)
        (place / "end").write_bytes(last["end"]["end"])
        tally.faults[kind] = place
        print(f"FAULT {kind}\n      {last['end']['end'].decode()[:300]}\n      kept in {place}", flush=True)
    except HypothesisException as error:
        print(f"Hypothesis: {name}: {type(error).__name__}: {error}", flush=True)
    finally:
        judge.close()


def replay(folder: Path) -> None:
    """Judge a mutant that was kept, and let its exception through."""
    target = targets()[(folder / "target").read_text()]
    copy = Path(tempfile.mkdtemp(prefix="onnx-admm-fuzz-"))
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    try:
        target.judge(copy)
        print("a result")
    finally:
        shutil.rmtree(copy)


def main() -> int:
    """Return 1 where a fault was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=0, help="mutants in all")
    parser.add_argument("--minutes", type=float, default=0, help="how long")
    parser.add_argument("--seed", type=int, help="of the first round; else any")
    parser.add_argument("--only", help="targets whose name holds this")
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="where mutants that fail are kept"
    )
    parser.add_argument("--sentences", action="store_true", help="show which, and how often")
    parser.add_argument("--replay", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    protobuf_wire.KEPT_IN_FILES_FROM_BYTES = file_tensor.KEPT_IN_FILES_FROM_BYTES = _SMALL
    if asked.replay:
        replay(asked.replay)
        return 0
    chosen = {name: target for name, target in targets().items() if not asked.only or asked.only in name}
    tally = Tally(asked.keep)
    whole = sum(target.share for target in chosen.values())
    until = time.monotonic() + 60 * asked.minutes
    number = (
        asked.seed
        if asked.seed is not None
        else 0
        if asked.examples
        else random.SystemRandom().randrange(1 << 32)
    )
    a_round = asked.examples or 2 * whole
    print(f"seed {number}", flush=True)
    while True:
        for name, target in chosen.items():
            hunt(name, target, -(-a_round * target.share // whole), number, tally)
            if not asked.examples and time.monotonic() > until:
                break
        number += 1
        if asked.examples or time.monotonic() > until:
            break
    for name, ends in tally.ends.items():
        print(f"{name:18} {json.dumps(dict(ends))}")
    for end, count in tally.sentences.most_common() if asked.sentences else ():
        print(f"{count:6} {end}")
    print(f"{tally.judged()} mutants judged, {len(tally.faults)} kinds of fault")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
