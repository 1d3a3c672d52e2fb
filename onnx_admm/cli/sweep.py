"""``onnx-admm sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_admm.cli.console import progress_bars, show
from onnx_admm.cli.target import (
    BIND,
    COST_MODEL,
    LABEL,
    METRIC,
    TARGET,
    TRAINER,
    cost_model_of,
    parse_bindings,
)


def sweep(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The model.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the files and sweep.csv.")],
    cost_model: Annotated[str | None, COST_MODEL] = None,
    target: Annotated[str | None, TARGET] = None,
    bind: Annotated[list[str] | None, BIND] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="TRAIN", help="Samples to calibrate and train on.")
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option("--val", metavar="VAL", help="Validation samples. Default: a tenth of TRAIN."),
    ] = None,
    label: Annotated[str | None, LABEL] = None,
    metric: Annotated[str | None, METRIC] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option("--preprocessing", metavar="P.toml", help="Scale, mean, std, layout of stored samples."),
    ] = None,
    quantity: Annotated[
        str | None,
        typer.Option(
            "--quantity",
            metavar="F",
            help="Quantity of the budgets: latency, energy, size, macs, macbits or weights. Default: the "
            "first quantity of the cost model.",
        ),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option("--shares", metavar="S,S,..", help="Budgets, as shares of the original's cost."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", metavar="N", help="Train each file for N epochs. Default: no training."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="P.svg", help="Draw the frontier as .png or .svg; needs matplotlib."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of every random choice.")] = 0,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", help="Threads; 0 lets the runtime choose.")
    ] = 0,
    trainer: Annotated[str | None, TRAINER] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Compress a model under several budgets.

    Writes a file for each budget, and the frontier of size, cost and accuracy as a table (and a plot). The
    layers are measured once. A budget that no compression option reaches ends the sweep. A file that misses
    a promise (for example: the outputs change too much) is not written; the table has its figures.

    \b
      onnx-admm sweep net.onnx --data train.npz --cost-model macs --bind N=1 --out sweep
      onnx-admm sweep net.onnx --data train.npz --cost-model storage --shares 0.2,0.1,0.05 --out sweep
      onnx-admm sweep net.onnx --data train.npz --target arm64 --out sweep
    """
    from onnx_admm.api.compress import Compression
    from onnx_admm.api.sweep import SHARES, Sweep
    from onnx_admm.settings.amounts import parse_share

    job = Compression(
        data=data,
        validation=val,
        label=label,
        metric=metric,
        preprocessing=preprocessing,
        cost_model=cost_model_of(target, cost_model),
        bind=parse_bindings(bind or ()),
        epochs=epochs,
        seed=seed,
        threads=threads,
        trainer=trainer,
        progress=progress_bars(quiet=quiet),
    )
    budgets: tuple[float, ...] = SHARES
    if shares is not None:
        budgets = tuple(parse_share(share, "--shares") for share in shares.split(","))
    done = Sweep(job=job, quantity=quantity, shares=budgets, plot=plot).run(source, out)
    if not quiet:
        from onnx_admm.report.tables import sweep_table

        show([sweep_table(done.points)])
        if done.end is not None:
            show([f"The sweep ended: {done.end}"])
        for point in done.points:
            if point.missed is not None:
                show([f"{point.file} was not written: {point.missed}"])
        written = sum(point.missed is None for point in done.points)
        show([f"{written} files and {done.table} written."])
