"""What the command line's help teaches, and what it needs to do so."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import RunCommand

from onnx_admm.cli import main

COMMANDS = ("compress", "sweep", "inspect", "annotate", "compare", "lint", "plugins")


def test_help_teaches(run: RunCommand) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for piece in (*COMMANDS, "onnx-admm compress net.onnx small.onnx"):
        assert piece in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(run: RunCommand, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"\n  onnx-admm {command}" in out or f"\n    onnx-admm {command}" in out
    assert "\b" not in out


def test_every_flag_of_an_example_exists(run: RunCommand) -> None:
    for command in COMMANDS:
        _, out, _ = run(command, "--help")
        options = out[out.index("Options:") :]
        examples = re.findall(rf"onnx-admm {command} (.*)", out)
        assert examples
        for example in examples:
            for flag in re.findall(r"--[a-z-]+", example):
                assert flag in options, f"{command}: {flag}"


def test_short_help_is_not_cut(run: RunCommand) -> None:
    _, out, _ = run("--help")
    assert "..." not in out[out.index("Commands:") :]


def test_version(run: RunCommand) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert re.fullmatch(r"onnx-admm \d+\.\d+\.\d+\n", out)


def test_help_needs_no_runtime_and_is_quick() -> None:
    """Nothing heavy is imported before a command runs."""
    heavy = ["onnx", "onnx_ir", "onnxruntime", "scipy", "pydantic_core", "numpy"]
    script = (
        "import sys, onnx_admm.cli as c\n"
        "try: c.main(['compress', '--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy} if m in sys.modules and m != 'pydantic_core'], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "found"), [("onnx-admm co", "compress\ncompare\n"), ("onnx-admm sw", "sweep\n")]
)
def test_shells_complete_commands(
    words: str, found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"_ONNX_ADMM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "1"}
    for key, value in asked.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    assert capsys.readouterr().out == found
