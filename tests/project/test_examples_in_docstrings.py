"""Every public name has an example in its docstring, and every example in the sources runs as it stands."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PUBLIC = ("onnx_admm", "onnx_admm.api", "onnx_admm.contracts", "onnx_admm.testing")
INSTALLED = ("onnx_admm", "onnx_admm.passes", "onnx_admm.cost_models")


def public_objects() -> dict[str, Any]:
    """Classes and functions by the name that users import; constants and type aliases have no docstring."""
    found = {}
    for package in PUBLIC:
        module = importlib.import_module(package)
        values = {name: getattr(module, name) for name in module.__all__}
        found |= {
            f"{package}.{name}": value
            for name, value in values.items()
            if inspect.isclass(value) or inspect.isfunction(value)
        }
    return found


def examples_inside() -> Iterator[doctest.DocTest]:
    """Examples of what is not public, with the names of their module at hand."""
    public = {(value.__module__, value.__qualname__) for value in public_objects().values()}
    for package in INSTALLED:
        path = importlib.import_module(package).__path__
        names = [package, *(found.name for found in pkgutil.walk_packages(path, f"{package}."))]
        for name in names:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None or ">>> " not in Path(spec.origin).read_text("utf-8"):
                continue
            for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), name):
                if test.examples and (name, test.name.removeprefix(f"{name}.")) not in public:
                    yield test


def check(test: doctest.DocTest) -> None:
    """Run the examples; none may say that it is not to be run."""
    skipped = [example.source for example in test.examples if example.options.get(doctest.SKIP)]
    assert not skipped, f"{test.name}: {skipped}"
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, "".join(told)


def test_the_names_are_there() -> None:
    names = {name.rpartition(".")[2] for name in public_objects()}
    assert {"compress", "check_pass", "Pass", "CostModel", "Dataset", "Metric", "Trainer"} <= names


@pytest.mark.parametrize(("name", "value"), list(public_objects().items()), ids=list(public_objects()))
def test_a_public_name_has_an_example_that_runs_by_itself(
    name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (test,) = doctest.DocTestFinder(recurse=False, exclude_empty=False).find(value, name, globs={})
    assert test.examples, f"{name} has no example"
    check(test)


@pytest.mark.parametrize("test", list(examples_inside()), ids=lambda test: test.name)
def test_an_example_of_a_module_runs(
    test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(test)


@pytest.mark.parametrize("source", [">>> 1 + 1\n3", ">>> 1 + 1  # doctest: +SKIP\n2", ">>> 1 + 1"])
def test_an_example_that_is_wrong_or_left_out_is_found(source: str) -> None:
    with pytest.raises(AssertionError, match="1 \\+ 1"):
        check(doctest.DocTestParser().get_doctest(source, {}, "planted", None, 0))
