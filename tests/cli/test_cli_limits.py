"""``--max-memory`` and ``--timeout``: every command that does work takes them and says which was reached."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import RunCommand

from onnx_admm.api import RunLimits, compress, inspect_model, run_within
from onnx_admm.errors import LimitReached
from onnx_admm.model import ModelView

TIME = (
    "error: the time limit of 1e-09 s is reached. Raise the limit with --timeout S (timeout_s in Python).\n"
)


def arguments(command: str, model: Path, folder: Path) -> list[object]:
    targets = {
        "compress": [folder / "out.onnx"],
        "sweep": ["--out", folder / "sweep", "--cost-model", "storage"],
        "inspect": [],
        "annotate": [folder / "out.onnx", "--cost-model", "macs", "--bind", "N=1"],
        "compare": [model],
    }
    return [command, model, *targets[command]]


@pytest.mark.parametrize("command", ["compress", "sweep", "inspect", "annotate", "compare"])
def test_each_command_ends_at_its_limits(
    command: str, run: RunCommand, tiny_mlp: ModelView, tmp_path: Path
) -> None:
    model = tmp_path / "in.onnx"
    tiny_mlp.save(model)
    code, out, err = run(*arguments(command, model, tmp_path), "--timeout", 1e-9)
    assert (code, out, err) == (1, "", TIME)
    code, out, err = run(*arguments(command, model, tmp_path), "--max-memory", 5)
    assert (code, out) == (1, "")
    assert err.startswith("error: the memory limit of 5 MiB is reached; got ")
    assert err.endswith("MiB in use. Raise the limit with --max-memory MB (max_memory_mb in Python).\n")
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["in.onnx"]


@pytest.mark.parametrize(
    ("flag", "value"), [("--timeout", "0"), ("--timeout", "nan"), ("--max-memory", "-3")]
)
def test_impossible_limits_are_wrong_usage(flag: str, value: str, run: RunCommand, tmp_path: Path) -> None:
    code, _, err = run("inspect", tmp_path / "in.onnx", flag, value)
    assert code == 2
    assert "an impossible" in err


def test_wide_limits_change_nothing(run: RunCommand, tiny_mlp: ModelView, tmp_path: Path) -> None:
    tiny_mlp.save(tmp_path / "in.onnx")
    plain = run("inspect", tmp_path / "in.onnx")
    assert plain[0] == 0
    assert run("inspect", tmp_path / "in.onnx", "--max-memory", 100_000, "--timeout", 1000) == plain


def test_the_functions_take_the_same_limits(tiny_mlp: ModelView, tmp_path: Path) -> None:
    tiny_mlp.save(tmp_path / "in.onnx")
    with pytest.raises(LimitReached, match="the memory limit of 5 MiB is reached"):
        compress(tmp_path / "in.onnx", tmp_path / "out.onnx", max_memory_mb=5)
    with pytest.raises(LimitReached, match="the time limit"), run_within(RunLimits(timeout_s=1e-6)):
        inspect_model(tmp_path / "in.onnx")


def test_code_that_does_not_return_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no exception reaches is ended by the process's end, with the same sentence."""
    monkeypatch.setattr("onnx_admm.limits.run._GRACE_S", 0.1)
    left: list[LimitReached] = []
    with pytest.raises(LimitReached), run_within(RunLimits(timeout_s=0.1), abandon=left.append):
        time.sleep(0.5)
    assert left
    assert "the time limit of 0.1 s" in str(left[0])
