"""The same 500 mutants each time, and that the judge finds what it is there for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz_run
import pytest
from fuzz_run import Judge
from fuzz_targets import Target
from hypothesis import strategies as st

from onnx_admm.errors import DataError, OnnxAdmmError
from onnx_admm.settings.tables import parse_toml

pytestmark = pytest.mark.slow

MUTANTS = 500


@pytest.mark.slow
def test_500_mutants_end_in_a_result_or_a_sentence(tmp_path: Path) -> None:
    script = Path(fuzz_run.__file__)
    done = subprocess.run(
        [sys.executable, script, "--examples", str(MUTANTS), "--keep", tmp_path],
        capture_output=True,
        text=True,
        timeout=540,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    judged = re.search(r"(\d+) mutants judged, 0 kinds of fault", done.stdout)
    assert judged is not None
    assert int(judged[1]) >= MUTANTS
    rows = re.findall(r"^(\S[^\n{]*?) +\{(.*)\}$", done.stdout, re.MULTILINE)
    assert {name for name, _ in rows} == set(fuzz_run.targets())
    assert sum("sentence" in ends for _, ends in rows) > len(rows) / 2
    assert sum("result" in ends for _, ends in rows) > len(rows) / 2


def planted(action: str) -> Target:
    """A target that goes wrong in one way, whatever the mutant is."""

    def go_wrong(folder: Path) -> None:
        match action:
            case "raise":
                parse_toml(3, "x")  # type: ignore[arg-type]
            case "exit":
                sys.exit(0)
            case "signal":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(30)
            case "flood":
                bytearray(1 << 28)
            case "wrong":
                raise AssertionError("wrong values")
            case "sentence":
                raise DataError("damaged", where=folder)
            case "empty":
                raise OnnxAdmmError(" ")
            case _:
                assert (folder / "a").read_bytes() == b"content"

    return Target(st.just({}), go_wrong, 1)


@pytest.mark.parametrize(
    ("action", "end"),
    [
        ("raise", r"AttributeError at tables.py:\d+ in parse_toml: "),
        ("exit", "SystemExit: 0"),
        ("signal", "signal SIGSEGV"),
        ("hang", "over 1 s"),
        ("flood", "over 200 MiB"),
        ("wrong", "AssertionError: wrong values"),
        ("empty", "not a sentence"),
        ("sentence", "sentence: damaged"),
        ("none", "result$"),
    ],
)
def test_the_judge_tells_them_apart(monkeypatch: pytest.MonkeyPatch, action: str, end: str) -> None:
    if action == "hang":
        monkeypatch.setattr(fuzz_run, "SECONDS", 1)
    if action == "flood":
        monkeypatch.setattr(fuzz_run, "MEBIBYTES", 200)
    else:
        monkeypatch.setattr(fuzz_run, "MEBIBYTES", 1 << 20)  # whatever tests have loaded before
    judge = Judge(planted(action))
    try:
        for _ in range(2):  # also after it died
            assert re.match(end, judge.judge({"a": b"content"}))
    finally:
        judge.close()


def test_a_fault_is_made_smaller_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def reject_long(folder: Path) -> None:
        if len((folder / "a").read_bytes()) > 4:
            raise KeyError("long")

    target = Target(st.binary(max_size=64).map(lambda data: {"a": data}), reject_long, 1)
    tally = fuzz_run.Tally(tmp_path)
    fuzz_run.hunt("planted", target, 50, 0, tally)
    (place,) = tally.faults.values()
    assert (place / "a").read_bytes() == bytes(5)
    assert (place / "target").read_text() == "planted"
    assert "KeyError" in (place / "end").read_text()
    assert tally.ends["planted"]["fault"] > 0
    assert "FAULT planted: KeyError" in capsys.readouterr().out
