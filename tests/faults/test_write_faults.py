"""Whatever fails while a result is written: the old file or the new one, whole, and a true sentence."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from injection import FAULTS, Ending, run_with

from onnx_admm import cli
from onnx_admm.api import compare
from onnx_admm.api.measure import Measurement
from onnx_admm.contracts import ModelView
from onnx_admm.model.writing import saving

pytestmark = pytest.mark.slow

OLD = "what was there before"


@dataclass(frozen=True)
class Scene:
    """A folder in which a run is repeated: what it starts from, and what it leaves without a fault."""

    folder: Path
    start: Path
    expected_files: dict[str, bytes]
    arguments: tuple[str, ...]

    def restore(self) -> None:
        """Lay everything as it was."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.start, self.folder)

    def command(self) -> None:
        """Run the command."""
        os.chdir(self.folder)
        cli.main(self.arguments)


MakeScene = Callable[..., Scene]


def files_below(folder: Path) -> dict[str, bytes]:
    """Content of every file of a folder, hidden ones too, by path."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {os.fspath(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def make_scene(tiny_mlp: ModelView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeScene:
    """``make_scene(external=..., old=...)``: the tiny model, a recipe that changes it, a report elsewhere."""

    monkeypatch.setattr(saving, "_EXTERNAL_THRESHOLD", 100)  # the model is tiny

    def make(*, external: bool, old: bool) -> Scene:
        start = tmp_path / "start"
        (start / "reports").mkdir(parents=True)
        tiny_mlp.save(start / "net.onnx")
        beside = {"save_as_external_data": True, "size_threshold": 0}
        if external:
            onnx.save(onnx.load(start / "net.onnx"), start / "net.onnx", location="w.bin", **beside)
        if old and external:
            onnx.save(onnx.load(start / "net.onnx"), start / "out.onnx", location="out.onnx.data", **beside)
        if old:
            if not external:
                tiny_mlp.metadata["age"] = "old"
                tiny_mlp.save(start / "out.onnx")
            (start / "reports" / "r.json").write_text(OLD)
        (start / "recipe.toml").write_text('fine_tune = false\n[[pass]]\nname = "share_scales"\n')
        command = "compress net.onnx out.onnx --recipe recipe.toml --report reports/r.json --keep --threads 1"
        scene = Scene(tmp_path / "run", start, {}, tuple(command.split()))
        measured = compare(start / "net.onnx", start / "net.onnx", threads=1)
        monkeypatch.setattr(Measurement, "compare", lambda *_: measured)  # measuring writes no file
        monkeypatch.setattr(sys.modules["onnx_admm.api.compress"], "check_runs", lambda *_: None)
        scene.folder.mkdir()
        scene.restore()
        ending = run_with(scene.command, scene.folder)
        assert ending.status == 0, ending.stderr
        return Scene(scene.folder, start, files_below(scene.folder), scene.arguments)

    return make


def calls_of(scene: Scene) -> tuple[str, ...]:
    """Every watched call of a run without a fault."""
    scene.restore()
    return run_with(scene.command, scene.folder).calls


def verdicts(scene: Scene, ending: Ending, fault: str, call: str) -> Iterator[str]:
    """What is wrong about the folder and about the sentence; nothing where all is well."""
    before, after = files_below(scene.start), files_below(scene.folder)
    is_new = after.get("out.onnx") != before.get("out.onnx")
    for name in ("net.onnx", "w.bin", "recipe.toml"):
        if after.get(name) != before.get(name):
            yield f"{name}, an input, changed"
    if "out.onnx" in after and (broken := broken_model(scene.folder / "out.onnx")):
        yield f"out.onnx {broken}"
    told = after.get("reports/r.json")
    if told is not None and told != before.get("reports/r.json"):
        json.loads(told)
    is_told, differs = (
        told != before.get("reports/r.json"),
        before.get("out.onnx") != scene.expected_files["out.onnx"],
    )
    if is_told and differs and not is_new:
        yield "a report of a result that is not there"
    if "Traceback" in ending.stderr or "(a bug" in ending.stderr:
        yield f"no sentence: {ending.stderr}"
    yield from false_sentences(ending, is_new=is_new, fault=fault)
    if fault != "KILL":
        expected = {*before, *scene.expected_files} if is_new else {*before, "reports/r.json"}
        left = [name for name in after if name not in expected and not is_own_data(name, after)]
        unexpected = [name for name in left if not (call.startswith("os.r") and ".onnx-admm/" in name)]
        if unexpected:
            yield f"left behind: {unexpected}"


def is_own_data(name: str, files: dict[str, bytes]) -> bool:
    """Whether a file is the one that the result keeps its weights in."""
    return bool(re.fullmatch(r"out\.onnx\.[0-9a-f]{8}\.data", name)) and name.encode() in files["out.onnx"]


def broken_model(path: Path) -> str | None:
    """What is wrong with a model on disk; external data is held against the digest in its name."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001 (any: the verdict is that it does not load)
        return f"does not load: {error}"
    for data in path.parent.glob("out.onnx.????????.data"):
        digest = hashlib.sha256(data.read_bytes()).hexdigest()
        if data.name.encode() in path.read_bytes() and data.name.split(".")[2] not in digest:
            return "refers to other weights"
    return None


