"""The user's own metric: a function of all outputs, or a class that is updated run by run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from onnx_admm.contracts import Array, Feeds
from onnx_admm.contracts.metrics import Metric
from onnx_admm.errors import STOPS, OnnxAdmmError, UsageError


def own_metric(given: Callable[..., Any], name: str) -> Metric:
    """Return the metric of a user's callable.

    A class with ``update(outputs, labels)`` and ``compute()`` is created for each evaluation and updated run
    by run; any other callable is called once with everything: ``given(outputs, labels)``. ``outputs`` is an
    array for a model with one output, else a dict by name; arrays of all samples, or lists with one array a
    run where outputs of different samples cannot be stacked.
    """
    if isinstance(given, type) and hasattr(given, "update") and hasattr(given, "compute"):
        return Metric(name, lambda: _Fed(given, name))
    return Metric(name, lambda: _Collected(given, name))


class _Fed:
    """A user's object, updated run by run."""

    def __init__(self, kind: type, name: str) -> None:
        self._name = name
        with _user_code(name):
            self._state: Any = kind()

    def update(self, outputs: Feeds, labels: Array | None, reference: Feeds, samples: int) -> None:
        with _user_code(self._name):
            self._state.update(_alone(outputs), labels)

    def compute(self) -> float:
        with _user_code(self._name):
            found = self._state.compute()
        return checked_value(found, self._name)


class _Collected:
    """All arguments of a user's function, collected until the end."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function, self._name = function, name
        self._outputs: dict[str, list[Array]] = {}
        self._labels: list[Array] = []
        self._are_samples = True

    def update(self, outputs: Feeds, labels: Array | None, reference: Feeds, samples: int) -> None:
        for name, array in outputs.items():
            self._outputs.setdefault(name, []).append(array)
        if labels is not None:
            self._labels.append(labels)
        self._are_samples &= all(a.ndim > 0 and len(a) == samples for a in outputs.values())

    def compute(self) -> float:
        outputs = {name: self._stacked(arrays) for name, arrays in self._outputs.items()}
        labels = np.concatenate(self._labels) if self._labels else None
        with _user_code(self._name):
            found = self._function(_alone(outputs), labels)
        return checked_value(found, self._name)

    def _stacked(self, arrays: list[Array]) -> Array | list[Array]:
        shapes = {array.shape[1:] for array in arrays}
        return np.concatenate(arrays) if self._are_samples and len(shapes) == 1 else arrays


def checked_value(found: Any, name: str) -> float:
    """Return the result of a metric as a number.

    Raises:
        UsageError: it is no finite number.
    """
    array = np.asarray(found)
    if array.size != 1 or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise UsageError("the metric returns no number", where=f"--metric {name}", got=repr(found)[:80])
    value = float(array.reshape(()))
    if not math.isfinite(value):
        raise UsageError(
            "the metric returns a number that is not finite", where=f"--metric {name}", got=value
        )
    return value


@contextmanager
def _user_code(name: str) -> Iterator[None]:
    """Turn any exception of a user's metric into an error.

    Raises:
        UsageError: names the metric and the exception.
    """
    try:
        yield
    except (OnnxAdmmError, *STOPS):
        raise
    except BaseException as error:
        fault = f"{type(error).__name__}{': ' if str(error) else ''}{error}"
        raise UsageError(
            "the metric failed",
            where=f"--metric {name}",
            got=fault,
            hint="It is called as metric(outputs, labels). ONNX_ADMM_TRACEBACK=1 shows where it failed.",
        ) from error


def _alone(outputs: Any) -> Any:
    """Return the array of a single output, else the dict."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs
