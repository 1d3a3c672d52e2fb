"""The architecture holds: imports point one way, ONNX stays in its package, files are small and well named.

Reads the sources of the three installed packages, wherever they lie, without importing them.
"""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

LEVELS = (
    {"errors", "printable", "recipes"},
    {"limits", "local_files", "settings"},
    {"worker"},
    {"admm", "allocation", "model"},
    {"contracts"},
    {"metrics", "pricing", "runtime", "selection"},
    {"data", "encoding", "lint_rules", "targeting", "training"},
    {"measurement"},
    {"calibration", "pipeline"},
    {"quantization", "removal"},
    {"passes", "cost_models"},
    {"config"},
    {"report"},
    {"api", "testing"},
    {"cli", ""},
    {"__main__"},
)
"""Packages of ``onnx_admm`` from the ground up; a package sees those below. "" is ``onnx_admm`` itself."""

INSIDE = {
    "admm": ({"sets"}, {"loop"}, {"reconstruction"}),
    "data": (
        {"compute_budget", "sources"},
        {"labels", "stored_rows"},
        {"readers", "samples", "spooled_rows"},
        {"fitting", "ragged"},
        {"class_numbers", "feeds", "synthetic"},
        {"opening"},
        {"anything"},
    ),
    "encoding": (
        {"coders"},
        {"biases", "compression_options", "plan"},
        {"choice", "contents"},
        {"large"},
        {"packed", "standard_forms"},
    ),
    "model": (
        {"runtimes"},
        {"conditions", "einsum", "files", "graph_state", "names", "operators"},
        {"constants", "loading", "lookups", "scopes"},
        {"edit", "folding", "tables", "writing"},
        {"sites"},
        {"view"},
        {"analysis"},
        {"channels"},
        {"opsets"},
        {"integers", "rewrite", "splitting"},
        {"differentiation"},
    ),
}
"""Of the largest packages, the parts from the ground up: each imports from those below it alone."""

MOST_MODULES = 15
"""In one folder, ``__init__`` aside."""

PLUGIN_PACKAGES = {"passes", "cost_models"}
CONFINED = {
    "onnx": {"model"},
    "onnx_ir": {"model"},
    "google.protobuf": {"model"},
    "onnxruntime": {"runtime", "training"},
}
"""Libraries that only these packages may import."""

BANNED = {"torch", "tensorflow", "keras", "jax"}
SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}
LONGEST_FILE = 400
MOST_PARAMETERS = 6


def level_of(package: str) -> int | None:
    """Level of a package from the ground up; None for a package nobody gave a place."""
    return next((level for level, packages in enumerate(LEVELS) if package in packages), None)


def package_of(module: str) -> str:
    """Package of a module: ``onnx_admm.admm.sets.supports`` -> ``admm``."""
    return module.partition(".")[2].partition(".")[0]


