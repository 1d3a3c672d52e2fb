"""Every rule and every rewrite has its section or row in docs/lint.md, with its level and its fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnx_admm.config.registry import lint_rules
from onnx_admm.contracts import LintRule
from onnx_admm.model.rewrite.for_runtime.rules import REWRITES


@pytest.fixture(scope="module")
def document(repository: Path) -> str:
    return (repository / "docs" / "lint.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.name) for rule in lint_rules()])
def test_every_rule_has_its_section(document: str, rule: LintRule) -> None:
    found = re.search(rf"^### {rule.name}\n(.*?)(?=^##|\Z)", document, re.MULTILINE | re.DOTALL)
    assert found is not None
    section = found.group(1)
    assert f"- Level: {rule.level.value}\n" in section
    assert ("- Mended by `--fix`: no." in section) == (not rule.fix)
    for name in rule.fix.get("rules", ()):
        assert f"rewrite `{name}`" in section
    assert " ".join((type(rule).__doc__ or "").split()) in " ".join(section.split())


def test_every_rewrite_has_its_row(document: str) -> None:
    assert [name for name in REWRITES if f"\n| `{name}` |" not in document] == []


def test_no_line_is_too_long(document: str) -> None:
    text = [line for line in document.splitlines() if not line.startswith("|")]
    assert max(map(len, text)) <= 100
