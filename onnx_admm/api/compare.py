"""Comparison of two model files: a gate for continuous integration."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from onnx_admm.api.files.run_files import RunFiles
from onnx_admm.api.kernel_rows import kernel_rows
from onnx_admm.api.measure import SYNTHETIC, Measurement, made_up
from onnx_admm.contracts import Dataset, ModelView, Progress, SilentProgress
from onnx_admm.data import Preprocessing, as_preprocessing
from onnx_admm.data.anything import DataLike, as_dataset
from onnx_admm.data.samples import one_at_a_time
from onnx_admm.errors import UsageError
from onnx_admm.limits import in_a_run
from onnx_admm.metrics import MetricLike, scored_by
from onnx_admm.model.writing.atomic_output import write_text
from onnx_admm.report import Comparison
from onnx_admm.report.gate import Gate
from onnx_admm.runtime.children.probe import runs_together
from onnx_admm.settings.ranges import MOST_THREADS, check_number


@in_a_run
def compare(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    data: DataLike | None = None,
    *,
    preprocessing: Preprocessing | str | os.PathLike[str] | None = None,
    threads: int = 0,
    is_classifier: bool = False,
    label: str | None = None,
    metric: MetricLike | None = None,
    max_drop: float | None = None,
    min_ratio: float | None = None,
    kernels: bool = False,
    report: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure sizes, accuracy or output error, and latency (interleaved) of two models.

    Args:
        before: the original.
        after: the model to compare with it, with the same inputs and outputs.
        data: samples (or their path); random inputs if None.
        preprocessing: from stored samples to inputs, or its TOML file.
        threads: intra-op threads; 0 lets the runtime choose.
        is_classifier: whether floats of the form (n, c) are scores of classes; otherwise the graph, a name or
            labels decide.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: metric in place of accuracy; needs ``data``.
        max_drop: percentage points of accuracy that ``after`` may lose: a promise of the comparison.
        min_ratio: how many times smaller ``after`` must be on disk: a promise too.
        kernels: list the runtime's kernels of each layer in both models, with their times.
        report: path of the comparison as JSON.
        progress: receives the progress.

    Raises:
        UsageError: the two do not take the same inputs, or a file cannot be read.
        WorkError: a file changed meanwhile.

    Example:
        >>> from onnx_admm.api import compare
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> compare("net.onnx", "net.onnx", threads=1).file_ratio
        1.0
    """
    if metric is not None and data is None:
        raise UsageError("no samples to measure on", where="--metric", hint="Give --data.")
    files = RunFiles()
    files.read_model(before, "the original")
    files.read_model(after, "the model to compare")
    files.read_data(data, "the data")
    files.read(preprocessing, "the preprocessing")
    files.write(report, "the report")
    files.check()
    check_number(max_drop, 0, 100, "--max-drop")
    check_number(min_ratio, 0, 1e9, "--min-ratio")
    settings = None if preprocessing is None else as_preprocessing(preprocessing)
    check_number(threads, 0, MOST_THREADS, "--threads")
    first, second = ModelView.load(before).signature(), ModelView.load(after).signature()
    for kind, left, right in (
        ("inputs", first.inputs, second.inputs),
        ("outputs", first.outputs, second.outputs),
    ):
        if [port.name for port in left] != [port.name for port in right]:
            raise UsageError(
                f"the two models do not have the same {kind}",
                where=os.fspath(after),
                got=", ".join(port.name for port in right),
                expected=", ".join(port.name for port in left),
            )
    model, other = ModelView.load(before), ModelView.load(after)
    if data is None:
        samples: dict[str, Dataset] = {SYNTHETIC: made_up(model, 0)}
    else:
        samples = {"data": as_dataset(data, model, preprocessing=settings, part="test", label=label)}
    together = [runs_together(view, next(iter(samples.values()))) for view in (model, other)]
    if not all(together):
        samples = {name: one_at_a_time(each) for name, each in samples.items()}
    measurement = Measurement(
        samples={name: scored_by(each, metric) for name, each in samples.items()},
        threads=threads,
        progress=progress or SilentProgress(),
        is_classifier=is_classifier or max_drop is not None,
    )
    with files.blamed():
        found = measurement.compare(Path(before), Path(after))
    if kernels:
        first_set = next(iter(samples.values()))
        found = replace(found, kernels=kernel_rows(model, other, first_set, threads or 1))
    files.raise_if_changed()
    found = replace(found, promises=Gate(max_drop=max_drop, min_ratio=min_ratio).judge(found))
    if report is not None:
        write_text(report, found.to_json())
    return found
