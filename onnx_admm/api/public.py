"""The public functions: the commands with typed arguments, for models on disk and in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from onnx_admm.api.annotate import annotate as annotate_file
from onnx_admm.api.compare import compare as compare_files
from onnx_admm.api.compress import Compression
from onnx_admm.api.inspect import inspect_costs, inspect_model
from onnx_admm.api.sweep import SHARES, Sweep, Swept
from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model as find_cost_model
from onnx_admm.contracts import CostModel, ModelView, Progress, SilentProgress
from onnx_admm.data import Preprocessing
from onnx_admm.data.anything import DataLike, as_dataset
from onnx_admm.errors import UsageError
from onnx_admm.limits import RunLimits, run_within
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.metrics import MetricLike
from onnx_admm.model.writing.in_memory import ModelLike, ModelProto, model_file, read_proto
from onnx_admm.report import Comparison, CostFacts, ModelFacts, Report

PathLike = str | os.PathLike[str]
T = TypeVar("T")


@dataclass(frozen=True)
class Compressed:
    """What `compress` gives back.

    Attributes:
        report: what was gained and what it cost.
        target: the file that was written; None where none was named.
        model: the compressed model, where no target was named; else None, and the file has it.
    """

    report: Report
    target: Path | None = None
    model: ModelProto | None = None

    def __repr__(self) -> str:
        comparison = self.report.comparison
        where = "in memory" if self.target is None else str(self.target)
        size = f"{comparison.before.file_bytes:,} to {comparison.after.file_bytes:,} bytes"
        return f"Compressed({where}: {size}, {comparison.file_ratio:.1f}x)"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def compress(
    model: ModelLike,
    target: PathLike | None = None,
    *,
    data: DataLike | None = None,
    validation: DataLike | None = None,
    test: DataLike | None = None,
    label: str | None = None,
    metric: MetricLike | None = None,
    recipe: Recipe | PathLike | None = None,
    prune: str | None = None,
    bits: int | None = None,
    budget: Sequence[str] = (),
    format: Literal["auto", "dense", "qdq", "sparse", "packed"] = "auto",
    epochs: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fine_tune: bool | None = None,
    preprocessing: Preprocessing | PathLike | None = None,
    freeze_defaults: bool | None = None,
    keep_docs: bool = False,
    cost_model: str | None = None,
    bind: Mapping[str, int] | None = None,
    max_drop: float | None = None,
    keep: bool = False,
    report: PathLike | None = None,
    resume: PathLike | None = None,
    seed: int = 0,
    threads: int = 0,
    trainer: str | None = None,
    memory_mb: int = 1024,
    executor: Executor | None = None,
    progress: Progress | None = None,
    max_memory_mb: int | None = None,
    timeout_s: float | None = None,
) -> Compressed:
    """Make a trained model smaller; stock ONNX Runtime runs the result.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or the bytes of a model file. Never changed.
        target: the file to write; None gives the model back as ``result.model``.
        data: samples to train or calibrate on; labels are used where there are some, else the original is
            the teacher. A path, arrays by input name, an array, an iterable or loader, a
            CalibrationDataReader: see `onnx_admm.data.anything.as_dataset`.
        validation: samples to choose by; None sets a tenth of ``data`` aside.
        test: samples read once, at the end, for the report.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: what takes the place of accuracy in ``max_drop``, budgets, the choice of epochs and the
            report: a callable ``(outputs, labels) -> float``, higher is better; or the name of a built-in
            one, such as ``"miou"`` or ``"top-5"``; see `onnx_admm.metrics.as_metric`.
        recipe: a recipe or the path of one, in place of ``prune``, ``bits``, ``format`` and ``epochs``.
        prune: how much of the weights goes: ``"10x"`` (one in ten stays), ``"0.9"`` (nine tenths go) or
            ``"2:4"``.
        bits: of a weight, 1 to 8.
        budget: limits such as ``"latency=0.5x"`` or ``"weights=10x"``; needs ``cost_model``.
        format: how weights are stored; ``auto`` takes the smallest form that is not slower.
        epochs: of each pass that trains; None chooses by the number of samples.
        include: patterns of layer names or operators to work on; empty means all.
        exclude: patterns of layers to leave.
        fine_tune: train or not; None trains where there is data and something to train for.
        preprocessing: from stored samples to inputs, or the TOML file of it.
        freeze_defaults: whether initializers listed as inputs become constants; None: where nearly all are.
        keep_docs: keep doc strings and exporters' notes, which no runtime reads.
        cost_model: what prices the layers, such as ``"onnxruntime"`` or ``"roofline:PROFILE"``.
        bind: extents of open axes that costs are for, such as ``{"frames": 160}``.
        max_drop: percentage points of accuracy that may be lost on the validation samples.
        keep: write the result even if it misses a promise.
        report: where to write the report as JSON.
        resume: a folder that the result of each pass is kept in; a run goes on from there.
        seed: decides every random choice: same seed, threads and timing cache, same bytes.
        threads: intra-op threads; 0 lets the runtime choose.
        trainer: ``"graph"`` (any ONNX Runtime), ``"onnxruntime-training"`` or ``"auto"``: the former.
        memory_mb: MiB that statistics of layers looked at together may take.
        executor: threads for layers that do not depend on one another.
        progress: where long work tells how far it is.
        max_memory_mb: MiB that the process may take, its worker included; None: half of the machine's.
        timeout_s: seconds that the run may take; None for no limit.

    Returns:
        The report, and the model where no target is named.

    Raises:
        UsageError: an impossible argument; names it.
        PromiseMissed: the result misses a promise (BudgetExceeded: a stated one); it is written only with
            ``keep``.
        OnnxAdmmError: see the tree in ``errors.py``; nothing was written.

    Example:
        >>> import onnx_admm
        >>> onnx_admm.compress("net.onnx", "small.onnx", data="train.npz", bits=4)  # doctest: +SKIP
        Compressed(small.onnx: 1,725,696 to 60,312 bytes, 28.6x)
    """
    request = Compression(
        data=data,
        validation=validation,
        test=test,
        label=_typed("label", label, str, type(None)),
        metric=metric,
        recipe=recipe,
        prune=_typed("prune", prune, str, type(None)),
        bits=_typed("bits", bits, int, type(None)),
        budget=_texts("budget", budget),
        format=_typed("format", format, str),
        epochs=_typed("epochs", epochs, int, type(None)),
        include=_texts("include", include),
        exclude=_texts("exclude", exclude),
        fine_tune=_typed("fine_tune", fine_tune, bool, type(None)),
        preprocessing=preprocessing,
        freeze_defaults=_typed("freeze_defaults", freeze_defaults, bool, type(None)),
        keep_docs=_typed("keep_docs", keep_docs, bool),
        cost_model=_typed("cost_model", cost_model, str, type(None)),
        bind=dict(bind or {}),
        max_drop=_typed("max_drop", max_drop, float, int, type(None)),
        keep=_typed("keep", keep, bool),
        report=report,
        resume=resume,
        seed=_typed("seed", seed, int),
        threads=_typed("threads", threads, int),
        trainer=_typed("trainer", trainer, str, type(None)),
        memory_mb=_typed("memory_mb", memory_mb, int),
        executor=executor,
        progress=progress or SilentProgress(),
    )
    stated = max_memory_mb is not None or timeout_s is not None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryFolder()))
        source = model_file(model, folder)
        written = folder / "result.onnx" if target is None else Path(target)
        with run_within(RunLimits(max_memory_mb, timeout_s) if stated else None):
            found = request.run(source, written)
        found.raise_if_missed()
        if target is not None:
            return Compressed(found, written)
        return Compressed(found, model=read_proto(written))


def inspect(model: ModelLike) -> ModelFacts:
    """Tell what a model holds: operator, shape, parameters, nonzeros, bits, bytes and MACs of every weight.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.

    Raises:
        ModelError: not a model, or not one that is safe to read.
    """
    with TemporaryFolder() as folder:
        return inspect_model(model_file(model, Path(folder)))


def costs(
    model: ModelLike,
    cost_model: CostModel | str,
    *,
    bind: Mapping[str, int] | None = None,
    figure: str | None = None,
) -> CostFacts:
    """Tell where time, energy and bytes of a model go under a cost model, and what each layer would gain.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.
        cost_model: an instance, or a name such as ``"macs"`` or ``"roofline:PROFILE"``.
        bind: extents of open axes, by symbol or place.
        figure: what layers are sorted by; None: what the cost model is about.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: the cost model does not give that figure.
    """
    with TemporaryFolder() as folder:
        return inspect_costs(model_file(model, Path(folder)), _cost_model(cost_model), bind, figure)


def compare(
    before: ModelLike,
    after: ModelLike,
    *,
    data: DataLike | None = None,
    preprocessing: Preprocessing | PathLike | None = None,
    label: str | None = None,
    metric: MetricLike | None = None,
    threads: int = 0,
    is_classifier: bool = False,
    max_drop: float | None = None,
    min_ratio: float | None = None,
    report: PathLike | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure sizes, accuracy or output error, and latency of two models, in turns.

    Args:
        before: the original: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.
        after: the model to hold against it, with the same inputs and outputs.
        data: samples, as in `compress`; random inputs if None.
        preprocessing: from stored samples to inputs, or the TOML file of it.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: what takes the place of accuracy, as in `compress`; needs ``data``.
        threads: intra-op threads; 0 lets the runtime choose.
        is_classifier: whether floats of the form (n, c) are scores of classes; otherwise the graph tells.
        max_drop: percentage points of accuracy that ``after`` may lose; ``verdict`` says whether it is kept.
        min_ratio: how many times smaller ``after`` must be on disk.
        report: where to write the comparison as JSON.
        progress: where long work tells how far it is.

    Raises:
        UsageError: the two do not take the same inputs, or a file cannot be read.
    """
    with TemporaryFolder() as first, TemporaryFolder() as second:
        return compare_files(
            model_file(before, Path(first), "the original"),
            model_file(after, Path(second), "the model to compare"),
            data,
            preprocessing=preprocessing,
            threads=threads,
            is_classifier=_typed("is_classifier", is_classifier, bool),
            max_drop=_typed("max_drop", max_drop, float, int, type(None)),
            min_ratio=_typed("min_ratio", min_ratio, float, int, type(None)),
            report=report,
            label=_typed("label", label, str, type(None)),
            metric=metric,
            progress=progress,
        )


