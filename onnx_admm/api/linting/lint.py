"""Lint of a model file: what is slow, wrong or will not load, and its mending."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from onnx_admm.api.files.run_files import RunFiles
from onnx_admm.api.linting.mend import Mended, mend
from onnx_admm.api.measure import made_up
from onnx_admm.config.registry import lint_rules
from onnx_admm.contracts import LintRule, LintSubject, ModelView
from onnx_admm.limits import in_a_run
from onnx_admm.lint_rules.run import Found, run_rules
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.model.analysis.examined_file import examine_file
from onnx_admm.model.writing.atomic_output import write_text
from onnx_admm.model.writing.external_files import bytes_on_disk, external_files
from onnx_admm.model.writing.in_memory import ModelLike, model_file
from onnx_admm.pricing.processors import THIS, find_target
from onnx_admm.report.lint.facts import FindingFacts, FixFacts, LintReport, MeasuredFacts
from onnx_admm.report.lint.sarif import to_sarif
from onnx_admm.runtime.installed import installed_runtimes, runtime_versions
from onnx_admm.runtime.latency import compare_latency

PathLike = str | os.PathLike[str]


def lint(
    model: ModelLike,
    *,
    fix: PathLike | None = None,
    target: str = THIS,
    measure: bool = False,
    sarif: PathLike | None = None,
) -> LintReport:
    """Find what makes a model slow, wrong or impossible to load; mend what can be mended exactly.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes; never changed.
        fix: the file to write with everything mended that can be; None writes nothing.
        target: processor that costs are predicted for: ``this``, ``x86-avx2``, ``x86-avx512``, ``x86-vnni``
            or ``arm64``.
        measure: time the model before and after its mending, whether ``fix`` is given or not.
        sarif: path of the findings as SARIF 2.1.0.

    Returns:
        The findings, and what was mended.

    Raises:
        ModelError: no model, or not one that is safe to read.
        UsageError: an unknown target; a file that would overwrite another one of the run.
        WorkError: the mended model computes something else; nothing was written.

    Example:
        >>> import onnx_admm
        >>> from onnx_admm.config.registry import LINT_RULES
        >>> faulty = LINT_RULES.get("transposed_weight")().faulty().to_bytes()
        >>> report = onnx_admm.lint(faulty, fix="mended.onnx", target="x86-vnni")
        >>> [(one.rule, one.level.value) for one in report.findings]
        [('transposed_weight', 'slow')]
        >>> report.fix.rules, len(onnx_admm.lint("mended.onnx", target="x86-vnni").findings)
        ({'transposed_weight': 1}, 0)
    """
    with TemporaryFolder() as folder:
        path = model_file(model, Path(folder))
        return lint_file(path, fix=fix, target=target, measure=measure, sarif=sarif)


@in_a_run
def lint_file(
    path: PathLike,
    *,
    fix: PathLike | None = None,
    target: str = THIS,
    measure: bool = False,
    sarif: PathLike | None = None,
) -> LintReport:
    """Lint a model file; see `lint`.

    Example:
        >>> from onnx_admm.api import lint_file
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> lint_file("net.onnx").counts["error"]
        0
    """
    files = RunFiles()
    files.read_model(path, "the model")
    files.write(fix, "the mended model")
    files.write(sarif, "the findings")
    files.check()
    rules = lint_rules()
    subject = _subject(path, target)
    found, unchecked = run_rules(subject, rules)
    mended = mend(subject, found, rules) if fix is not None or measure else None
    report = LintReport(
        path=os.fspath(path),
        opset=subject.model.opset,
        ir_version=subject.model.ir_version,
        target=subject.target.name,
        findings=_facts(found),
        unchecked={one.rule: one.why for one in unchecked},
        measured=_measured(path, mended) if measure and mended is not None and mended.rules else None,
        versions=runtime_versions(),
    )
    files.raise_if_changed()
    if fix is not None and mended is not None:
        report = replace(report, fix=_written(subject, rules, mended, Path(path), Path(fix), files))
    if sarif is not None:
        write_text(sarif, to_sarif(report, rules))
    return report


def _subject(path: PathLike, target: str) -> LintSubject:
    processor = find_target(target)
    examined = examine_file(path)
    external = {file.name: file.stat().st_size for file in external_files(Path(path))}
    return LintSubject(examined.model, processor, examined.refusal, external)


def _written(
    subject: LintSubject,
    rules: tuple[LintRule, ...],
    mended: Mended,
    path: Path,
    target: Path,
    files: RunFiles,
) -> FixFacts:
    """Write the mended model, and lint it again."""
    before = bytes_on_disk(path)
    facts = FixFacts(
        path=None,
        rules=mended.rules,
        left=mended.left,
        compared=mended.compared,
        bytes_before=before,
        bytes_after=None,
        findings=(),
    )
    if not mended.rules:
        return facts
    mended.model.save(target, inputs=files.inputs)
    again, _ = run_rules(_subject(target, subject.target.name), rules)
    return replace(facts, path=os.fspath(target), bytes_after=bytes_on_disk(target), findings=_facts(again))


def _measured(path: PathLike, mended: Mended) -> MeasuredFacts | None:
    """Time the file and the mended model in turns, with one thread; None where the file does not load."""
    if mended.compared.startswith("not compared"):
        return None
    data = made_up(ModelView.load(path), 0)
    feeds = next(iter(data.batches(1))).feeds
    with TemporaryFolder() as folder:
        after = Path(folder) / "mended.onnx"
        mended.model.save(after)
        found = compare_latency(path, after, feeds, threads=1)
    runtime = " and ".join(f"{name} {version}" for name, version in installed_runtimes().items())
    return MeasuredFacts(
        before_us=found.before_us, after_us=found.after_us, ratio=found.ratio, runtime=runtime
    )


def _facts(found: tuple[Found, ...]) -> tuple[FindingFacts, ...]:
    return tuple(
        FindingFacts(
            rule=one.rule,
            level=one.level,
            nodes=one.finding.nodes,
            why=one.finding.why,
            cure=one.finding.cure,
            slowdown=one.finding.slowdown,
            basis=one.finding.basis,
            is_mended=one.finding.is_mended,
        )
        for one in found
    )
