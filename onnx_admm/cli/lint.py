"""``onnx-admm lint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_admm.cli.console import show
from onnx_admm.errors import PromiseMissed, UsageError

_LEVELS = ("error", "slow", "note")


def lint(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Any ONNX file.")],
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix", metavar="OUT", help="Write the model with everything mended that can be mended exactly."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="T",
            help="Processor: this, x86-avx2, x86-avx512, x86-vnni or arm64. Slowdowns are predicted.",
        ),
    ] = "this",
    fail_on: Annotated[
        str,
        typer.Option("--fail-on", metavar="LEVEL", help="Exit with 3 from this level on: error, slow, note."),
    ] = "slow",
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the model before and after the fix (processor time).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, on stdout.")] = False,
    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0.")
    ] = None,
) -> None:
    """Find what makes a model slow, wrong or impossible to load.

    For any ONNX file. Levels: error (computes wrongly, or will not load), slow, note. With --fix the outputs
    before and after are compared, and the exit code is about what is left. docs/lint.md explains each rule.

    \b
      onnx-admm lint net.onnx
      onnx-admm lint net.onnx --fix mended.onnx --measure
    In continuous integration:
      onnx-admm lint net.onnx --fail-on error --sarif lint.sarif
    """
    if fail_on not in _LEVELS:
        raise UsageError("unknown level", where="--fail-on", got=repr(fail_on), expected=", ".join(_LEVELS))
    from onnx_admm.api import lint_file

    report = lint_file(model, fix=fix, target=target, measure=measure, sarif=sarif)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        from onnx_admm.report.lint.table import lint_view

        show(lint_view(report))
    serious = report.at_least(fail_on)
    if serious:
        raise PromiseMissed(
            f"{len(serious)} finding{'s' * (len(serious) > 1)} at level '{fail_on}' or above",
            where=model if report.remaining is report.findings else fix,
            hint="--fail-on sets the level.",
        )
