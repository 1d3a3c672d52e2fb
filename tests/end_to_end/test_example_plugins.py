"""Complete third-party packages, installed as such, are found and keep the contracts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGES = ("powers-of-two", "systolic-array")

Run = Callable[..., str]


@pytest.fixture(scope="module")
def sources(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the packages: building leaves traces beside the sources."""
    folder = tmp_path_factory.mktemp("plugins")
    for package in PACKAGES:
        shutil.copytree(repository / "examples/plugins" / package, folder / package)
    return folder


@pytest.fixture(scope="module")
def run_with_plugins(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a module of this Python where the packages are installed beside; its stdout."""
    target = tmp_path_factory.mktemp("site")
    environment = dict(os.environ, PYTHONPATH=str(target), OMP_NUM_THREADS="1", COLUMNS="200")

    def run(*arguments: object, folder: Path = target) -> str:
        command = [sys.executable, "-m", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    quiet = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation")
    run("pip", "install", *quiet, "--target", target, *(sources / package for package in PACKAGES))
    return run


def commands_in_one_process(commands: list[list[object]]) -> str:
    """Code that runs ``onnx-admm`` with each list of arguments."""
    plain = [[str(argument) for argument in command] for command in commands]
    return f"""
from onnx_admm.cli import main
for command in {plain!r}:
    try:
        main(command)
    except SystemExit as left:
        assert not left.code, command
"""


def test_their_own_tests_pass(run_with_plugins: Run, sources: Path) -> None:
    """Among them the contract tests of ``onnx_admm.testing``."""
    tests = [sources / package / "tests" for package in PACKAGES]
    out = run_with_plugins("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", sources, *tests)
    assert "6 passed" in out


def test_the_command_lists_and_uses_them(
    run_with_plugins: Run, net: Path, samples: Path, tmp_path: Path
) -> None:
    recipe, small, noted = (tmp_path / name for name in ("recipe.toml", "small.onnx", "noted.onnx"))
    recipe.write_text(
        'cost_model = "systolic-array:tpu-v1"\nfine_tune = false\n[bind]\nN = 1\n'
        '[[pass]]\nname = "powers_of_two"\noctaves = 4\n[[pass]]\nname = "encode"\n'
    )
    target = ("--cost-model", "systolic-array:tpu-v1", "--bind", "N=1")
    (tmp_path / "session.py").write_text(
        commands_in_one_process(
            [
                ["plugins"],
                ["compress", net, small, "--recipe", recipe, "--data", samples, "-q"],
                ["annotate", small, noted, *target],
                ["inspect", small, *target],
            ]
        )
    )
    out = run_with_plugins("session", folder=tmp_path)
    assert "onnx-admm-systolic-array 1.0.0" in out
    assert "onnx-admm-powers-of-two 1.0.0" in out
    assert "priced by 'systolic-array:tpu-v1'" in out
    assert "'systolic-array' assumes: 256 x 256 elements at 700 MHz" in out
    assert small.stat().st_size < net.stat().st_size
