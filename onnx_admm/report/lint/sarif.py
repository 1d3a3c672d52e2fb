"""Lint findings as SARIF 2.1.0, which code hosts and editors show.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0. A model has no lines, so that a place is the
file and the node's name, as a logical location.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from onnx_admm.contracts import Level, LintRule
from onnx_admm.report.lint.facts import FindingFacts, LintReport

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Level.ERROR: "error", Level.SLOW: "warning", Level.NOTE: "note"}
_MOST_PLACES = 100
"""Places of one finding that are written, each as a location."""


def to_sarif(report: LintReport, rules: Iterable[LintRule]) -> str:
    """Return a report as SARIF 2.1.0 text that ends in a newline.

    Args:
        report: the findings.
        rules: the rules that were checked, whether they found something or not.
    """
    described = [_describe(rule) for rule in rules]
    places = {rule["id"]: index for index, rule in enumerate(described)}
    driver = {
        "name": "onnx-admm lint",
        "version": report.versions.get("onnx-admm", "0"),
        "rules": described,
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "artifacts": [{"location": {"uri": _uri(report.path)}}],
        "results": [_result(report, finding, places) for finding in report.findings],
        "invocations": [
            {
                "executionSuccessful": not report.unchecked,
                "toolExecutionNotifications": [
                    {"level": "warning", "message": {"text": f"rule {rule} was not checked: {why}"}}
                    for rule, why in report.unchecked.items()
                ],
            }
        ],
        "columnKind": "unicodeCodePoints",
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _describe(rule: LintRule) -> dict[str, Any]:
    text = " ".join((type(rule).__doc__ or rule.name).split())
    return {
        "id": rule.name,
        "shortDescription": {"text": text},
        "defaultConfiguration": {"level": _LEVELS[rule.level]},
        "properties": {"mends": bool(rule.fix)},
    }


def _result(report: LintReport, finding: FindingFacts, places: dict[str, int]) -> dict[str, Any]:
    cost = "" if finding.slowdown is None else f" Predicted: {finding.slowdown:.3g} times the time."
    key = json.dumps([finding.rule, finding.nodes])
    return {
        "ruleId": finding.rule,
        "ruleIndex": places[finding.rule],
        "level": _LEVELS[Level(finding.level)],
        "message": {"text": f"{_sentence(finding.why)}{cost} {_sentence(finding.cure)}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(report.path), "index": 0}},
                "logicalLocations": [
                    {"name": node, "kind": "member"} for node in finding.nodes[:_MOST_PLACES] if node
                ],
            }
        ],
        "partialFingerprints": {"place/v1": hashlib.sha256(key.encode()).hexdigest()[:16]},
        "properties": {
            "slowdown": finding.slowdown,
            "basis": finding.basis,
            "isMended": finding.is_mended,
        },
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _uri(path: str) -> str:
    """Return a path as SARIF states it: relative ones relative, absolute ones as file URIs."""
    pure = PurePath(path)
    if pure.is_absolute():
        return pure.as_uri()
    return quote(pure.as_posix())
