"""``onnx-admm compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_admm.cli.console import progress_bars, show
from onnx_admm.cli.target import LABEL, METRIC, read_max_drop, read_min_ratio


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="The original.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The model to compare with it.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="D", help="Samples. Default: random inputs.")
    ] = None,
    label: Annotated[str | None, LABEL] = None,
    metric: Annotated[str | None, METRIC] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option("--preprocessing", metavar="P.toml", help="Scale, mean, std, layout of stored samples."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            parser=read_max_drop,
            metavar="POINTS",
            help="Exit with 3 if B loses more percentage points.",
        ),
    ] = None,
    min_ratio: Annotated[
        float | None,
        typer.Option(
            "--min-ratio",
            parser=read_min_ratio,
            metavar="R",
            help="Exit with 3 if B is not R times smaller on disk: 20 or 20x.",
        ),
    ] = None,
    kernels: Annotated[
        bool,
        typer.Option("--kernels", help="Print the runtime's kernels of each layer in A and B, timed."),
    ] = False,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", help="Threads; 0 lets the runtime choose.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="R.json", help="Write the comparison as JSON.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Compare two models.

    Prints sizes, accuracy or output error, and latency. Both models are timed in turns.

    \b
      onnx-admm compare net.onnx small.onnx --data test.npz
    Why B is faster or slower, layer by layer:
      onnx-admm compare net.onnx small.onnx --kernels --threads 1
    In continuous integration:
      onnx-admm compare net.onnx small.onnx --data test.npz --max-drop 0.5 --min-ratio 20
    """
    from onnx_admm import api

    found = api.compare(
        before,
        after,
        data,
        preprocessing=preprocessing,
        label=label,
        metric=metric,
        threads=threads,
        max_drop=max_drop,
        min_ratio=min_ratio,
        kernels=kernels,
        report=report,
        progress=progress_bars(quiet=quiet or as_json),
    )
    if as_json:
        typer.echo(found.to_json(), nl=False)
    elif not quiet:
        from onnx_admm.report.tables import comparison_view

        show(comparison_view(found))
    if found.missed is not None:
        raise found.missed.error()
