"""Times of kernels without a clock, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import Feeds
from onnx_admm.cost_models import onnxruntime as cost_model_module
from onnx_admm.model.analysis.runtime_kernels import Kernel
from onnx_admm.runtime import timing_cache
from onnx_admm.runtime.timing import KernelTime

CALL, SWITCH = KernelTime(5e-6, 0.0), KernelTime(1e-7, 0.0)
BLOCK = 16


class MadeUpTimes:
    """A nanosecond for each element of the constants and inputs, widths counted in blocks of 16.

    Attributes:
        asked: kernels that were to be timed, in order.
    """

    def __init__(self) -> None:
        self.asked: list[Kernel] = []

    def time_kernels(self, kernels: Sequence[Kernel], threads: int) -> list[KernelTime | None]:
        self.asked += kernels
        return [self.of(kernel) for kernel in kernels]

    def of(self, kernel: Kernel) -> KernelTime | None:
        shapes = [*constant_shapes(kernel), *(array.shape for array in kernel.feeds.values())]
        sizes = (np.prod([-(-extent // BLOCK) * BLOCK for extent in shape]) for shape in shapes)
        return KernelTime(1e-9 * float(sum(sizes)), 0.02)

    def time_call(self, inputs: Feeds, outputs: Feeds, threads: int) -> KernelTime:
        return CALL

    def time_switch(self, threads: int) -> KernelTime:
        return SWITCH


def constant_shapes(kernel: Kernel) -> list[tuple[int, ...]]:
    """Shapes of the constants a kernel reads."""
    model, _ = kernel.copies(1)
    return [tuple(tensor.dims) for tensor in onnx.ModelProto.FromString(model).graph.initializer]


def forget(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, whose caches lie in ``folder``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(timing_cache, "_MEMORY", {})
    monkeypatch.setattr(cost_model_module, "_alone", {})


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[MadeUpTimes]:
    """Have kernels timed so, and keep what comes out of it in ``folder``."""
    forget(folder, monkeypatch)
    times = MadeUpTimes()
    for name in ("time_kernels", "time_call", "time_switch"):
        monkeypatch.setattr(timing_cache, name, getattr(times, name))
    yield times


def shapes_asked(times: MadeUpTimes) -> Mapping[str, list[tuple[int, ...]]]:
    """Shapes of constants of what was timed, by operator."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for kernel in times.asked:
        found.setdefault(kernel.op_type, []).extend(constant_shapes(kernel))
    return found
