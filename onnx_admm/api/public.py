"""The public functions: the commands with typed arguments, for models on disk and in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

from onnx_admm.api.annotate import annotate as annotate_file
from onnx_admm.api.compare import compare as compare_files
from onnx_admm.api.compress import Compression
from onnx_admm.api.compressed import Compressed
from onnx_admm.api.inspect import inspect_costs, inspect_model
from onnx_admm.api.sweep import SHARES, Sweep, Swept
from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model as find_cost_model
from onnx_admm.contracts import CostModel, ModelView, Progress, SilentProgress
from onnx_admm.data import Preprocessing
from onnx_admm.data.anything import DataLike, as_dataset
from onnx_admm.limits import RunLimits, run_within
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.metrics import MetricLike
from onnx_admm.model.writing.in_memory import ModelLike, model_file, read_proto
from onnx_admm.report import Comparison, CostFacts, ModelFacts
from onnx_admm.settings.argument_types import texts, typed

__all__ = ["Compressed", "annotate", "compare", "compress", "costs", "inspect", "sweep"]

PathLike = str | os.PathLike[str]


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
    weights_only: bool = False,
    cost_model: str | None = None,
    bind: Mapping[str, int] | None = None,
    max_drop: float | None = None,
    keep: bool = False,
    report: PathLike | None = None,
    resume: PathLike | None = None,
    seed: int = 0,
    threads: int = 0,
    memory_mb: int = 1024,
    executor: Executor | None = None,
    progress: Progress | None = None,
    max_memory_mb: int | None = None,
    timeout_s: float | None = None,
) -> Compressed:
    """Make a trained model smaller; stock ONNX Runtime runs the result.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or the bytes of a model file. Never changed.
        target: the file to write; None returns the model as ``result.model``.
        data: samples to train or calibrate on; labels are used where there are some, else the original is
            the teacher. A path, arrays by input name, an array, an iterable or loader, a
            CalibrationDataReader: see `onnx_admm.data.anything.as_dataset`.
        validation: samples for decisions; None sets a tenth of ``data`` aside.
        test: samples read once, at the end, for the report.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: metric in place of accuracy in ``max_drop``, budgets, the choice of epochs and the
            report: a callable ``(outputs, labels) -> float``, higher is better; or the name of a built-in
            one, such as ``"miou"`` or ``"top-5"``; see `onnx_admm.metrics.as_metric`.
        recipe: a recipe or the path of one, in place of ``prune``, ``bits``, ``format`` and ``epochs``.
        prune: amount of pruning: ``"10x"`` (one in ten stays), ``"0.9"`` (nine tenths go) or
            ``"2:4"``.
        bits: bits of a weight, 1 to 8.
        budget: limits such as ``"latency=0.5x"`` or ``"weights=10x"``; needs ``cost_model``.
        format: storage form of weights; ``auto`` takes the smallest form that is not slower.
        epochs: epochs of each pass that trains; None chooses by the number of samples.
        include: patterns of layer names or operators to work on; empty means all.
        exclude: patterns of layers to leave unchanged.
        fine_tune: train or not; None trains where there is data and something to train for.
        preprocessing: from stored samples to inputs, or the TOML file of it.
        freeze_defaults: whether initializers listed as inputs become constants; None: where nearly all are.
        keep_docs: keep doc strings and exporters' notes, which no runtime reads.
        weights_only: leave activations in float, also where integers would be faster.
        cost_model: cost model of the target, such as ``"onnxruntime"`` or ``"roofline:PROFILE"``.
        bind: extents of open axes for costs, such as ``{"frames": 160}``.
        max_drop: percentage points of accuracy that may be lost on the validation samples.
        keep: write the result even if it misses a promise.
        report: path of the report as JSON.
        resume: folder for the result of each pass, from which a later run continues.
        seed: decides every random choice: same seed, threads and timing cache, same bytes.
        threads: intra-op threads; 0 lets the runtime choose.
        memory_mb: MiB that statistics of layers computed together may take.
        executor: executor of threads for independent layers.
        progress: receives the progress.
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
        >>> from onnx_admm.testing import varied_family
        >>> varied_family()["chain_of_scales"].save("net.onnx")
        23217
        >>> result = onnx_admm.compress("net.onnx", "small.onnx", bits=6, threads=1)
        >>> result
        Compressed(small.onnx: 23,217 to ... bytes, ...x)
        >>> result.report.file_ratio > 5
        True
    """
    request = Compression(
        data=data,
        validation=validation,
        test=test,
        label=typed("label", label, str, type(None)),
        metric=metric,
        recipe=recipe,
        prune=typed("prune", prune, str, type(None)),
        bits=typed("bits", bits, int, type(None)),
        budget=texts("budget", budget),
        format=typed("format", format, str),
        epochs=typed("epochs", epochs, int, type(None)),
        include=texts("include", include),
        exclude=texts("exclude", exclude),
        fine_tune=typed("fine_tune", fine_tune, bool, type(None)),
        preprocessing=preprocessing,
        freeze_defaults=typed("freeze_defaults", freeze_defaults, bool, type(None)),
        keep_docs=typed("keep_docs", keep_docs, bool),
        weights_only=typed("weights_only", weights_only, bool),
        cost_model=typed("cost_model", cost_model, str, type(None)),
        bind=dict(bind or {}),
        max_drop=typed("max_drop", max_drop, float, int, type(None)),
        keep=typed("keep", keep, bool),
        report=report,
        resume=resume,
        seed=typed("seed", seed, int),
        threads=typed("threads", threads, int),
        memory_mb=typed("memory_mb", memory_mb, int),
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
    """Describe a model: operator, shape, parameters, nonzeros, bits, bytes and MACs of every weight.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.

    Raises:
        ModelError: not a model, or not one that is safe to read.

    Example:
        >>> import onnx_admm
        >>> from onnx_admm.testing import model_family
        >>> facts = onnx_admm.inspect(model_family()["conv_net"].to_bytes())
        >>> [(layer.weight, layer.op_type, layer.shape) for layer in facts.layers]
        [('w1', 'Conv', (4, 1, 3, 3)), ('w2', 'Conv', (6, 4, 3, 3)), ('w3', 'Gemm', (3, 24))]
    """
    with TemporaryFolder() as folder:
        return inspect_model(model_file(model, Path(folder)))


def costs(
    model: ModelLike,
    cost_model: CostModel | str,
    *,
    bind: Mapping[str, int] | None = None,
    quantity: str | None = None,
) -> CostFacts:
    """Return the costs of a model under a cost model, and each layer's possible gains.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.
        cost_model: an instance, or a name such as ``"macs"`` or ``"roofline:PROFILE"``.
        bind: extents of open axes, by symbol or place.
        quantity: quantity of ratios and gains; None: the cost model's main one.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: the cost model does not give that quantity.

    Example:
        >>> import onnx_admm
        >>> from onnx_admm.testing import model_family
        >>> net = model_family()["conv_net"].to_bytes()
        >>> found = onnx_admm.costs(net, "macs", bind={"N": 1})
        >>> {row.weight: row.cost.macs for row in found.rows if row.weight}
        {'w1': 2304.0, 'w2': 3456.0, 'w3': 72.0}
    """
    with TemporaryFolder() as folder:
        return inspect_costs(model_file(model, Path(folder)), _cost_model(cost_model), bind, quantity)


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
        after: the model to compare with it, with the same inputs and outputs.
        data: samples, as in `compress`; random inputs if None.
        preprocessing: from stored samples to inputs, or the TOML file of it.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: metric in place of accuracy, as in `compress`; needs ``data``.
        threads: intra-op threads; 0 lets the runtime choose.
        is_classifier: whether floats of the form (n, c) are scores of classes; otherwise the graph tells.
        max_drop: percentage points of accuracy that ``after`` may lose; ``verdict`` says whether it is kept.
        min_ratio: how many times smaller ``after`` must be on disk.
        report: path of the comparison as JSON.
        progress: receives the progress.

    Raises:
        UsageError: the two do not take the same inputs, or a file cannot be read.

    Example:
        >>> import onnx_admm
        >>> from onnx_admm.testing import model_family
        >>> model = model_family()["conv_net"]
        >>> original = model.to_bytes()
        >>> model.replace(model.sites()[0], model.read(model.sites()[0]).round(2))
        >>> found = onnx_admm.compare(original, model.to_bytes(), threads=1, min_ratio=2)
        >>> found.verdict, round(found.file_ratio, 1), found.sqnr_db > 30
        ('missed', 1.0, True)
    """
    with TemporaryFolder() as first, TemporaryFolder() as second:
        return compare_files(
            model_file(before, Path(first), "the original"),
            model_file(after, Path(second), "the model to compare"),
            data,
            preprocessing=preprocessing,
            threads=threads,
            is_classifier=typed("is_classifier", is_classifier, bool),
            max_drop=typed("max_drop", max_drop, float, int, type(None)),
            min_ratio=typed("min_ratio", min_ratio, float, int, type(None)),
            report=report,
            label=typed("label", label, str, type(None)),
            metric=metric,
            progress=progress,
        )


