"""Lint findings for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rich.console import RenderableType

from onnx_admm.report.lint.facts import FindingFacts, LintReport
from onnx_admm.report.plain_table import PlainTable

_SHOWN = 3
"""Names of nodes in a row; the number of all of them follows."""


def lint_view(report: LintReport) -> Iterator[RenderableType | str]:
    """Yield the findings as a table, equal ones in one row, and what was done, as sentences."""
    if report.findings:
        yield _table(report.findings)
    for rule, why in report.unchecked.items():
        yield f"rule {rule} was not checked: {why}"
    yield _summary(report)
    if report.fix is not None:
        yield from _fix_sentences(report)
    if report.measured is not None:
        one = report.measured
        yield (
            f"measured: {one.before_us:,.1f} us before, {one.after_us:,.1f} us after, {one.ratio:.3f} of the "
            f"time (processor time, one thread, {one.runtime})"
        )


def _table(findings: tuple[FindingFacts, ...]) -> PlainTable:
    table = PlainTable("level", "rule", "where", "slower", "fix", "what is wrong, and what to do")
    grouped: dict[tuple[str, str, str, str], list[FindingFacts]] = defaultdict(list)
    for one in findings:
        grouped[one.level, one.rule, one.why, one.cure].append(one)
    for (level, rule, why, cure), same in grouped.items():
        slowdown = same[0].slowdown
        table.add_row(
            str(level),
            rule,
            _places(same),
            "" if slowdown is None else f"{slowdown:.3g}x",
            "yes" if all(one.is_mended for one in same) else "",
            f"{why[:1].upper()}{why[1:]}. {cure[:1].upper()}{cure[1:]}.",
        )
    return table


def _places(same: list[FindingFacts]) -> str:
    names = [one.nodes[0] for one in same if one.nodes]
    more = max(0, len(names) - _SHOWN)
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more else "")


def _summary(report: LintReport) -> str:
    if not report.findings:
        return f"{report.path}: nothing found (target {report.target})"
    counts = ", ".join(f"{count} {level}" for level, count in report.counts.items() if count)
    mended = sum(one.is_mended for one in report.findings)
    hint = f"; --fix mends {mended}" if mended and report.fix is None else ""
    return f"{report.path}: {counts} (target {report.target}){hint}"


def _fix_sentences(report: LintReport) -> Iterator[str]:
    fix = report.fix
    if fix is None:
        return
    if fix.path is None:
        yield "nothing was written: nothing was mended"
    else:
        rules = ", ".join(f"{rule} {count}" for rule, count in fix.rules.items())
        size = f"{fix.bytes_before:,} to {fix.bytes_after:,} bytes" if fix.bytes_after is not None else ""
        yield f"{fix.path} written, {size}: {rules}; findings left: {len(fix.findings)}"
    yield f"outputs: {fix.compared}"
    yield from (f"left: {sentence}" for sentence in fix.left)
