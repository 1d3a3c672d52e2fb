"""Every registered rule keeps the contract: it finds its fault, and its fix mends it."""

from __future__ import annotations

import pytest

from onnx_admm.config.registry import LINT_RULES, lint_rules
from onnx_admm.contracts import LintRule
from onnx_admm.testing import check_lint_rule


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.name) for rule in lint_rules()])
def test_every_built_in_rule_keeps_the_contract(rule: LintRule) -> None:
    check_lint_rule(rule)


def test_the_rules_are_there() -> None:
    assert len(LINT_RULES.names()) >= 30
