"""Which kernels the installed runtime makes of each layer, and what they take.

``layer_kernels`` times each kernel alone. ``profile_nodes`` takes the times of all kernels from a few runs of
the whole model, by the runtime's own profiler: less exact for one kernel (microseconds, wall clock), and far
cheaper for a model of hundreds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_admm.contracts import Array, ModelView
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.runtime_kernels import Place, kernel_names, kernels_of, trace, without_layout
from onnx_admm.runtime.feeding import feed_at
from onnx_admm.runtime.sessions import open_profiled, optimised_model
from onnx_admm.runtime.timing import every_value
from onnx_admm.runtime.timing_cache import kernel_timings

ELSEWHERE = ""
"""Name that the kernels of nodes without a weight are listed under."""


_NO_ARRAYS = "an operator on sequences"

_LEAST_RUNS, _MOST_RUNS, _PROFILE_NS = 4, 30, 5e8
"""Profiled runs, and the time after which no further one begins."""

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
TOTAL = "total"
"""Name that the time of all kernels together is listed under."""


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
    rows = node_profiles(view, {}, reads_weights=False)
    names = {(row.scope, row.node): row.weight for row in rows if row.weight}
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


def profile_nodes(
    view: ModelView, feeds: Mapping[str, Array], first: Collection[str], others: Collection[str]
) -> dict[str, float]:
    """Return the seconds of the kernels of each node, the least over a few runs of the whole model.

    A kernel that computes several nodes counts for one of ``first``, else for one of ``others``; what
    converts between floats and integers counts for neither, and is listed by operator under ``CONVERSIONS``.

    Args:
        view: the model.
        feeds: samples as in a ``Batch``; those of one run are used.
        first: names of nodes of the main graph.
        others: names of further ones.

    Returns:
        Seconds by node, 0 for one without a kernel; by operator of ``CONVERSIONS``; and the ``TOTAL``.

    Raises:
        OnnxAdmmError: the runtime does not run the model.
    """
    traced = trace(view)
    optimised = optimised_model(traced.model)
    kernels, seconds = kernel_names(optimised), _profile(optimised, feeds)
    preferred, listed = _places(first), _places(first) | _places(others)
    by_first, by_any = traced.owners(optimised, preferred), traced.owners(optimised, listed)
    places = frozenset(traced.places)
    found = dict.fromkeys((*first, *others, *CONVERSIONS, TOTAL), 0.0)
    for number, (name, op_type) in enumerate(kernels):
        named = ("", without_layout(name))
        traced_to = by_first[number] if by_first[number] in preferred else by_any[number]
        owner = named if named in places else traced_to
        found[TOTAL] += seconds[number]
        if op_type in CONVERSIONS:
            found[op_type] += seconds[number]
        elif owner is not None and owner in listed:
            found[owner[1]] += seconds[number]
    return found


def _places(names: Collection[str]) -> frozenset[Place]:
    return frozenset(("", name) for name in names)


def _profile(optimised: bytes, feeds: Mapping[str, Array]) -> list[float]:
    """Return the least seconds of each kernel, in the order of the graph; 0 for one that did not run."""
    with TemporaryFolder() as folder:
        session = open_profiled(optimised, os.path.join(folder, "profile"))
        feed = feed_at(session, feeds)
        started, runs = time.perf_counter_ns(), 0
        while runs < _LEAST_RUNS or (runs < _MOST_RUNS and time.perf_counter_ns() - started < _PROFILE_NS):
            session.run(feed)
            runs += 1
        events = json.loads(Path(session.end_profile()).read_text(encoding="utf-8"))
    names = {
        (index, f"{name or f'{op_type}_{index}'}_kernel_time"): index
        for index, (name, op_type) in enumerate(kernel_names(optimised))
    }
    least: dict[int, float] = {}
    for event in events:
        number = event.get("args", {}).get("node_index")
        index = None if number is None else names.get((int(number), str(event["name"])))
        if index is not None:
            least[index] = min(least.get(index, float("inf")), float(event["dur"]) / 1e6)
    return [least.get(index, 0.0) for index in range(len(names))]
