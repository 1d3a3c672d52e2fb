"""Which kernels the installed runtime makes of each layer, and what they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx_admm.contracts import Array, ModelView
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.runtime_kernels import kernels_of, trace
from onnx_admm.runtime.sessions import optimised_model
from onnx_admm.runtime.timing import every_value
from onnx_admm.runtime.timing_cache import kernel_timings

ELSEWHERE = ""
"""Name that the kernels of nodes without a weight are listed under."""


_NO_ARRAYS = "an operator on sequences"


@dataclass(frozen=True)
class LayerKernels:
    """The kernels of one layer.

    Attributes:
        op_types: their operators, in order, each once.
        seconds: of one run; None where one of them does not run alone.
    """

    op_types: tuple[str, ...]
    seconds: float | None


def layer_kernels(view: ModelView, feeds: Mapping[str, Array], threads: int = 1) -> dict[str, LayerKernels]:
    """Return the kernels by the name of the layer's weight, in the order of the graph.

    A kernel counts for the last layer that it computes; one without any, such as a pool between two layers,
    is listed under ``ELSEWHERE``. Kernels are timed alone, with the shapes and values that they have here,
    and their times are kept in the timing cache.

    Args:
        view: the model.
        feeds: samples as in a ``Batch``.
        threads: intra-op threads.

    Raises:
        OnnxAdmmError: the runtime does not run the model.
    """
    traced = trace(view)
    optimised = optimised_model(traced.model)
    kernels = kernels_of(optimised, every_value(optimised, feeds))
    names = {(row.scope, row.node): row.weight for row in node_profiles(view, {}) if row.weight}
    found: dict[str, list[tuple[str, float | None]]] = {name: [] for name in names.values()}
    owners = traced.owners(optimised, frozenset(names))
    for kernel, owner, timing in zip(kernels, owners, kernel_timings(kernels, threads), strict=True):
        name = ELSEWHERE if owner is None else names.get(owner, ELSEWHERE)
        op_type = _NO_ARRAYS if kernel is None else kernel.op_type
        found.setdefault(name, []).append((op_type, None if timing is None else timing.seconds))
    return {name: _together(rows) for name, rows in found.items()}


def _together(rows: Sequence[tuple[str, float | None]]) -> LayerKernels:
    seconds = [each for _, each in rows if each is not None]
    op_types = tuple(dict.fromkeys(op_type for op_type, _ in rows))
    return LayerKernels(op_types, sum(seconds) if len(seconds) == len(rows) else None)
