"""Runs lint rules on a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_admm.contracts import Finding, Level, LintRule, LintSubject
from onnx_admm.errors import STOPS, LimitReached, OnnxAdmmError

_ORDER = (Level.ERROR, Level.SLOW, Level.NOTE)


@dataclass(frozen=True, slots=True)
class Found:
    """One finding, with its rule and its level."""

    rule: str
    level: Level
    finding: Finding


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A rule that could not be checked, and the reason."""

    rule: str
    why: str


def run_rules(
    subject: LintSubject, rules: Sequence[LintRule]
) -> tuple[tuple[Found, ...], tuple[Unchecked, ...]]:
    """Return all findings, the most serious first, and the rules that failed on this model.

    A model that the checker refuses may be so wrong that a rule fails on it: such a rule is listed, and the
    others are checked all the same.

    Args:
        subject: the model.
        rules: the rules.

    Raises:
        LimitReached: a limit of the run is reached.
    """
    found: list[Found] = []
    unchecked: list[Unchecked] = []
    for rule in rules:
        try:
            own = [_found(rule, finding) for finding in rule.check(subject)]
        except (LimitReached, *STOPS):
            raise
        except OnnxAdmmError as error:
            unchecked.append(Unchecked(rule.name, str(error)))
        except Exception as error:  # noqa: BLE001 (a rule may come from another package)
            unchecked.append(Unchecked(rule.name, f"{type(error).__name__}: {error}"))
        else:
            found += own
    found.sort(key=lambda one: (_ORDER.index(one.level), -(one.finding.slowdown or 0.0)))
    return tuple(found), tuple(unchecked)


def _found(rule: LintRule, finding: Finding) -> Found:
    level = finding.level or rule.level
    mends = finding.is_mended and bool(rule.fix)
    return Found(rule.name, level, replace(finding, level=level, is_mended=mends))