def annotate(
    model: ModelLike, target: PathLike, cost_model: CostModel | str, *, bind: Mapping[str, int] | None = None
) -> CostFacts:
    """Write what each node costs into ``metadata_props`` of a copy, where viewers show it.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.
        target: path of the copy.
        cost_model: an instance, or a name.
        bind: extents of open axes, by symbol or place.

    Raises:
        UsageError: ``target`` is the model itself, or no regular file.
        UnknownExtent: a cost depends on an axis that is left open.

    Example:
        >>> import onnx
        >>> import onnx_admm
        >>> from onnx_admm.testing import model_family
        >>> net = model_family()["conv_net"].to_bytes()
        >>> _ = onnx_admm.annotate(net, "noted.onnx", "macs", bind={"N": 1})
        >>> notes = {note.key: note.value for note in onnx.load("noted.onnx").graph.node[0].metadata_props}
        >>> notes["onnx_admm.macs.macs"], notes["onnx_admm.macs.option"]
        ('2304', 'density 1, 32 bits, unstructured')
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
    quantity: str | None = None,
    bind: Mapping[str, int] | None = None,
    shares: Sequence[float] = SHARES,
    plot: PathLike | None = None,
    seed: int = 0,
    threads: int = 0,
) -> Swept:
    """Compress under several budgets, and write the frontier of cost and accuracy.

    Args:
        model: a path, ``onnx.ModelProto``, ``onnx_ir.Model`` or bytes.
        folder: folder of the files and ``sweep.csv``.
        cost_model: cost model of the budgets, such as ``"macs"``.
        data: samples, as in `compress`.
        validation: samples for decisions.
        test: samples for the table.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: metric in place of accuracy, as in `compress`.
        quantity: the quantity that budgets limit; None: the cost model's main one.
        bind: extents of open axes for costs, such as ``{"N": 1}``.
        shares: budgets as shares of what the original costs, each over 0 and below 1.
        plot: a ``.png`` or ``.svg`` file to draw the frontier into.
        seed: decides every random choice.
        threads: intra-op threads; 0 lets the runtime choose.

    Raises:
        UsageError: a quantity that the cost model does not give, an impossible share, nothing to plot with.
        PromiseMissed: no file could be written.

    Example:
        >>> import onnx_admm
        >>> from onnx_admm.testing import model_family
        >>> net = model_family()["mlp_both_ways"].to_bytes()
        >>> found = onnx_admm.sweep(
        ...     net, "results", cost_model="macs", bind={"N": 1}, shares=[0.8], threads=1
        ... )
        >>> [(point.file, point.reached <= 0.8) for point in found.points]
        [('model-macs-0.8x.onnx', True)]
    """
    job = Compression(
        data=data,
        validation=validation,
        test=test,
        label=typed("label", label, str, type(None)),
        metric=metric,
        cost_model=cost_model,
        bind=dict(bind or {}),
        seed=seed,
        threads=threads,
    )
    with TemporaryFolder() as place:
        source = model_file(model, Path(place))
        job = replace(
            job,
            data=_kept(data, source, label),
            validation=_kept(validation, source, label),
            test=_kept(test, source, label),
        )
        return Sweep(job=job, quantity=quantity, shares=shares, plot=plot).run(source, folder)


def _kept(data: DataLike | None, model: Path, label: str | None) -> DataLike | None:
    """Return samples that can be read again by each of several runs."""
    if data is None or isinstance(data, str | os.PathLike):
        return data
    return as_dataset(data, ModelView.load(model), label=label)


def _cost_model(given: CostModel | str) -> CostModel:
    return find_cost_model(given) if isinstance(given, str) else given
