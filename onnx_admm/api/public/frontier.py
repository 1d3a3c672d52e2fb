"""`sweep`: a model for each of several budgets, with typed arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnx_admm.api.compress import Compression
from onnx_admm.api.sweep import SHARES, Sweep, Swept
from onnx_admm.contracts import ModelView
from onnx_admm.data.anything import DataLike, as_dataset
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.metrics import MetricLike
from onnx_admm.model.writing.in_memory import ModelLike, model_file
from onnx_admm.settings.argument_types import typed

PathLike = str | os.PathLike[str]


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
    trainer: str | None = None,
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
        trainer: what trains, as in `compress`.

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
        trainer=typed("trainer", trainer, str, type(None)),
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
