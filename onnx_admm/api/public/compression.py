"""`compress`: a smaller model from a model, with typed arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from onnx_admm.api.compress import Compression
from onnx_admm.api.compressed import Compressed
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Progress, SilentProgress
from onnx_admm.data import Preprocessing
from onnx_admm.data.anything import DataLike
from onnx_admm.limits import RunLimits, run_within
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.metrics import MetricLike
from onnx_admm.model.writing.in_memory import ModelLike, model_file, read_proto
from onnx_admm.settings.argument_types import texts, typed

PathLike = str | os.PathLike[str]


def compress(
    model: ModelLike,
    target: PathLike | None = None,
    *,
    data: DataLike | None = None,
    teacher: ModelLike | None = None,
    validation: DataLike | None = None,
    test: DataLike | None = None,
    label: str | None = None,
    metric: MetricLike | None = None,
    recipe: Recipe | PathLike | None = None,
    remove: str | None = None,
    prune: str | None = None,
    bits: int | None = None,
    budget: Sequence[str] = (),
    format: Literal["auto", "dense", "qdq", "sparse", "packed"] = "auto",
    epochs: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    layers: Mapping[str, Any] | None = None,
    fine_tune: bool | None = None,
    preprocessing: Preprocessing | PathLike | None = None,
    freeze_defaults: bool | None = None,
    keep_docs: bool = False,
    weights_only: bool = False,
    cost_model: str | None = None,
    bind: Mapping[str, int] | None = None,
    min_runtime: str | None = None,
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
        target: the file to write; None returns the model as ``result.model``.
        data: samples to train or calibrate on; labels are used where there are some, else the original is
            the teacher. A path, arrays by input name, an array, an iterable or loader, a
            CalibrationDataReader: see `onnx_admm.data.anything.as_dataset`.
        teacher: model whose outputs training learns, where ``model`` was made smaller before.
        validation: samples for decisions; None sets a tenth of ``data`` aside.
        test: samples read once, at the end, for the report.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: metric in place of accuracy in ``max_drop``, budgets, the choice of epochs and the
            report: a callable ``(outputs, labels) -> float``, higher is better; or the name of a built-in
            one, such as ``"miou"`` or ``"top-5"``; see `onnx_admm.metrics.as_metric`.
        recipe: a recipe or the path of one, in place of ``remove``, ``prune``, ``bits`` and others.
        remove: share of the multiply-accumulates that may be left when channels are removed: ``"0.5x"``, or
            of another quantity: ``"latency=0.5x"``, which needs ``cost_model``.
        prune: amount of pruning: ``"10x"`` (one in ten stays), ``"0.9"`` (nine tenths go) or
            ``"2:4"``.
        bits: bits of a weight, 1 to 8.
        budget: limits such as ``"latency=0.5x"`` or ``"weights=10x"``; needs ``cost_model``.
        format: storage form of weights; ``auto`` takes the smallest form that is not slower.
        epochs: epochs of each pass that trains; None chooses by the number of samples.
        include: patterns of layer names or operators to work on; empty means all.
        exclude: patterns of layers to leave unchanged.
        layers: form of single layers by pattern, as in a recipe: ``{"head*": {"bits": 8}, "stem": "float"}``;
            all passes then leave them.
        fine_tune: train or not; None trains where there is data and something to train for.
        preprocessing: from stored samples to inputs, or the TOML file of it.
        freeze_defaults: whether initializers listed as inputs become constants; None: where nearly all are.
        keep_docs: keep doc strings and exporters' notes, which no runtime reads.
        weights_only: leave activations in float, also where integers would be faster.
        cost_model: cost model of the target, such as ``"onnxruntime"`` or ``"roofline:PROFILE"``.
        bind: extents of open axes for costs, such as ``{"frames": 160}``.
        min_runtime: oldest ONNX Runtime that must load the result, such as ``"1.17"``: no newer form is
            written.
        max_drop: percentage points of accuracy that may be lost on the validation samples.
        keep: write the result even if it misses a promise.
        report: path of the report as JSON.
        resume: folder for the result of each pass, from which a later run continues.
        seed: decides every random choice: same seed, threads and timing cache, same bytes.
        threads: intra-op threads; 0 lets the runtime choose.
        trainer: ``"graph"`` (any ONNX Runtime), ``"onnxruntime-training"`` or ``"auto"``: the former.
        memory_mb: MiB that statistics of layers computed together, and one run of training, may take.
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
        remove=typed("remove", remove, str, type(None)),
        prune=typed("prune", prune, str, type(None)),
        bits=typed("bits", bits, int, type(None)),
        budget=texts("budget", budget),
        format=typed("format", format, str),
        epochs=typed("epochs", epochs, int, type(None)),
        include=texts("include", include),
        exclude=texts("exclude", exclude),
        layers=dict(layers or {}),
        fine_tune=typed("fine_tune", fine_tune, bool, type(None)),
        preprocessing=preprocessing,
        freeze_defaults=typed("freeze_defaults", freeze_defaults, bool, type(None)),
        keep_docs=typed("keep_docs", keep_docs, bool),
        weights_only=typed("weights_only", weights_only, bool),
        cost_model=typed("cost_model", cost_model, str, type(None)),
        bind=dict(bind or {}),
        min_runtime=typed("min_runtime", min_runtime, str, type(None)),
        max_drop=typed("max_drop", max_drop, float, int, type(None)),
        keep=typed("keep", keep, bool),
        report=report,
        resume=resume,
        seed=typed("seed", seed, int),
        threads=typed("threads", threads, int),
        trainer=typed("trainer", trainer, str, type(None)),
        memory_mb=typed("memory_mb", memory_mb, int),
        executor=executor,
        progress=progress or SilentProgress(),
    )
    stated = max_memory_mb is not None or timeout_s is not None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryFolder()))
        source = model_file(model, folder)
        if teacher is not None:
            beside = folder / "teacher"
            beside.mkdir()
            request = replace(request, teacher=model_file(teacher, beside, "the teacher"))
        written = folder / "result.onnx" if target is None else Path(target)
        with run_within(RunLimits(max_memory_mb, timeout_s) if stated else None):
            found = request.run(source, written)
        found.raise_if_missed()
        if target is not None:
            return Compressed(found, written)
        return Compressed(found, model=read_proto(written))
