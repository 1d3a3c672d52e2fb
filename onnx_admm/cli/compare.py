"""``onnx-admm compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from onnx_admm.cli.console import progress_bars, show
from onnx_admm.cli.target import METRIC


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="The original.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The model to hold against it.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="D", help="Samples; else random inputs are used.")
    ] = None,
    metric: Annotated[str | None, METRIC] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option("--preprocessing", metavar="P.toml", help="Scale, mean, std, layout of stored samples."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", metavar="POINTS", help="Exit with 3 if B loses more percentage points."),
    ] = None,
    min_ratio: Annotated[
        float | None,
        typer.Option("--min-ratio", metavar="R", help="Exit with 3 if B is not R times smaller on disk."),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", help="Threads; 0 lets the runtime choose.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, on stdout.")] = False,
) -> None:
    """Hold two models side by side.

    Sizes, accuracy or output error, and latency measured in turns.

    \b
      onnx-admm compare net.onnx small.onnx --data test.npz
    In continuous integration:
      onnx-admm compare net.onnx small.onnx --data test.npz --max-drop 0.5 --min-ratio 20
    """
    from onnx_admm import api
    from onnx_admm.report.gate import Gate
    from onnx_admm.settings.ranges import check_number

    check_number(max_drop, 0, 100, "--max-drop")
    check_number(min_ratio, 0, 1e9, "--min-ratio")
    found = api.compare(
        before,
        after,
        data,
        preprocessing=preprocessing,
        metric=metric,
        threads=threads,
        is_classifier=max_drop is not None,
        progress=progress_bars(quiet=as_json),
    )
    found = replace(found, promises=Gate(max_drop=max_drop, min_ratio=min_ratio).judge(found))
    if as_json:
        from onnx_admm.report import to_json

        typer.echo(to_json(found), nl=False)
    else:
        from onnx_admm.report.tables import comparison_view

        show(comparison_view(found))
    if found.missed is not None:
        raise found.missed.error()
