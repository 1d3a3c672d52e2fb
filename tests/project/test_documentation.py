"""What the documents say is true: recipes parse, keys and defaults are the code's, examples run."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from onnx_admm.api import Compression
from onnx_admm.cli import app
from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import COST_MODELS, PASSES, Registry, cost_model
from onnx_admm.contracts import TrainingSettings
from onnx_admm.data import Preprocessing
from onnx_admm.pipeline import Pipeline

ROOT = Path(os.environ.get("ONNX_ADMM_REPOSITORY") or Path(__file__).parents[2])
DOCUMENTS = [
    file.relative_to(ROOT).as_posix()
    for place in ("*.md", "docs/*.md", "benchmarks/*.md", "examples/**/*.md")
    for file in sorted(ROOT.glob(place))
]


def test_the_documents_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/recipes.md", "benchmarks/README.md"} <= set(DOCUMENTS)


def blocks(text: str, language: str) -> list[str]:
    """Fenced code of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(text: str, title: str) -> str:
    """The text under one heading."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no heading {title}"
    return found.group(1)


def documented(text: str) -> dict[str, str]:
    """Default by key of a section's table; keys that share a row share its defaults in order."""
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \| ", text, re.MULTILINE)
    found = {}
    for keys, defaults in rows:
        names = re.findall(r"`(\w+)`", keys)
        values = re.findall(r"`(.*?)`", defaults) or ["-"]
        found |= dict(zip(names, values * len(names) if len(values) == 1 else values, strict=False))
    return found


def actual(cls: Any) -> dict[str, Any]:
    """Default by key of a settings class; None where there is none."""
    if dataclasses.is_dataclass(cls):
        return {entry.name: _default(entry) for entry in dataclasses.fields(cls) if entry.init}
    return {name: entry.default for name, entry in cls.model_fields.items()}


def _default(entry: dataclasses.Field[Any]) -> Any:
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return None if entry.default is dataclasses.MISSING else entry.default


def same(written: str, default: Any) -> bool:
    """Whether a documented default is the code's; a tuple of one number may be written as the number."""
    if written == "-":
        return default is None
    value = json.loads(written)
    if isinstance(default, tuple):
        return tuple(value if isinstance(value, list) else [value]) == default
    return bool(value == default)


