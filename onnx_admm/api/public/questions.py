"""`inspect`, `costs`, `compare` and `annotate`: questions about models, with typed arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from onnx_admm.api.annotate import annotate as annotate_file
from onnx_admm.api.compare import compare as compare_files
from onnx_admm.api.inspect import inspect_costs, inspect_model
from onnx_admm.config.registry import cost_model as find_cost_model
from onnx_admm.contracts import CostModel, Progress
from onnx_admm.data import Preprocessing
from onnx_admm.data.anything import DataLike
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.metrics import MetricLike
from onnx_admm.model.writing.in_memory import ModelLike, model_file
from onnx_admm.report import Comparison, CostFacts, ModelFacts
from onnx_admm.settings.argument_types import typed

PathLike = str | os.PathLike[str]


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
    kernels: bool = False,
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
        kernels: list the runtime's kernels of each layer in both, with their times.
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
            kernels=typed("kernels", kernels, bool),
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


def _cost_model(given: CostModel | str) -> CostModel:
    return find_cost_model(given) if isinstance(given, str) else given