def annotate(
    model: ModelLike, target: PathLike, cost_model: CostModel | str, *, bind: Mapping[str, int] | None = None
) -> CostFacts:
    """Write what each node costs into ``metadata_props`` of a copy, where viewers show it.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.
        target: where the copy goes.
        cost_model: an instance, or a name.
        bind: extents of open axes, by symbol or place.

    Raises:
        UsageError: ``target`` is the model itself, or no regular file.
        UnknownExtent: a cost depends on an axis that is left open.
    """
    with TemporaryFolder() as folder:
        return annotate_file(model_file(model, Path(folder)), target, _cost_model(cost_model), bind)


def sweep(
    model: ModelLike,
    folder: PathLike,
    *,
    cost_model: str,
    data: DataLike | None = None,
    validation: DataLike | None = None,
    test: DataLike | None = None,
    label: str | None = None,
    metric: MetricLike | None = None,
    figure: str | None = None,
    shares: Sequence[float] = SHARES,
    plot: PathLike | None = None,
    seed: int = 0,
    threads: int = 0,
    trainer: str | None = None,
) -> Swept:
    """Compress under several budgets, and write the frontier of cost and accuracy.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.
        folder: where the files and ``sweep.csv`` go.
        cost_model: what budgets are for, such as ``"macs"``.
        data: samples, as in `compress`.
        validation: samples to choose by.
        test: samples for the table.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: what takes the place of accuracy, as in `compress`.
        figure: the quantity that budgets limit; None: what the cost model is about.
        shares: budgets as shares of what the original costs, each over 0 and below 1.
        plot: a ``.png`` or ``.svg`` file to draw the frontier into.
        seed: decides every random choice.
        threads: intra-op threads; 0 lets the runtime choose.
        trainer: what trains, as in `compress`.

    Raises:
        UsageError: a figure that the cost model does not give, an impossible share, nothing to plot with.
        PromiseMissed: no file could be written.
    """
    job = Compression(
        data=data,
        validation=validation,
        test=test,
        label=_typed("label", label, str, type(None)),
        metric=metric,
        cost_model=cost_model,
        seed=seed,
        threads=threads,
        trainer=_typed("trainer", trainer, str, type(None)),
    )
    with TemporaryFolder() as place:
        source = model_file(model, Path(place))
        job = replace(
            job,
            data=_kept(data, source, label),
            validation=_kept(validation, source, label),
            test=_kept(test, source, label),
        )
        return Sweep(job=job, figure=figure, shares=shares, plot=plot).run(source, folder)


def _kept(data: DataLike | None, model: Path, label: str | None) -> DataLike | None:
    """Samples that can be read again by each of several runs."""
    if data is None or isinstance(data, str | os.PathLike):
        return data
    return as_dataset(data, ModelView.load(model), label=label)


def _cost_model(given: CostModel | str) -> CostModel:
    return find_cost_model(given) if isinstance(given, str) else given


def _typed(name: str, value: T, *kinds: type) -> T:
    """The value, which must be of one of the types; a bool is no number."""
    if type(value) in kinds or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    raise UsageError("an argument of the wrong type", where=name, got=repr(value), expected=expected)


def _texts(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """Several texts; a single one is meant as such."""
    if isinstance(values, str):
        return (values,)
    return tuple(_typed(name, value, str) for value in values)
