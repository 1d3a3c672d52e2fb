"""The installed ONNX Runtime: none, one, or two that overwrite one another."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import Any

from onnx_admm.errors import RuntimeMissing

NO_RUNTIME = (
    'no ONNX Runtime found: pip install "onnx-admm[runtime]" (or, on Python 3.11-3.12 and for '
    '--trainer onnxruntime-training, "onnx-admm[training]")'
)


_FATAL = 4
_quiet = False


def quiet_default_logger() -> None:
    """Stop the runtime's default logger from writing to stderr, in this process, once imported.

    For programs that own their process, such as the command line. Sessions are quiet without it.
    """
    global _quiet
    _quiet = True
    if (runtime := sys.modules.get("onnxruntime")) is not None:
        runtime.set_default_logger_severity(_FATAL)


@functools.cache
def installed_runtimes() -> dict[str, str]:
    """Return the version by name of every distribution that writes into the package folder ``onnxruntime/``.

    Builds for other hardware (``onnxruntime-gpu``, ``-openvino``, ...) are runtimes too.
    """
    names = importlib.metadata.packages_distributions().get("onnxruntime", [])
    return {name: importlib.metadata.version(name) for name in sorted(set(names))}


def require_runtime() -> ModuleType:
    """Return the module ``onnxruntime``, imported on first need.

    Raises:
        RuntimeMissing: no runtime, or more than one in the same folder.
    """
    found = installed_runtimes()
    if not found:
        raise RuntimeMissing(NO_RUNTIME)
    if len(found) > 1:
        names = " and ".join(found)
        raise RuntimeMissing(
            f"{names} are both installed and overwrite one another's files in onnxruntime/",
            hint=f"Repair: pip uninstall -y {' '.join(found)}, then install one of "
            '"onnx-admm[training]" and "onnx-admm[runtime]"',
        )
    return _import(*found)


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the runtime: its status codes are direct children of Exception."""
    require_runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    codes = [item for item in vars(states).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*codes, ValueError, RuntimeError)


def require_training() -> ModuleType:
    """Return the module ``onnxruntime`` of a build that can train.

    Raises:
        RuntimeMissing: as ``require_runtime``, or the runtime is an inference-only one.
    """
    runtime = require_runtime()
    [(name, version)] = installed_runtimes().items()
    if not name.startswith("onnxruntime-training"):
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise RuntimeMissing(
            "the trainer onnxruntime-training needs the training build of ONNX Runtime",
            got=f"{name} {version} on Python {python}",
            hint="Use --trainer graph, which any runtime can run; or in an environment of Python 3.11-3.12: "
            f'pip uninstall -y {name}, then pip install "onnx-admm[training]"',
        )
    return runtime


def runtime_versions() -> dict[str, str]:
    """Return the versions of the runtime and of libraries that affect results; a runtime may be missing."""
    libraries = ("onnx-admm", "onnx", "onnx-ir", "numpy", "scipy")
    versions = {name: importlib.metadata.version(name) for name in libraries if _is_installed(name)}
    return {"python": sys.version.split()[0], **versions, **installed_runtimes()}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _import(name: str) -> ModuleType:
    try:
        runtime: Any = importlib.import_module("onnxruntime")
        sessions = runtime.InferenceSession  # a folder of that name without the package imports, too
        if _quiet and sessions:
            runtime.set_default_logger_severity(_FATAL)
    except (ImportError, AttributeError) as error:
        raise RuntimeMissing(
            f"{name} is installed but does not import ({error})",
            hint=f"Repair: pip install --force-reinstall {name}",
        ) from error
    module: ModuleType = runtime
    return module
