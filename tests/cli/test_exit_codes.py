"""One table of exit codes: in the code, in the help of every command, in README and docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import RunCommand

from onnx_admm import errors
from onnx_admm.errors import EXIT_CODES, OnnxAdmmError

COMMANDS = ("compress", "sweep", "inspect", "annotate", "compare", "lint", "plugins")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_states_the_table(run: RunCommand, command: str | None) -> None:
    _, out, _ = run(*([] if command is None else [command]), "--help")
    listed = out[out.index("Exit codes:") :]
    rows = re.findall(r"^ +(\d+) +(.*(?:\n {9,}\S.*)*)$", listed, re.MULTILINE)
    assert {int(code): " ".join(meaning.split()) for code, meaning in rows} == dict(EXIT_CODES)
    assert out.count("Exit codes") == 1


@pytest.mark.parametrize("name", ["README.md", "docs/defaults.md"])
def test_documents_state_the_table(repository: Path, name: str) -> None:
    text = (repository / name).read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| exit code \| meaning \|\n\|---\|---\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    assert {int(code): meaning.replace("`", "") for code, meaning in rows} == dict(EXIT_CODES)


def test_every_error_has_a_code_of_the_table() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OnnxAdmmError)
    ]
    assert {kind.exit_code for kind in kinds} == {1, 2, 3}
    assert {1, 2, 3} < set(EXIT_CODES)
