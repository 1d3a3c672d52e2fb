"""``onnx-admm compress``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_admm.cli.console import progress_bars, say, show
from onnx_admm.cli.target import (
    BIND,
    COST_MODEL,
    LABEL,
    METRIC,
    TARGET,
    TRAINER,
    cost_model_of,
    parse_bindings,
    read_max_drop,
)

if TYPE_CHECKING:
    from onnx_admm.api import Compression, Plan

DATA = "Samples to train on: .npz (one array per input name; labels optional), idx files, a folder of images."


def compress(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The model.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Path of the result; never IN.")],
    data: Annotated[Path | None, typer.Option("--data", metavar="TRAIN", help=DATA)] = None,
    val: Annotated[
        Path | None,
        typer.Option("--val", metavar="VAL", help="Validation samples. Default: a tenth of TRAIN."),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option("--test", metavar="TEST", help="Samples read once, at the end, for the report."),
    ] = None,
    label: Annotated[str | None, LABEL] = None,
    metric: Annotated[str | None, METRIC] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option("--preprocessing", metavar="P.toml", help="Scale, mean, std, layout of stored samples."),
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option(
            "--remove",
            metavar="[QUANTITY=]Nx",
            help="Remove channels, heads and neurons until that share of the multiply-accumulates is left "
            "(0.5x), or of latency on the target (latency=0.5x; needs --cost-model).",
        ),
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(
            "--prune",
            metavar="85x|90%|2:4",
            help="Weights over nonzeros (85x), share of zeros (0.9 or 90%), or 2 kept of every 4 (2:4).",
        ),
    ] = None,
    bits: Annotated[int | None, typer.Option("--bits", metavar="N", help="Bits of a weight, 1 to 8.")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="QUANTITY=Nx",
            help="Limit of the cost on the target: latency=0.5x, energy=0.3x, size=20x, macs=0.2x, "
            "macbits=0.1x or weights=10x. Several budgets hold together. All but latency alone need "
            "--cost-model.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="Only layers of that name or operator (* and ?)."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Leave layers of that name or operator alone."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="PATTERN=F",
            help="Form of layers, which nothing else then changes: 'head*=8' (bits), 'stem=float', "
            "'fc*=keep=0.1' (share of nonzeros), 'fc*=bits=4,keep=0.1'.",
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="F",
            help="auto: the smallest that is not slower; dense, qdq, sparse or packed.",
        ),
    ] = "auto",
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="R",
            help="Recipe to run instead of --remove, --prune, --bits and others: a TOML file, or the name of "
            "a recipe of the package, such as lenet5-85x.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            metavar="N",
            help="ADMM epochs of each pass; pruning retrains half as many. Default: the epochs of 4,000 "
            "optimizer steps, at most 60.",
        ),
    ] = None,
    fine_tune: Annotated[
        bool | None,
        typer.Option(
            "--fine-tune/--no-fine-tune",
            help="Train, or rebuild the layers from TRAIN without training. Default: train with data.",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher",
            metavar="ORIGINAL",
            help="Model whose outputs training learns, where IN was made smaller before. Default: IN.",
        ),
    ] = None,
    freeze_defaults: Annotated[
        bool | None,
        typer.Option(
            "--freeze-defaults/--keep-defaults",
            help="Make initializers that are also inputs constants, or let callers override them. Default: "
            "constants where nine tenths of the initializers or more are inputs.",
        ),
    ] = None,
    keep_docs: Annotated[
        bool,
        typer.Option(
            "--keep-docs", help="Keep doc strings and exporters' notes on nodes, which no runtime reads."
        ),
    ] = False,
    weights_only: Annotated[
        bool,
        typer.Option(
            "--weights-only",
            help="Leave activations in float, also where 8-bit integers would be faster on this machine.",
        ),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            parser=read_max_drop,
            metavar="POINTS",
            help="Most percentage points that the result may lose on VAL.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write OUT even if it misses a promise (the exit code stays 3).")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="R.json", help="Write the whole report as JSON.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="DIR",
            help="Keep the result of each pass in DIR; the next run continues from there.",
        ),
    ] = None,
    cost_model: Annotated[str | None, COST_MODEL] = None,
    processor: Annotated[str | None, TARGET] = None,
    bind: Annotated[list[str] | None, BIND] = None,
    min_runtime: Annotated[
        str | None,
        typer.Option(
            "--min-runtime",
            metavar="V",
            help="Oldest ONNX Runtime that must load the result, such as 1.17: no newer form is written.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Same seed, threads and machine: same bytes.")
    ] = 0,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", help="Threads; 0 lets the runtime choose.")
    ] = 0,
    trainer: Annotated[str | None, TRAINER] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", metavar="N", min=1, max=1024, help="Layers worked on at once; same bytes for any N."
        ),
    ] = 1,
    memory: Annotated[
        int,
        typer.Option(
            "--memory",
            metavar="MB",
            help="Memory for the statistics of the samples, and for one run of training, in MiB.",
        ),
    ] = 1024,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; run and write nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Print layers and passes; -vv: tracebacks too.")
    ] = 0,
) -> None:
    """Make a model smaller and faster.

    Before OUT is put in place, the result is loaded again, checked, run and compared with IN.

    \b
    Without data: round each layer as far as the outputs tolerate on synthetic inputs.
      onnx-admm compress net.onnx small.onnx
    With a few hundred samples, no labels, no training: rebuild each layer so that its outputs stay.
      onnx-admm compress net.onnx small.onnx --data calib.npz --prune 0.9 --no-fine-tune
    Fewer channels: refit the layers behind by least squares, without labels or training.
      onnx-admm compress net.onnx small.onnx --data calib.npz --remove 0.5x --no-fine-tune
    The same, smaller and faster: layers that are faster with 8-bit integers on this machine use them.
      onnx-admm compress net.onnx small.onnx --data calib.npz
    Until 0.4 of the latency is left on this machine: integers, fewer channels, then training.
      onnx-admm compress net.onnx small.onnx --data train.npz --budget latency=0.4x --max-drop 0.5
    With data: prune and quantise by ADMM, and fine-tune (without labels, IN is the teacher).
      onnx-admm compress net.onnx small.onnx --data train.npz --prune 0.9
      onnx-admm compress net.onnx small.onnx --data train.npz --prune 85x --bits 3 --test test.npz
    A gate: if accuracy drops by more than half a point, no file is written, and the exit code is 3.
      onnx-admm compress net.onnx small.onnx --data train.npz --bits 4 --max-drop 0.5
    A target: choose density and bits of each layer for a cost, within a drop of accuracy.
      onnx-admm compress net.onnx small.onnx --data d.npz --budget macs=0.2x --cost-model macs --max-drop 1
    A recipe repeats a run; every report contains the recipe of its run.
      onnx-admm compress net.onnx small.onnx --data train.npz --recipe recipe.toml --seed 1

    \b
    Every result must keep promises before it is written: --max-drop and --budget. Without both and without
    labels: 10 dB signal to noise and half of the predictions (20 dB if only a smaller file is requested).
    """
    from onnx_admm.api import Compression
    from onnx_admm.config.layer_table import layers_of_flags

    job = Compression(
        data=data,
        teacher=teacher,
        validation=val,
        test=test,
        label=label,
        metric=metric,
        recipe=recipe,
        remove=remove,
        prune=prune,
        bits=bits,
        budget=budget or (),
        include=include or (),
        exclude=exclude or (),
        layers=layers_of_flags(layer or ()),
        format=format,
        epochs=epochs,
        fine_tune=fine_tune,
        preprocessing=preprocessing,
        freeze_defaults=freeze_defaults,
        keep_docs=keep_docs,
        weights_only=weights_only,
        cost_model=cost_model_of(processor, cost_model),
        bind=parse_bindings(bind or ()),
        min_runtime=min_runtime,
        max_drop=max_drop,
        keep=keep,
        report=report,
        resume=resume,
        seed=seed,
        threads=threads,
        trainer=trainer,
        memory_mb=memory,
        progress=progress_bars(quiet=quiet),
    )
    if dry_run:
        job.files(source, target).check()
        _show_plan(job, source, quiet=quiet)
        return
    with ThreadPoolExecutor(jobs) as executor:
        done = replace(job, executor=executor if jobs > 1 else None).run(source, target)
    if not quiet:
        from onnx_admm.report.tables import report_view

        show(report_view(done, verbose=verbose > 0))
    done.raise_if_missed()


def _show_plan(job: Compression, source: Path, *, quiet: bool) -> None:
    from onnx_admm.report.tables import model_table

    plan: Plan = job.rehearse(source)
    if quiet:
        return
    show([model_table(plan.facts)])
    for line in ("", *plan.recipe.dump().split("\n")):
        say(line)
    for title, samples in (("train", plan.train), ("validation", plan.validation)):
        say(f"{title}: {'no samples' if samples is None else f'{len(samples):,} samples'}")
    for note in plan.notes:
        say(f"Note: {note}")
    say("Dry run: nothing was run or written.")
