"""The list of operators with rules in docs/gradients.md is the one that there is."""

from __future__ import annotations

import re
from pathlib import Path

from onnx_admm.training.gradients.lookup import gradient_rules


def test_every_operator_with_a_rule_is_listed(repository: Path) -> None:
    text = (repository / "docs" / "gradients.md").read_text(encoding="utf-8")
    table = text.partition("## Operators with rules")[2].partition("| by their function body")[0]
    listed = {tuple(name.rpartition(".")[::2]) for name in re.findall(r"`([\w.]+)`", table)}
    assert listed == set(gradient_rules())
