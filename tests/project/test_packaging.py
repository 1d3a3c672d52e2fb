"""What is installed: three packages under one name, entry points that load, extras that never mix."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import onnx_admm

PACKAGES = ("onnx_admm", "onnx_admm.passes", "onnx_admm.cost_models")


def all_modules() -> list[str]:
    """Every module of the three packages."""
    names = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        names.append(package)
        names += [found.name for found in pkgutil.walk_packages(module.__path__, f"{package}.")]
    return sorted(set(names))


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter started in ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_suite_runs_against_what_it_claims_to() -> None:
    """Run from the wheel's script, nothing may come from the checkout."""
    checkout = os.environ.get("ONNX_ADMM_REPOSITORY")
    if checkout is None:
        pytest.skip("runs from the checkout, not against a wheel")
    for package in PACKAGES:
        file = Path(str(importlib.import_module(package).__file__)).resolve()
        assert "site-packages" in file.parts
        assert file.parent.parent != Path(checkout).resolve()


@pytest.mark.parametrize("name", all_modules())
def test_every_module_imports(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize("group", ["onnx_admm.passes", "onnx_admm.cost_models"])
def test_entry_points_load_and_are_called_what_they_say(group: str) -> None:
    entries = [
        e for e in importlib.metadata.entry_points(group=group) if e.dist and e.dist.name == "onnx-admm"
    ]
    assert entries
    for entry in entries:
        plugin = entry.load()
        assert plugin.name == entry.name


def test_every_built_in_plugin_is_registered() -> None:
    for group in ("onnx_admm.passes", "onnx_admm.cost_models"):
        registered = {entry.value.partition(":")[0] for entry in importlib.metadata.entry_points(group=group)}
        folder = importlib.import_module(group).__path__
        modules = {module.name for module in pkgutil.iter_modules(folder, f"{group}.")}
        assert {name for name in modules if _defines_a_plugin(name)} <= registered


def _defines_a_plugin(module: str) -> bool:
    """Whether a module defines a class with a recipe name."""
    members = vars(importlib.import_module(module)).values()
    return any(
        isinstance(member, type) and member.__module__ == module and isinstance(vars(member).get("name"), str)
        for member in members
    )


def test_plugins_do_not_load_twice(tmp_path: Path) -> None:
    """As top-level packages each class would exist twice; both folders refuse that."""
    for name, package in (("passes", "onnx_admm.passes"), ("cost_models", "onnx_admm.cost_models")):
        parent = Path(importlib.import_module(package).__path__[0]).parent
        code = f"import sys; sys.path.insert(0, {str(parent)!r}); import {name}"
        refused = run_python(code, tmp_path)
        assert refused.returncode == 1
        assert f"as {package}" in refused.stderr


def test_packages_are_typed() -> None:
    for package in PACKAGES:
        folder = Path(importlib.import_module(package).__path__[0])
        assert (folder / "py.typed").is_file()


def test_extras_never_mix_the_two_runtimes() -> None:
    metadata = importlib.metadata.metadata("onnx-admm")
    requirements = importlib.metadata.requires("onnx-admm") or []
    needs: dict[str, set[str]] = {"": set()} | {
        extra: set() for extra in metadata.get_all("Provides-Extra") or []
    }
    assert len(requirements) > 10
    for line in requirements:
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        distribution = re.match(r"[\w.-]+", line)
        assert distribution is not None
        needs[extra.group(1) if extra else ""].add(distribution.group().lower())
    holders = {extra: names & {"onnxruntime", "onnxruntime-training-cpu"} for extra, names in needs.items()}
    assert {extra: names for extra, names in holders.items() if names} == {
        "training": {"onnxruntime-training-cpu"},
        "runtime": {"onnxruntime"},
    }
    assert "torch" not in set.union(*needs.values())


def test_starting_up_loads_no_runtime(tmp_path: Path) -> None:
    """``--help`` needs no ONNX Runtime, and fine-tuning is imported only when asked for."""
    heavy = ["onnxruntime", "onnx_admm.training", "torch", "PIL", "sklearn"]
    code = f"import sys, onnx_admm.cli; print([name for name in {heavy} if name in sys.modules])"
    ran = run_python(code, tmp_path)
    assert ran.stdout.strip() == "[]", ran.stderr


def test_command_is_installed(tmp_path: Path) -> None:
    ran = run_python(
        "import sys; sys.argv = ['onnx-admm', '--help']; from onnx_admm.cli import main; main()", tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    scripts = importlib.metadata.entry_points(group="console_scripts", name="onnx-admm")
    assert [entry.value for entry in scripts] == ["onnx_admm.cli:main"]


def test_declared_packages_are_all_there_are(repository: Path) -> None:
    """setuptools is told its packages one by one: a forgotten one would be missing from the wheel."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {"onnx_admm": "onnx_admm", "passes": "onnx_admm.passes", "cost_models": "onnx_admm.cost_models"}
    folders["recipes"] = "onnx_admm.recipes"
    found = set()
    for top, package in folders.items():
        for init in (repository / top).rglob("__init__.py"):
            inner = init.parent.relative_to(repository / top).parts
            found.add(".".join([package, *inner]))
    assert found == set(project["packages"])


def test_version_is_the_distributions() -> None:
    version = getattr(onnx_admm, "__version__", None)
    assert version in (None, importlib.metadata.version("onnx-admm"))
