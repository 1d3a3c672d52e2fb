"""Opening the graphs of a step in the installed ONNX Runtime."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.errors import NoGradient, OnnxAdmmError, reason_of
from onnx_admm.limits import return_freed
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.installed import runtime_errors
from onnx_admm.runtime.sessions import open_session, require_runtime

_SILENT = 4
_NEWEST, _OLDEST = 40, 13
_PROBE = (
    '<ir_version: 8, opset_import: ["" : {opset}]> probe (float[1] x) => (float[1] y) {{ y = Identity (x) }}'
)


def open_step(model: bytes, threads: int) -> OpenStep:
    """Open a serialised graph; the same threads give the same bytes in every run.

    Raises:
        NoGradient: the runtime has no kernel for it.
    """
    runtime = require_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # gradients are those of floats
    if _has_shared_arena():
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        return OpenStep(runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
    except Exception as error:
        raise _failed(error) from error


@functools.cache
def _has_shared_arena() -> bool:
    """Return whether sessions of steps share one arena: they run in turn, so one is enough."""
    runtime = require_runtime()
    arena, default = runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, runtime.OrtMemType.DEFAULT
    try:
        runtime.create_and_register_allocator(runtime.OrtMemoryInfo("Cpu", arena, 0, default), None)
    except RuntimeError:  # another user of the runtime in this process has registered one
        return False
    return True


class OpenStep:
    """One graph of a step, open in the runtime.

    The first run allocates value by value; the second, once for all of them. Without a release between, the
    arena keeps both.
    """

    def __init__(self, session: Any) -> None:
        self._session, self._has_run = session, False

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(port.name for port in self._session.get_inputs())

    def binding(self) -> Any:
        """Return a new binding of inputs and outputs."""
        return self._session.io_binding()

    def run(self, binding: Any, *, is_last: bool) -> None:
        """Run with bound inputs and outputs.

        Args:
            binding: from ``binding``.
            is_last: whether the arena's memory is released after the run.

        Raises:
            NoGradient: a kernel failed.
        """
        options, is_first = None, not self._has_run
        if is_last or is_first:
            options = require_runtime().RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._has_run = True
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            raise _failed(error) from error
        if is_first:
            return_freed()


def _failed(error: Exception) -> NoGradient:
    said = " ".join(reason_of(error).split())[:300]
    return NoGradient(
        f"the runtime cannot run the gradients of this model ({said})", hint="Use --no-fine-tune."
    )


def run_once(model: bytes, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[object]:
    """Run a model once, without optimisation: values by name of output, in their order."""
    session = open_session(model, threads=1, optimize=False)
    found = session.run({name: feeds[name] for name in session.input_names}, outputs)
    return [found[name] for name in outputs]


@functools.cache
def newest_opset() -> int:
    """Return the newest version of the default operator set that the installed runtime and onnx read.

    Raises:
        RuntimeMissing: no runtime, or two.
    """
    runtime = require_runtime()
    failures: tuple[type[Exception], ...] = (OnnxAdmmError, *runtime_errors())
    for opset in range(_NEWEST, _OLDEST, -1):
        try:
            model = parse_text(_PROBE.format(opset=opset)).to_bytes()
            runtime.InferenceSession(model, _quiet(), providers=["CPUExecutionProvider"])
        except failures:
            continue
        return opset
    return _OLDEST


def _quiet() -> Any:
    options = require_runtime().SessionOptions()
    options.log_severity_level = _SILENT
    return options


def value_of(array: Array) -> Any:
    """Return an OrtValue that holds a copy of an array."""
    return require_runtime().OrtValue.ortvalue_from_numpy(np.array(array, order="C"))