def anchors(text: str) -> set[str]:
    """Anchors that GitHub and mkdocs give to the headings of a document."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, file: Path) -> list[str]:
    """Links in a document to files that do not exist, or to headings that a document does not have."""
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if target.startswith("http"):
            continue
        other = file.parent / target if target else file
        if not other.exists() or (anchor and anchor not in anchors(other.read_text(encoding="utf-8"))):
            broken.append(f"{target}#{anchor}")
    return broken


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(repository: Path, name: str) -> None:
    assert broken_links((repository / name).read_text(encoding="utf-8"), repository / name) == []


def test_broken_links_are_found(repository: Path) -> None:
    text = "[a](docs/defaults.md#promises) [b](docs/none.md) [c](docs/defaults.md#none) [d](#install) [e](#x)"
    assert broken_links(text, repository / "README.md") == ["docs/none.md#", "docs/defaults.md#none", "#x"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_results_that_are_named_exist(repository: Path, name: str) -> None:
    text = (repository / name).read_text(encoding="utf-8")
    named = {file for file in re.findall(r"results/([\w-]+\.json)", text) if "NAME" not in file}
    assert [file for file in named if not (repository / "benchmarks/results" / file).exists()] == []


def test_every_benchmark_and_result_is_described(repository: Path) -> None:
    text = (repository / "benchmarks/README.md").read_text(encoding="utf-8")
    scripts = [
        file.name
        for file in sorted((repository / "benchmarks").glob("*.py"))
        if '__name__ == "__main__"' in file.read_text(encoding="utf-8")
    ]
    results = [file.name for file in sorted((repository / "benchmarks/results").glob("*.json"))]
    assert len(scripts) > 10
    patterns = [re.escape(name).replace("NAME", r"[\w-]+") for name in re.findall(r"[\w-]+\.json", text)]
    assert [name for name in scripts if name not in text] == []
    assert [name for name in results if not any(re.fullmatch(each, name) for each in patterns)] == []


def test_every_package_is_in_the_architecture(repository: Path) -> None:
    text = (repository / "docs/architecture.md").read_text(encoding="utf-8")
    entries = [*(repository / "onnx_admm").iterdir(), repository / "passes", repository / "cost_models"]
    packages = [f"{entry.name}/" for entry in entries if (entry / "__init__.py").exists()]
    packages += [entry.name for entry in entries if entry.suffix == ".py" and entry.name != "__init__.py"]
    assert [package for package in packages if f"| `{package}` |" not in text] == []


def test_files_named_in_the_architecture_exist(repository: Path) -> None:
    text = (repository / "docs/architecture.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w/.]+\.(?:py|toml)|\w+/)`", text) if "NAME" not in name}
    assert len(named) > 20
    tops = [repository, repository / "onnx_admm"]
    assert [name for name in named if not any((top / name).exists() for top in tops)] == []


def test_twelve_questions_are_answered_in_two_hops(repository: Path) -> None:
    text = (repository / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+\?) \| `(.+?)` \| `(.+?)` \|$", section(text, "Twelve questions"), re.MULTILINE
    )
    assert len(rows) == 12
    found = [(repository / "onnx_admm" / file).read_text(encoding="utf-8") for _, file, _ in rows]
    missing = [
        question
        for (question, _, name), source in zip(rows, found, strict=True)
        if not re.search(rf"^(?:def|class) {name}\b", source, re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize("name", [*PASSES.names(), "[training]", "[preprocessing]"])
def test_every_key_and_default_is_documented(repository: Path, name: str) -> None:
    text = section((repository / "docs/recipes.md").read_text(encoding="utf-8"), name)
    classes = {"[training]": TrainingSettings, "[preprocessing]": Preprocessing}
    expected = actual(classes.get(name) or PASSES.get(name))
    written = documented(text)
    assert set(written) == set(expected)
    assert {key: written[key] for key in written if not same(written[key], expected[key])} == {}


def test_the_recipe_shown_is_a_recipe(repository: Path) -> None:
    shown = blocks((repository / "docs/recipes.md").read_text(encoding="utf-8"), "toml")
    assert [len(Recipe.parse(each).passes) for each in shown] == [6, 3]


def built_in(registry: Registry) -> list[str]:
    return [entry.name for entry in registry.plugins() if entry.distribution.startswith("onnx-admm ")]


@pytest.mark.parametrize("name", built_in(COST_MODELS))
def test_every_key_of_a_cost_model_is_documented(repository: Path, name: str) -> None:
    text = section((repository / "docs/cost-models.md").read_text(encoding="utf-8"), name)
    expected = actual(COST_MODELS.get(name))
    written = {key: value for key, value in documented(text).items() if key in expected}
    assert set(written) == set(expected)
    assert {key: written[key] for key in written if not same(written[key], expected[key])} == {}


def test_every_profile_is_documented(repository: Path) -> None:
    text = (repository / "docs/cost-models.md").read_text(encoding="utf-8")
    plugins = COST_MODELS.plugins()
    assert any(plugin.profiles for plugin in plugins)
    for plugin in plugins:
        assert [tag for tag in plugin.profiles if f"| `{tag}` |" not in text] == []


def test_the_profile_shown_is_one(repository: Path, tmp_path: Path) -> None:
    (shown,) = blocks((repository / "docs/cost-models.md").read_text(encoding="utf-8"), "toml")
    (tmp_path / "my-board.toml").write_text(shown)
    assert cost_model(f"roofline:{tmp_path / 'my-board.toml'}").assumes.startswith("my board: ")


def test_the_prices_shown_are_asked_for_as_shown(
    repository: Path, net: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = blocks((repository / "docs/cost-models.md").read_text(encoding="utf-8"), "python")
    monkeypatch.chdir(net.parent)
    names: dict[str, Any] = {}
    exec(compile(source, "docs/cost-models.md", "exec", dont_inherit=True), names)
    assert set(names["ratios"]) == {"w1", "w2", "w3"}
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", ["docs/targets.md", "docs/cost-models.md"])
def test_the_output_shown_is_the_commands(
    repository: Path, shared: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = re.sub(r" *\\\n +", " ", (repository / name).read_text(encoding="utf-8"))
    fenced = r"^    onnx-admm (inspect lenet5[^\n]* --cost-model [^\n]*)\n\n```\n(.*?)^```"
    shown = re.findall(fenced, text, re.MULTILINE | re.DOTALL)
    assert shown
    monkeypatch.chdir(shared / "models")
    for command, output in shown:
        ran = CliRunner().invoke(app, command.split())
        assert ran.exit_code == 0
        assert [line.rstrip() for line in ran.stdout.splitlines()] == output.splitlines()


def test_the_pipeline_shown_builds(repository: Path) -> None:
    source = blocks((repository / "docs/recipes.md").read_text(encoding="utf-8"), "python")[0]
    names: dict[str, Any] = {}
    exec(source.partition("\nresult")[0], names)
    shown = re.search(r"Pipeline\(\[.*?\]\)", source)
    assert shown is not None
    assert isinstance(eval(shown.group(), names), Pipeline)


def test_the_call_shown_takes_these_arguments(repository: Path) -> None:
    shown = blocks((repository / "README.md").read_text(encoding="utf-8"), "python")[0]
    given = {
        keyword.arg
        for call in ast.walk(ast.parse(shown))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
    }
    assert given
    assert given <= {entry.name for entry in dataclasses.fields(Compression)}
    exec(shown.partition("\nresult")[0], {})


def test_commands_and_flags_exist(repository: Path) -> None:
    runner, checked = CliRunner(), 0
    for name in DOCUMENTS:
        text = (repository / name).read_text(encoding="utf-8").replace("\\\n", " ")
        for command, rest in re.findall(
            r"onnx-admm (compress|sweep|inspect|annotate|compare|plugins)\b(.*)", text
        ):
            helped = runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"})
            assert helped.exit_code == 0
            for flag in re.findall(r"(?<![\w-])--[\w-]+", rest.partition("`")[0]):
                assert flag in helped.output, f"{name}: {command} {flag}"
                checked += 1
    assert checked > 20
