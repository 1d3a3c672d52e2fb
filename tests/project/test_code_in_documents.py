"""Code in README, docs and examples runs: every fenced block and every command, and none is left out."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import RunCommand
from fake_plugins import register

from onnx_admm.cli import app
from onnx_admm.config.recipe import Recipe

pytestmark = pytest.mark.slow

ROOT = Path(os.environ.get("ONNX_ADMM_REPOSITORY") or Path(__file__).parents[2])
PLACES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/*.md", "examples/**/*.md")

SHOWN = {
    "docs/cost-models.md": 2,  # test_documentation.py runs the commands above them and compares
    "docs/targets.md": 3,  # the first likewise; the others are of runs that take minutes (benchmarks)
}
"""Number of blocks that show what a command prints."""

STAND_INS = {
    "IN": "net.onnx",
    "OUT": "out.onnx",
    "DIR": "out",
    "TRAIN": "train.npz",
    "M": "admm-nn --bind N=1",
    "N": "1",
    "batch=1": "N=1",
    "recipes/NAME.toml": "recipe.toml",
}
"""What commands of the documents are run with where they say these words."""

INSTALLED = {"examples/plugins/systolic-array/README.md", "examples/plugins/powers-of-two/README.md"}
"""Their commands need the package: tests/end_to_end/test_example_plugins.py runs them."""

FILES = {"recipe.toml": '[[pass]]\nname = "encode"\n', "my-board.toml": "clock_mhz = 400.0\n"}


def documents(repository: Path) -> dict[str, str]:
    """Text of every document by its path."""
    found = sorted({file for place in PLACES for file in repository.glob(place)})
    return {file.relative_to(repository).as_posix(): file.read_text("utf-8") for file in found}


def fenced(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Each command that stands on lines of its own, without its ``$``."""
    joined = re.sub(r" *\\\n +", " ", text)
    return re.findall(r"^ {4,}(?:\$ )?(onnx-admm [^\n#]*)", joined, re.MULTILINE)


@pytest.fixture
def place(net: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documents' code reads: any model is ``net``, any data are ``samples``."""
    monkeypatch.chdir(net.parent)
    text = "".join(documents(ROOT).values())
    for name in {"net.onnx", *re.findall(r"[\w./-]+\.(?:onnx|npz)\b", text)} - {net.name, samples.name}:
        file = net.parent / Path(name).name if name.startswith("/") else net.parent / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes((net if name.endswith(".onnx") else samples).read_bytes())
    for name, content in FILES.items():
        (net.parent / name).write_text(content)
    return net.parent


def run_python(name: str, text: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a document's Python in order, tests that it defines too; the names that are left."""
    module = types.ModuleType("shown")
    module.__file__ = str(place / "shown.py")
    monkeypatch.setitem(sys.modules, "shown", module)
    for language, source in fenced(text):
        if language == "python":
            if (file := re.match(r"# (\w+\.py)\b", source)) is not None:
                (place / file[1]).write_text(source)
            exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
    for key, value in list(module.__dict__.items()):
        if key.startswith("test_"):
            value()
    return module.__dict__


def check_toml(source: str, names: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project file registers classes that are shown; anything else is a recipe, or part of a profile."""
    table = tomllib.loads(source)
    groups = table.get("project", {}).get("entry-points", {})
    for group, entries in groups.items():
        shown = {key: f"shown:{target.rpartition(':')[2]}" for key, target in entries.items()}
        assert all(target.partition(":")[2] in names for target in shown.values()), source
        folder = place / group
        folder.mkdir()
        register(monkeypatch, folder, {group: shown}, distribution=f"shown-{group.rpartition('.')[2]}")
    if "pass" in table:
        assert Recipe.parse(source).passes


def names_with_code() -> list[Any]:
    """Documents; the one that trains is slow."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name == "README.md" else [])
        for name, text in documents(ROOT).items()
        if fenced(text) or commands(text)
    ]


@pytest.mark.parametrize("name", names_with_code())
def test_every_block_and_every_command_runs(
    name: str, place: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = documents(ROOT)[name]
    names = run_python(name, text, place, monkeypatch)
    others = [(language, source) for language, source in fenced(text) if language != "python"]
    assert {language for language, _ in others} <= {"", "toml"}
    assert [language for language, _ in others].count("") == SHOWN.get(name, 0)
    if name in INSTALLED:
        return
    for language, source in others:
        if language == "toml":
            check_toml(source, names, place, monkeypatch)
    for command in commands(text):
        run_command(command, run)


def run_command(command: str, run: RunCommand) -> None:
    """Run a command; a compression as a dry run, and a sweep is parsed alone.

    Two models to compare are the same here, so that the ratio which one command demands is missed.
    """
    stood_in = [STAND_INS.get(word, word).split() for word in shlex.split(command)[1:]]
    verb, *words = [word for part in stood_in for word in part]
    if verb == "sweep":
        click = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
        assert click.make_context(verb, list(words)).params
        return
    code, _, error = run(verb, *words, *(["--dry-run"] if verb == "compress" else []))
    assert code == 0 or (verb == "compare" and code == 3), f"{command}: {error}"


def test_a_block_and_a_command_are_found() -> None:
    text = "a\n```python\nx = 1\n```\nb\n```\nout\n```\n\n    $ onnx-admm compress a b \\\n        --bits 4\n"
    assert fenced(text) == [("python", "x = 1\n"), ("", "out\n")]
    assert commands(text) == ["onnx-admm compress a b --bits 4"]
