"""Opens and runs a model in the installed ONNX Runtime."""

from __future__ import annotations

import contextlib
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx_admm.contracts import Array, Feeds
from onnx_admm.errors import DataError, ModelError, OnnxAdmmError, OutputError, UnsupportedModel, WorkError
from onnx_admm.limits import MUCH_BYTES, collect_garbage, current_budget, interruptible, return_freed
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.shapes import forget_shapes
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.model.rewrite.comparing.fixed_draws import with_fixed_draws
from onnx_admm.model.rewrite.lower_ir_version import lower_ir_version
from onnx_admm.runtime.installed import (
    installed_runtimes,
    require_runtime,
    require_training,
    runtime_errors,
    runtime_versions,
)

ModelSource = ModelView | bytes | str | os.PathLike[str]

_LARGE_BYTES = 1 << 22
_SILENT = 4  # errors that the runtime logs are also raised
_IR_LIMIT = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET_LIMIT = re.compile(r"Opset (\d+) is under development.* till opset (\d+)", re.DOTALL)
_UNKNOWN_OPERATOR = ("is not a registered function/op", "No Op registered for", "NOT_IMPLEMENTED")
_REUSE_FAILED = "attempting to re-use buffer"


@dataclass(frozen=True, slots=True)
class _Options:
    threads: int
    optimize: bool
    keeps_arena: bool = True
    save_as: str = ""
    spins: bool = True
    profile_as: str = ""


