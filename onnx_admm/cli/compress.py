"""``onnx-admm compress``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_admm.cli.console import progress_bars, say, show
from onnx_admm.cli.target import BIND, COST_MODEL, LABEL, METRIC, parse_bindings, read_max_drop

if TYPE_CHECKING:
    from onnx_admm.api import Compression, Plan

DATA = "Samples to train on: .npz (one array per input name; labels optional), idx files, a folder of images."


def compress(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The model.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes; never IN.")],
    data: Annotated[Path | None, typer.Option("--data", metavar="TRAIN", help=DATA)] = None,
    val: Annotated[
        Path | None,
        typer.Option(
            "--val", metavar="VAL", help="Samples to choose by; else a tenth of TRAIN is set aside."
        ),
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
            help="What may be left on the target: latency=0.5x, energy=0.3x, size=20x, macs=0.2x, "
            "macbits=0.1x or weights=10x; needs --cost-model. Repeated: all of them hold.",
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
            help="What to run, instead of --prune, --bits, --format, --epochs: a TOML file, or the name of "
            "one that comes along, such as lenet5-85x.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            metavar="N",
            help="ADMM epochs of each pass; pruning retrains half as many. Else what 4,000 optimizer steps "
            "take, at most 60.",
        ),
    ] = None,
    fine_tune: Annotated[
        bool | None,
        typer.Option(
            "--fine-tune/--no-fine-tune",
            help="Train or not; by default where there is data. Not: layers are rebuilt from TRAIN.",
        ),
    ] = None,
    freeze_defaults: Annotated[
        bool | None,
        typer.Option(
            "--freeze-defaults/--keep-defaults",
            help="Initializers that are listed as inputs become constants, or may still be overridden by a "
            "caller; by default the former where nine tenths of them are listed or more.",
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
            help="Percentage points the result may lose on VAL.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write OUT even if it misses a promise (exit code 3 all the same).")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="R.json", help="Write the whole report as JSON.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="DIR",
            help="Keep what each pass makes in DIR; run again, go on from there.",
        ),
    ] = None,
    cost_model: Annotated[str | None, COST_MODEL] = None,
    bind: Annotated[list[str] | None, BIND] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Same seed, threads and machine: same bytes.")
    ] = 0,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", help="Threads; 0 lets the runtime choose.")
    ] = 0,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", metavar="N", min=1, max=1024, help="Layers worked on at once; same bytes for any N."
        ),
    ] = 1,
    memory: Annotated[
        int, typer.Option("--memory", metavar="MB", help="Memory for what is kept of the samples, in MiB.")
    ] = 1024,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check everything, say what would be done, do nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Layers and passes; -vv: tracebacks too.")
    ] = 0,
) -> None:
    """Make a model file smaller.

    The result is reloaded, checked, run and compared with IN before it is put in place.

    \b
    Without data: each layer rounded as far as the outputs tolerate on made-up inputs.
      onnx-admm compress net.onnx small.onnx
    A few hundred samples, no labels, no training: each layer is rebuilt so that its outputs stay.
      onnx-admm compress net.onnx small.onnx --data calib.npz --prune 0.9 --no-fine-tune
    With data: pruned and quantised by ADMM, fine-tuned (without labels, IN is the teacher).
      onnx-admm compress net.onnx small.onnx --data train.npz --prune 0.9
      onnx-admm compress net.onnx small.onnx --data train.npz --prune 85x --bits 3 --test test.npz
    A gate: nothing is written, and the exit code is 3, if accuracy drops by more than half a point.
      onnx-admm compress net.onnx small.onnx --data train.npz --bits 4 --max-drop 0.5
    A target: density and bits of each layer by what they cost there, and within the accuracy.
      onnx-admm compress net.onnx small.onnx --data d.npz --budget macs=0.2x --cost-model macs --max-drop 1
    A recipe repeats a run; every report holds the one that made it.
      onnx-admm compress net.onnx small.onnx --data train.npz --recipe recipe.toml --seed 1

    \b
    Every result passes a gate before it is written: --max-drop and --budget, or without both and without
    labels at least 10 dB signal to noise and half of the predictions (20 dB, where nothing is asked for).
    """
    from onnx_admm.api import Compression

    job = Compression(
        data=data,
        validation=val,
        test=test,
        label=label,
        metric=metric,
        recipe=recipe,
        prune=prune,
        bits=bits,
        budget=budget or (),
        include=include or (),
        exclude=exclude or (),
        format=format,
        epochs=epochs,
        fine_tune=fine_tune,
        preprocessing=preprocessing,
        freeze_defaults=freeze_defaults,
        keep_docs=keep_docs,
        weights_only=weights_only,
        cost_model=cost_model,
        bind=parse_bindings(bind or ()),
        max_drop=max_drop,
        keep=keep,
        report=report,
        resume=resume,
        seed=seed,
        threads=threads,
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