def false_sentences(ending: Ending, *, is_new: bool, fault: str) -> Iterator[str]:
    """Sentences that say of the result what is not so."""
    codes = {"ENOSPC": {0, 1, 2}, "EIO": {0, 1, 2}, "KILL": {-9}, "TERM": {143}, "INT": {130}}
    if ending.status not in codes[fault] and not (fault in ("TERM", "INT") and ending.status == 0):
        yield f"exit code {ending.status}"
    if ending.status > 0 and not ending.stderr.strip():
        yield "not a word"
    if is_new and "nothing was written" in ending.stderr:
        yield f"out.onnx is new: {ending.stderr}"
    if not is_new and re.search(r"written before that: .*out\.onnx", ending.stderr):
        yield f"out.onnx is old: {ending.stderr}"
    if fault in ("TERM", "INT") and ending.status and is_new and "out.onnx" not in ending.stderr:
        yield f"out.onnx is new, and nobody says so: {ending.stderr}"


def check(scene: Scene, fault: str, at: int, call: str) -> list[str]:
    """One fault, and a run after it: the faults found."""
    scene.restore()
    ending = run_with(scene.command, scene.folder, fault, at)
    found = list(verdicts(scene, ending, fault, call))
    if fault == "KILL":
        again = run_with(scene.command, scene.folder)
        left = [
            name
            for name in files_below(scene.folder)
            if name not in scene.expected_files and not is_own_data(name, files_below(scene.folder))
        ]
        if again.status or left:
            found.append(f"the next run: exit {again.status}, left {left}: {again.stderr}")
    return found


EVERY = os.environ.get("ONNX_ADMM_ALL_FAULTS") == "1"
LONG = pytest.mark.skipif(not EVERY, reason="takes a minute: make faults runs it")


@pytest.mark.parametrize(
    ("external", "old"),
    [(True, True), pytest.param(True, False, marks=LONG), pytest.param(False, True, marks=LONG)],
)
@pytest.mark.slow
def test_faults_at_every_call_of_a_run(make_scene: MakeScene, external: bool, old: bool) -> None:
    """What a fault leaves is removed by the next run where the fault was in the removal itself, or a kill.

    Each call meets one kind of fault, all kinds in turn; `make faults` has every call meet each.
    """
    scene = make_scene(external=external, old=old)
    calls = calls_of(scene)
    assert len(calls) > 20
    for at, call in enumerate(calls):
        for fault in FAULTS if EVERY else (FAULTS[(at + 2 * external + old) % len(FAULTS)],):
            assert not (found := check(scene, fault, at, call)), (fault, at, call, found)
