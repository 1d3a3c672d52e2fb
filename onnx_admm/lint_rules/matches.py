"""Findings of rules that share their pattern with a rewrite, and the models that they are tested with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_admm.contracts import Finding, LintSubject, ModelView
from onnx_admm.lint_rules.graph import VNNI
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.for_runtime.apply import find_matches

IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Explained:
    """What a rule says about each of its places; see `Finding`."""

    why: str
    cure: str
    slowdown: float | None = None
    basis: str = VNNI


def rewrite_step(name: str) -> Mapping[str, Any]:
    """Return the recipe step that applies one rewrite."""
    return {"name": "rewrite_for_runtime", "rules": [name]}


def rewritable(subject: LintSubject, name: str, explained: Explained) -> Iterator[Finding]:
    """Yield a finding for each place of a rewrite."""
    basis = explained.basis if explained.slowdown is not None else ""
    for match in find_matches(subject.rewrites, name):
        why = f"{explained.why}: {match.what}" if match.name else explained.why
        yield Finding(match.places, why, explained.cure, explained.slowdown, basis, is_mended=True)


def example(
    ports: str,
    body: str,
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 21,
    ir_version: int = IR_VERSION,
) -> ModelView:
    """Return a small model from its ports, such as ``float[N,8] x => float[N,4] y``, and its nodes."""
    before, _, after = ports.partition("=>")
    text = (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> net ({before}) => ({after}) {{ {body} }}'
    )
    return parse_text(text, constants=constants)
