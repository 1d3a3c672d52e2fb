"""What lint found in a model file, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx_admm.contracts import Level
from onnx_admm.report.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFacts:
    """One finding.

    Attributes:
        rule: name of the rule.
        level: ``error``, ``slow`` or ``note``.
        nodes: names of the nodes, or of the values where it is about none.
        why: what is wrong.
        cure: what to do about it.
        slowdown: predicted time of these nodes over their time after the cure; None where not known.
        basis: what the slowdown was measured on.
        is_mended: whether ``--fix`` mends it.
    """

    rule: str
    level: Level
    nodes: tuple[str, ...]
    why: str
    cure: str
    slowdown: float | None = None
    basis: str = ""
    is_mended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FixFacts:
    """What ``--fix`` did.

    Attributes:
        path: the file written; None where none was.
        rules: number of changed places, by rule.
        left: what was to be mended and was not, with the reason.
        compared: how the outputs before and after were compared, as a sentence.
        bytes_before, bytes_after: sizes on disk, of external data too; ``bytes_after`` None without a file.
        findings: findings of the mended model.
    """

    path: str | None
    rules: Mapping[str, int]
    left: tuple[str, ...]
    compared: str
    bytes_before: int
    bytes_after: int | None
    findings: tuple[FindingFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFacts:
    """Latency before and after the fix.

    Attributes:
        before_us, after_us: one run with one thread, in microseconds of processor time.
        ratio: after over before; below 1 the mended model is faster.
        runtime: name and version of the runtime.
    """

    before_us: float
    after_us: float
    ratio: float
    runtime: str


@dataclass(frozen=True, kw_only=True)
class LintReport(Document):
    """What lint found in a model file.

    Attributes:
        path: the file.
        opset, ir_version: its versions.
        target: the processor that predicted costs and some findings are about.
        findings: all findings, the most serious first.
        unchecked: rules that failed on this model, each with the reason.
        fix: what ``--fix`` did; None without.
        measured: latency before and after; None where it was not asked for, or there is nothing to mend.
        versions: of the package and of its libraries.
    """

    path: str
    opset: int
    ir_version: int
    target: str
    findings: tuple[FindingFacts, ...]
    unchecked: Mapping[str, str] = field(default_factory=dict)
    fix: FixFacts | None = None
    measured: MeasuredFacts | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings by level."""
        return {level.value: sum(one.level == level for one in self.findings) for level in Level}

    @property
    def remaining(self) -> tuple[FindingFacts, ...]:
        """Findings of the mended model where one was written, else of the model."""
        written = self.fix is not None and self.fix.path is not None
        return self.fix.findings if self.fix is not None and written else self.findings

    def at_least(self, level: Level | str) -> tuple[FindingFacts, ...]:
        """Return the remaining findings of a level and of more serious ones."""
        least = Level(level)
        return tuple(one for one in self.remaining if Level(one.level).reaches(least))