def imported_modules(module: str, tree: ast.Module, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a module imports, relative imports resolved."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def import_complaints(module: str, tree: ast.Module, is_package: bool) -> Iterator[str]:
    """Arrows that point back, libraries outside their package, libraries nobody may import."""
    package = package_of(module)
    level = level_of(package)
    if level is None:
        yield f"{module}: the package {package!r} has no place in the layer order"
        return
    for line, target in imported_modules(module, tree, is_package):
        where = f"{module}:{line}"
        if target.partition(".")[0] in BANNED:
            yield f"{where}: {target} is not to be imported"
        for library, packages in CONFINED.items():
            if f"{target}.".startswith(f"{library}.") and package not in packages:
                yield f"{where}: only {' and '.join(sorted(packages))} may import {library}"
        if target.partition(".")[0] != "onnx_admm":
            continue
        other = package_of(target)
        target_level = level_of(other)
        if other == package or (
            target_level is not None and target_level < level and other not in PLUGIN_PACKAGES
        ):
            continue
        yield f"{where}: {package or 'onnx_admm'} must not see {other or 'onnx_admm'}"


def inside_complaints(module: str, tree: ast.Module, is_package: bool) -> Iterator[str]:
    """Arrows that point back between the parts of one package."""
    package, part = package_of(module), part_of(module)
    if package not in INSIDE or not part:
        return
    levels = {name: level for level, names in enumerate(INSIDE[package]) for name in names}
    if part not in levels:
        yield f"{module}: {part!r} has no place in the order inside {package}"
        return
    for line, target in imported_modules(module, tree, is_package):
        other = part_of(target) if package_of(target) == package and target.startswith("onnx_admm.") else part
        if other != part and levels.get(other, -1) >= levels[part]:
            yield f"{module}:{line}: {package}.{part} must not see {package}.{other}"


def part_of(module: str) -> str:
    """Part of a package that a module belongs to: ``onnx_admm.admm.sets.levels`` -> ``sets``."""
    return ".".join(module.split(".")[2:3])


def naming_complaints(module: str, tree: ast.Module) -> Iterator[str]:
    """A core module that names a plug-in's module in a string; entry points do that."""
    if package_of(module) in PLUGIN_PACKAGES:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for plugins in PLUGIN_PACKAGES:
                if node.value.startswith(f"onnx_admm.{plugins}."):
                    yield f"{module}:{node.lineno}: the core names {node.value}, which entry points should"


def size_complaints(module: str, source: str, tree: ast.Module) -> Iterator[str]:
    """Files too long, names that say nothing, functions that want a dataclass."""
    if module.rpartition(".")[2] in SAY_NOTHING:
        yield f"{module}: the name says nothing about what is in it"
    lines = source.count("\n")
    if lines > LONGEST_FILE:
        yield f"{module}: {lines} lines, at most {LONGEST_FILE}"
    if package_of(module) == "cli":  # a command's parameters are its flags
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_public = package_of(module) == "api" and not node.name.startswith("_")
            named = [] if is_public else node.args.kwonlyargs  # each is typed and described by itself there
            arguments = [*node.args.posonlyargs, *node.args.args, *named]
            names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
            if len(names) > MOST_PARAMETERS:
                yield f"{module}:{node.lineno}: {node.name} has {len(names)} parameters"


def complaints(module: str, source: str, is_package: bool = False) -> list[str]:
    """Everything wrong with one module, as sentences."""
    tree = ast.parse(source)
    return [
        *import_complaints(module, tree, is_package),
        *inside_complaints(module, tree, is_package),
        *naming_complaints(module, tree),
        *size_complaints(module, source, tree),
    ]


def folder_of(package: str) -> Path:
    """Where a package's sources lie (the plug-ins' may lie beside the core's or inside)."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None, f"{package} has no __init__.py"
    return Path(spec.origin).parent


def modules() -> Iterator[tuple[str, Path]]:
    """Name and file of every module."""
    for package in ("onnx_admm", *(f"onnx_admm.{package}" for package in sorted(PLUGIN_PACKAGES))):
        folder = folder_of(package)
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            if package == "onnx_admm" and parts[0] in PLUGIN_PACKAGES:
                continue
            yield ".".join([package, *(part for part in parts if part != "__init__")]), file


# -- the packages ------------------------------------------------------------------------------


def test_every_package_is_read() -> None:
    """A checker that reads no files is content with everything."""
    packages = {package_of(name) for name, _ in modules()}
    assert {"errors", "admm", "model", "contracts", *PLUGIN_PACKAGES} <= packages


@pytest.mark.parametrize(("name", "file"), [pytest.param(*found, id=found[0]) for found in modules()])
def test_module_keeps_the_rules(name: str, file: Path) -> None:
    found = complaints(name, file.read_text(encoding="utf-8"), is_package=file.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_order_of_the_packages_is_documented(repository: Path) -> None:
    text = (repository / "docs/architecture.md").read_text(encoding="utf-8")
    block = text.partition("Imports go from right to left:\n")[2].partition("\n- ")[0]
    documented = [{name.strip() for name in group.split(",")} for group in block.split("<")]
    assert documented == [level - {"", "__main__"} for level in LEVELS if level != {"__main__"}]


def test_no_folder_is_crowded() -> None:
    counts = Counter(file.parent for _, file in modules() if file.name != "__init__.py")
    assert counts
    assert {str(folder): count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_no_modules_and_no_packages_import_one_another_in_a_circle() -> None:
    found = dict(modules())
    arrows = {
        (name, target)
        for name, file in found.items()
        for target in targets(name, file, set(found))
        if target != name
    }
    assert len(arrows) > 500
    assert circles(arrows) == []
    for depth in range(1, max(name.count(".") for name in found) + 1):
        siblings = {pair for one, other in arrows if (pair := siblings_of(one, other, depth)) is not None}
        assert circles(siblings) == []


def test_a_circle_is_found() -> None:
    assert circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) == [["a", "b", "c"]]


def circles(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that reach one another."""
    return sorted(
        sorted(group) for group in nx.strongly_connected_components(nx.DiGraph(arrows)) if len(group) > 1
    )


def targets(name: str, file: Path, known: set[str]) -> set[str]:
    """Modules that a module imports: what an import names, or the module that it is taken from."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = {target for _, target in imported_modules(name, tree, file.name == "__init__.py")}
    return {target if target in known else target.rpartition(".")[0] for target in found} & known


def siblings_of(one: str, other: str, depth: int) -> tuple[str, str] | None:
    """The two parts of the package at a depth that an import joins; None where it joins no two."""
    left, right = one.split("."), other.split(".")
    if min(len(left), len(right)) <= depth or left[:depth] != right[:depth] or left[depth] == right[depth]:
        return None
    return ".".join(left[: depth + 1]), ".".join(right[: depth + 1])


# -- the checker, on planted wrong code -----------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("onnx_admm.admm.sets.supports", "from onnx_admm.model import ModelView", "admm must not see model"),
        ("onnx_admm.admm.sets.supports", "import onnx_admm", "admm must not see onnx_admm"),
        ("onnx_admm.errors", "from onnx_admm import contracts", "errors must not see contracts"),
        ("onnx_admm.contracts", "import onnx_admm.pipeline", "contracts must not see pipeline"),
        ("onnx_admm.training.loop", "from ..data import npz", "training must not see data"),
        (
            "onnx_admm.data.readers.npz",
            "def f():\n    from onnx_admm.pipeline import P",
            "data must not see pipeline",
        ),
        ("onnx_admm.api", "from onnx_admm.passes.encode import Encode", "api must not see passes"),
        (
            "onnx_admm.config.registry",
            "X = 'onnx_admm.passes.encode:Encode'",
            "the core names onnx_admm.passes.encode",
        ),
        ("onnx_admm.passes.encode", "from onnx_admm.cost_models import storage", "must not see cost_models"),
        ("onnx_admm.passes.encode", "from ..cost_models.storage import x", "must not see cost_models"),
        (
            "onnx_admm.passes.encode",
            "from onnx_admm.config.recipe import parse",
            "passes must not see config",
        ),
        ("onnx_admm.cost_models.storage", "import onnx_ir as ir", "only model may import onnx_ir"),
        ("onnx_admm.pipeline", "import onnx", "only model may import onnx"),
        ("onnx_admm.pipeline", "from onnx.helper import make_node", "only model may import onnx"),
        ("onnx_admm.report", "import onnxruntime", "only runtime and training may import onnxruntime"),
        ("onnx_admm.training.loop", "import torch.optim", "torch.optim is not to be imported"),
        (
            "onnx_admm.model.view",
            "from onnx_admm.model.analysis import macs",
            "model.view must not see model.analysis",
        ),
        (
            "onnx_admm.admm.sets.levels",
            "from onnx_admm.admm.loop.solver import x",
            "admm.sets must not see admm.loop",
        ),
        ("onnx_admm.model.attic", "", "'attic' has no place in the order inside model"),
        ("onnx_admm.attic", "", "the package 'attic' has no place in the layer order"),
        ("onnx_admm.runtime.utils", "", "the name says nothing"),
        ("onnx_admm.pipeline", "x = 1\n" * 401, "401 lines, at most 400"),
        ("onnx_admm.pipeline", "def f(a, b, c, d, *, e, f, g): ...", "f has 7 parameters"),
    ],
)
def test_planted_fault_is_found(module: str, source: str, sentence: str) -> None:
    found = complaints(module, source)
    assert len(found) == 1, found
    assert sentence in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "onnx_admm.model.view",
            "import onnx\nfrom onnx_admm.model import files\nfrom onnx_admm.errors import X",
        ),
        ("onnx_admm.runtime.sessions", "import onnxruntime\nfrom onnx_admm.contracts import Dataset"),
        ("onnx_admm.passes.encode", "from . import fold\nfrom onnx_admm.pipeline import Pipeline"),
        ("onnx_admm.config.registry", "GROUP = 'onnx_admm.passes'"),
        ("onnx_admm.pipeline", "x = 1\n" * 400),
        ("onnx_admm.pipeline", "class C:\n    def f(self, a, b, c, d, e, f): ..."),
        ("onnx_admm.cli", "def compress(a, b, c, d, e, f, g): ..."),
        ("onnx_admm.data.readers.npz", "import onnx_something_else"),
    ],
)
def test_sound_code_is_left_in_peace(module: str, source: str) -> None:
    assert complaints(module, source) == []


def test_relative_import_in_a_package_counts_from_itself() -> None:
    assert complaints("onnx_admm.model", "from .view import ModelView", is_package=True) == []
    assert complaints("onnx_admm.model", "from ..api import compress", is_package=True)