class Session:
    """One model, open in ONNX Runtime on the CPU, deterministic.

    Args:
        source: a serialised model, or the path of one.
        options: how to open it.
        again: returns the model again where the source is a file that is removed once it has been read.
    """

    def __init__(
        self, source: bytes | str, options: _Options, again: Callable[[], bytes] | None = None
    ) -> None:
        self._again: Callable[[], bytes | str] = (lambda: source) if again is None else again
        self._options = options
        self._forgot_shapes = False
        named = isinstance(source, str) and again is None
        self._session = _open(source, options, where=str(source) if named else None)
        ports = self._session.get_outputs()
        self._outputs = [port.name for port in ports if port.type.startswith("tensor")]
        if not self._outputs and not any("map(" in port.type for port in ports):
            raise _without_tensors(ports)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs that must be fed, in order."""
        return tuple(port.name for port in self._session.get_inputs())

    @property
    def input_shapes(self) -> dict[str, tuple[int | str | None, ...]]:
        """Shape by input name; a symbolic dimension is a string or None. A scalar's is ``()``."""
        return {port.name: tuple(port.shape) for port in self._session.get_inputs()}

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs that are tensors, in order; sequences and maps are left out.

        Raises:
            UnsupportedModel: there is none, so nothing can be compared.
        """
        if not self._outputs:
            raise _without_tensors(self._session.get_outputs())
        return tuple(self._outputs)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Feeds:
        """Run the model once; return arrays by output name.

        Args:
            feeds: one array per input name, dtype and shape as the model states them.
            outputs: names of the outputs to return; all tensors by default.

        Raises:
            DataError: a feed the model does not take.
            WorkError: an operator failed.
            LimitReached: a limit of the current run is reached.
        """
        names = list(self._outputs if outputs is None else outputs)
        try:
            arrays = self._run(names, dict(feeds))
        except runtime_errors() as error:
            current_budget().check()
            if _REUSE_FAILED not in str(error) or self._forgot_shapes:
                raise _run_error(error) from error
            # Stored shapes that are wrong make the runtime share buffers of unequal size. Without reuse it
            # would run, but choose kernels by those shapes all the same, and compute something else.
            self._forgot_shapes = True
            self._session = _open(_without_shapes(self._again()), self._options)
            return self.run(feeds, outputs)
        return dict(zip(names, arrays, strict=bool(names)))

    def end_profile(self) -> str:
        """Return the path of the profile of all runs so far, which ends; see ``open_profiled``."""
        return str(self._session.end_profiling())

    def _run(self, names: list[str], feeds: Feeds) -> Any:
        """Run the model; a limit of the current run that is reached ends it after the present operator."""
        settings = require_runtime().RunOptions()
        with interruptible(lambda: setattr(settings, "terminate", True)):
            return self._session.run(names or None, feeds, settings)


def open_session(
    model: ModelSource,
    *,
    threads: int = 0,
    optimize: bool = True,
    keeps_arena: bool = True,
    spins: bool = True,
) -> Session:
    """Open a model on the CPU provider.

    A model whose IR version or opset is too new for the runtime is opened from a copy lowered to the newest
    one it reads, where there is such a copy. Where the runtime fails because shapes stored in the model are
    wrong, it is opened again without them.

    Random operators of a view give the same numbers in every run (``model.fixed_draws``); a file runs
    unchanged.

    Args:
        model: a view, a serialised model, or a file (with its external data).
        threads: intra-op threads; 0 lets the runtime choose.
        optimize: all graph optimisations, or none.
        keeps_arena: keep the memory of a run for the next one. Without, runs take up to a fifth longer, and
            several open sessions far less memory.
        spins: let idle threads wait busily for work. Two sessions that both do so and are used in turn slow
            one another down.

    Raises:
        RuntimeMissing: no runtime, or two.
        UnsupportedModel: opset or operator unknown to this runtime.
        ModelError: the runtime refuses the model.
    """
    require_runtime()
    options = _Options(threads, optimize, keeps_arena, spins=spins)
    if isinstance(model, bytes):
        return Session(model, options)
    if isinstance(model, ModelView):
        return _open_view(model, options)
    path = os.path.abspath(model)
    if not os.path.isfile(path):
        raise ModelError("no such model file", where=os.fspath(model))
    return Session(path, options)


def optimised_model(model: bytes) -> bytes:
    """Return the model as the runtime optimises it, with operators of its own.

    Raises:
        OnnxAdmmError: as ``open_session``.
    """
    require_runtime()
    with TemporaryFolder() as folder:
        path = os.path.join(folder, "optimised.onnx")
        Session(model, _Options(threads=1, optimize=True, save_as=path))
        with open(path, "rb") as file:
            return file.read()


def open_profiled(optimised: bytes, prefix: str) -> Session:
    """Open a model as it is, on one thread, with a profile of its runs (Chrome's trace format, JSON).

    Args:
        optimised: from ``optimised_model``.
        prefix: path of the profile without its end.

    Raises:
        OnnxAdmmError: as ``open_session``.
    """
    require_runtime()
    return Session(optimised, _Options(threads=1, optimize=False, profile_as=prefix))


def _serialised(model: ModelView) -> bytes:
    return model.to_bytes(maps=False) if model.has_maps else model.to_bytes()


def _open_view(model: ModelView, options: _Options) -> Session:
    model = with_fixed_draws(model)
    try:
        data = _serialised(model)
        if len(data) < _LARGE_BYTES:
            return Session(data, options)
        fork = model.fork()  # the model may change
        with TemporaryFolder() as folder:  # a session keeps bytes, and not a file, for as long as it is open
            path = os.path.join(folder, "model.onnx")
            try:
                Path(path).write_bytes(data)
            except OSError:  # no room: memory will have to do
                return Session(data, options)
            del data
            return Session(path, options, lambda: _serialised(fork))
    except OutputError:  # over 2 GB: no single message holds it, a file with external data does
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(TemporaryFolder())
            path = os.path.join(folder, "model.onnx")
            model.save(path)
            session = Session(path, options)
            weakref.finalize(session, stack.pop_all().close)
        return session


def _open(source: bytes | str, options: _Options, where: str | None = None) -> Any:
    runtime = require_runtime()
    settings = runtime.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.use_deterministic_compute = True
    settings.enable_cpu_mem_arena = options.keeps_arena
    if not options.spins:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.save_as:
        settings.optimized_model_filepath = options.save_as
    if options.profile_as:
        settings.enable_profiling, settings.profile_file_prefix = True, options.profile_as
    level = runtime.GraphOptimizationLevel
    settings.graph_optimization_level = level.ORT_ENABLE_ALL if options.optimize else level.ORT_DISABLE_ALL
    size = os.path.getsize(source) if isinstance(source, str) else len(source)
    large = size >= _LARGE_BYTES
    try:
        if large:  # the runtime reads it into memory more than once, and lets go of the copies
            (collect_garbage if size >= MUCH_BYTES else return_freed)()
        return _create(runtime, source, settings)
    except runtime_errors() as error:
        raise _load_error(where, error) from error
    finally:
        if large:
            return_freed()


def _create(runtime: ModuleType, source: bytes | str, settings: Any) -> Any:
    """Open the source, or a lowered copy where only its stated versions are too new for the runtime."""
    try:
        return runtime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        lowered = _lowered(source, str(error))
        if lowered is None:
            raise
    return _create(runtime, lowered, settings)


def _without_tensors(ports: Sequence[Any]) -> UnsupportedModel:
    return UnsupportedModel(
        "no output of the model is a tensor, so nothing can be compared",
        got=", ".join(f"{port.name}: {port.type}" for port in ports),
        hint="Export the model with the tensors that they are made of as outputs.",
    )


def _without_shapes(source: bytes | str) -> bytes:
    """Return a copy without inner shapes."""
    view = _view(source).fork()
    forget_shapes(view)
    return view.to_bytes(maps=False)


def _view(source: bytes | str) -> ModelView:
    return ModelView.from_bytes(source) if isinstance(source, bytes) else ModelView.load(source)


def _lowered(source: bytes | str, complaint: str) -> bytes | None:
    """Return a copy at the newest IR version or opset that the complaint allows; None where there is none."""
    if (limit := _IR_LIMIT.search(complaint)) is not None:
        return lower_ir_version(source, int(limit.group(2)))
    if (limit := _OPSET_LIMIT.search(complaint)) is None:
        return None
    view = _view(source)
    try:
        return convert_opset(view, at_most=int(limit.group(2))).to_bytes()
    except UnsupportedModel:
        return None


def _load_error(where: str | None, error: Exception) -> OnnxAdmmError:
    text = str(error)
    limit = _OPSET_LIMIT.search(text)
    if limit is not None:
        return UnsupportedModel(
            "the model's opset is newer than the installed runtime reads",
            where=where,
            got=f"opset {limit.group(1)}",
            expected=f"at most {limit.group(2)} ({_runtime_name()})",
            hint='Install a newer one in another environment: pip install "onnx-admm[runtime]"',
        )
    kind = UnsupportedModel if any(mark in text for mark in _UNKNOWN_OPERATOR) else ModelError
    return kind(f"{_runtime_name()} refuses the model ({_status(text)})", where=where)


def _run_error(error: Exception) -> OnnxAdmmError:
    text = str(error)
    if "INVALID_ARGUMENT" in text or isinstance(error, ValueError):
        return DataError(f"the model does not take these inputs ({_status(text)})")
    return WorkError(f"{_runtime_name()} failed while running the model ({_status(text)})")


def _status(text: str) -> str:
    """Return the runtime's message on one line, without its status code, shortened."""
    message = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(text.split()))
    return message if len(message) <= 400 else f"{message[:397]}..."


def _runtime_name() -> str:
    return " and ".join(f"{name} {version}" for name, version in installed_runtimes().items())


__all__ = [
    "ModelSource",
    "Session",
    "open_profiled",
    "open_session",
    "optimised_model",
    "require_runtime",
    "require_training",
    "runtime_versions",
]
