"""Metrics from users' notation: a name, ``module:function``, or a callable."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from onnx_admm.contracts import Dataset
from onnx_admm.contracts.metrics import Metric, MetricState, ScoredDataset
from onnx_admm.errors import STOPS, DataError, UsageError
from onnx_admm.metrics.classes import LogLikelihood, MeanIoU, TopK
from onnx_admm.metrics.outputs import Cosine, RelativeFidelity
from onnx_admm.metrics.own import own_metric

MetricLike: TypeAlias = Metric | str | Callable[..., Any]
"""Types that `as_metric` accepts."""

BUILT_IN = {
    "top-1": "share of labels with the highest score; top-5: among the 5 highest, and so on",
    "miou": "mean intersection over union of the classes of pixels",
    "log-likelihood": "mean log-likelihood of the labels in nats; perplexity is exp(-value)",
    "cosine": "mean cosine of the first output with the original's; needs no labels",
    "sqnr": "1 - 10^(-SQNR / 20) of the outputs with the original's; 40 dB lose 1 point; needs no labels",
}
"""Built-in metrics by name, with a description."""

_TOP = re.compile(r"top-?([1-9]\d{0,5})$")
_STATES: dict[str, Callable[[], MetricState]] = {
    "miou": MeanIoU,
    "log-likelihood": LogLikelihood,
    "cosine": Cosine,
    "sqnr": RelativeFidelity,
}
_NEED_LABELS = {"miou", "log-likelihood"}


def as_metric(given: MetricLike) -> Metric:
    """Return a metric.

    Args:
        given: a name of ``BUILT_IN``; the user's ``module:function``, found in the current folder too; a
            callable ``(outputs, labels) -> float``, or a class with ``update(outputs, labels)`` and
            ``compute()``. Higher is better.

    Raises:
        UsageError: no such metric, or a module that cannot be imported.
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        return _named(given)
    if callable(given):
        name = getattr(given, "__name__", type(given).__name__)
        return own_metric(given, "metric" if name == "<lambda>" else name)
    raise UsageError(
        "not a metric", where="metric", got=repr(given), expected="a name or a callable(outputs, labels)"
    )


def scored_by(data: Dataset, given: MetricLike | None) -> Dataset:
    """Return a dataset that is judged by a metric; the dataset itself where none is given.

    Raises:
        UsageError: see `as_metric`.
        DataError: a metric that needs labels, and data without.
    """
    if given is None:
        return data
    metric = as_metric(given)
    if metric.needs_labels and not data.has_labels:
        raise DataError(
            "the metric needs labels, and the data has none",
            where=f"--metric {metric.name}",
            hint="Name another array of labels with --label, or take cosine or sqnr, which need none.",
        )
    return ScoredDataset(data, metric)


def _named(name: str) -> Metric:
    if (top := _TOP.match(name)) is not None:
        return Metric(f"top-{int(top[1])}", lambda: TopK(int(top[1])), needs_labels=True)
    if name in _STATES:
        return Metric(name, _STATES[name], needs_labels=name in _NEED_LABELS)
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise UsageError(
            "no such metric",
            where="--metric",
            got=name,
            expected=f"one of {', '.join(BUILT_IN)}, or module:function",
        )
    with _current_folder():
        found = _imported(module, name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError("the module has no such function", where=f"--metric {name}", got=part)
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(
            "not a metric", where=f"--metric {name}", got=type(found).__name__, expected="a callable"
        )
    return own_metric(found, attribute)


def _imported(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except STOPS:
        raise
    except BaseException as error:
        fault = f"{type(error).__name__}{': ' if str(error) else ''}{error}"
        raise UsageError("the module cannot be imported", where=f"--metric {name}", got=fault) from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Add the current folder to the module path, as ``python -m`` does."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
