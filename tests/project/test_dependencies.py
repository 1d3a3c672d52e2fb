"""The declared dependencies and the environments that ``make test`` sets up for them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lowest", repository / "scripts" / "lowest_versions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- lowest versions --------------------------------------------------------------------------


def test_every_dependency_that_is_tested_names_its_lowest_version(
    script: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = ["training", "images", "plots", "test"]
    script.main(extras)
    pinned = dict(line.split("==") for line in capsys.readouterr().out.splitlines())
    assert pinned["numpy"] == "1.26"
    assert pinned["onnxruntime-training-cpu"] == "1.19.2"
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    assert set(pinned) == {line.partition(">=")[0] for group in groups for line in group}


@pytest.mark.parametrize(
    ("requirements", "sentence"),
    [
        (["numpy"], "'numpy' does not read name>=version"),
        (["numpy>=1.26,<3"], "'numpy>=1.26,<3' does not read name>=version"),
        (["numpy==1.26"], "'numpy==1.26' does not read name>=version"),
        (["pillow>=10.1", "pillow>=11"], "pillow is declared from 10.1 on and from 11 on"),
    ],
)
def test_a_dependency_without_one_lowest_version_is_a_mistake(
    script: ModuleType, requirements: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        script.lowest_versions(requirements)


def test_environment_markers_are_no_part_of_the_version(script: ModuleType) -> None:
    assert script.lowest_versions(["a-b>=1.2.3; python_version < '3.13'"]) == {"a-b": "1.2.3"}


# -- the Python of an environment -------------------------------------------------------------


def found(repository: Path, folder: Path, *releases: str) -> str:
    """What the script finds where only ``folder`` holds Pythons."""
    shell = next(path for path in ("/bin/bash", "/usr/bin/bash") if os.path.exists(path))
    ran = subprocess.run(
        [shell, repository / "scripts" / "find_python.sh", *releases],
        env={"PATH": str(folder), "PYENV_ROOT": str(folder / "pyenv")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not ran.stderr
    return ran.stdout.strip()


def put(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


REAL = f'exec "{sys.executable}" "$@"'
OWN, OTHER = f"3.{sys.version_info.minor}", "3.99"


def test_a_python_that_exists_and_fails_does_not_count(repository: Path, tmp_path: Path) -> None:
    put(tmp_path / f"python{OWN}", "echo 'pyenv: command not found' >&2; exit 127")
    assert found(repository, tmp_path, OWN) == ""
    real = put(tmp_path / "pyenv" / "versions" / f"{OWN}.1" / "bin" / "python", REAL)
    assert found(repository, tmp_path, OWN) == real


def test_a_python_of_another_release_does_not_count(repository: Path, tmp_path: Path) -> None:
    put(tmp_path / "python3", REAL)
    put(tmp_path / f"python{OTHER}", REAL)
    assert found(repository, tmp_path, OTHER) == ""
    assert found(repository, tmp_path) == ""


def test_the_usual_python_comes_first_then_releases_in_their_order(repository: Path, tmp_path: Path) -> None:
    named = put(tmp_path / f"python{OWN}", REAL)
    assert found(repository, tmp_path, OTHER, OWN) == named
    usual = put(tmp_path / "python3", REAL)
    assert found(repository, tmp_path, OTHER, OWN) == usual


# -- what a test loads ------------------------------------------------------------------------


def test_a_test_of_one_set_does_not_load_the_product() -> None:
    code = """
import sys, pytest
status = pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", "admm/test_admm_sets.py"])
heavy = ("onnx", "onnx_ir", "onnxruntime", "pydantic", "typer", "networkx", "onnx_admm.model")
sys.exit(str([name for name in heavy if name in sys.modules]) if status == 0 else status)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.stderr.strip() == "[]", ran.stdout + ran.stderr
