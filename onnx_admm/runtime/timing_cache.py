"""Measured times on disk, so that each is measured once on a machine."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from onnx_admm.contracts import Array
from onnx_admm.model.analysis.runtime_kernels import Kernel
from onnx_admm.runtime.installed import installed_runtimes
from onnx_admm.runtime.timing import KernelTime, time_call, time_kernels, time_switch

_FORM, _MOST_FORMS = "form ", 1000
"""Prefix of keys that compare models, and the number of them that are kept."""

_PROFILE, _MOST_PROFILED = "profile ", 3000
"""Prefix of keys of nodes within one model, and the number of them that are kept."""

_MEMORY: dict[Path, dict[str, KernelTime]] = {}
"""Times that this process read or measured, by file."""

_USED: dict[str, dict[str, list[float]]] = {}
"""Times that were used, by name of the file."""


def kernel_timings(kernels: Sequence[Kernel | None], threads: int) -> list[KernelTime | None]:
    """Return the times of kernels, measured where unknown; None for one that does not run alone."""
    known = known_timings(threads)
    missing = {kernel.key: kernel for kernel in kernels if kernel is not None and kernel.key not in known}
    if missing:
        measured = zip(missing, time_kernels(list(missing.values()), threads), strict=True)
        keep_timings(threads, {key: timing for key, timing in measured if timing is not None})
    found = [None if kernel is None else known.get(kernel.key) for kernel in kernels]
    for kernel, timing in zip(kernels, found, strict=True):
        if kernel is not None and timing is not None:
            _note_use(kernel.key, threads, timing)
    return found


def call_timing(inputs: Mapping[str, Array], outputs: Mapping[str, Array], threads: int) -> KernelTime:
    """Return the time of a call beyond its kernels, with such inputs and outputs; measured where unknown."""
    ports = [[(str(array.dtype), array.shape) for array in side.values()] for side in (inputs, outputs)]
    return _known_or(f"call {ports}", threads, lambda: time_call(inputs, outputs, threads))


def switch_timing(threads: int) -> KernelTime:
    """Return the extra time of a kernel among others; measured where unknown."""
    return _known_or("switch", threads, lambda: time_switch(threads))


def digest(content: bytes) -> str:
    """Return the digest that identifies a serialised model in the cache."""
    return hashlib.sha256(content).hexdigest()[:32]


def form_ratio(before: str, after: str, threads: int, measure: Callable[[], float]) -> float:
    """Return the latency of a model over another's, measured where it is not known for these very bytes.

    So a choice between forms is made once on a machine, and the same run makes the same choice again.

    Args:
        before: digest of a model.
        after: digest of the model to hold against it.
        threads: intra-op threads.
        measure: measures the ratio.
    """
    return _known_or(f"{_FORM}{before} {after}", threads, lambda: KernelTime(measure(), 0.0)).seconds


def profiled_seconds(
    model: str, nodes: Sequence[str], threads: int, measure: Callable[[], Mapping[str, float]]
) -> dict[str, float]:
    """Return the seconds of nodes within one model, measured together where any is unknown.

    Args:
        model: digest of the model.
        nodes: names of nodes.
        threads: intra-op threads.
        measure: measures the seconds of these nodes.
    """
    keys = {name: f"{_PROFILE}{model} {name}" for name in nodes}
    known = known_timings(threads)
    if any(key not in known for key in keys.values()):
        measured = measure()
        keep_timings(threads, {key: KernelTime(measured[name], 0.0) for name, key in keys.items()})
    for key in keys.values():
        _note_use(key, threads, known[key])
    return {name: known[key].seconds for name, key in keys.items()}


def _known_or(key: str, threads: int, measure: Callable[[], KernelTime]) -> KernelTime:
    known = known_timings(threads)
    if key not in known:
        keep_timings(threads, {key: measure()})
    _note_use(key, threads, known[key])
    return known[key]


def _note_use(key: str, threads: int, timing: KernelTime) -> None:
    _USED.setdefault(cache_file(threads).stem, {})[key] = [timing.seconds, timing.spread]


def used_timings() -> dict[str, dict[str, list[float]]]:
    """Return seconds and spread by kernel, by name of the cache file, of all recently used times."""
    return {name: dict(timings) for name, timings in _USED.items()}


def forget_used_timings() -> None:
    """Start a new list of used times."""
    _USED.clear()


def are_current(timings: Mapping[str, Mapping[str, Sequence[float]]]) -> bool:
    """Return whether times equal those in the cache; missing ones count as equal."""
    for name, used in timings.items():
        known = _read(cache_folder() / "timings" / f"{name}.json") if used else {}
        for key, pair in used.items():
            if key in known and [known[key].seconds, known[key].spread] != list(pair):
                return False
    return True


def cache_folder() -> Path:
    """Return the folder of this user's caches: in ``XDG_CACHE_HOME`` where set, else the system's default."""
    stated = os.environ.get("XDG_CACHE_HOME")
    if stated and os.path.isabs(stated):
        return Path(stated) / "onnx-admm"
    try:
        home = Path.home()
    except RuntimeError:  # no home folder: nothing can be kept, and every time is measured
        return Path(os.devnull) / "onnx-admm"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "onnx-admm"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "onnx-admm"
    return home / ".cache" / "onnx-admm"


def environment(threads: int) -> str:
    """Return the validity of times besides the kernel: runtime, processor, threads."""
    runtimes = " ".join(f"{name} {version}" for name, version in installed_runtimes().items())
    return f"{runtimes}; {_processor()}; {threads} threads"


def cache_file(threads: int) -> Path:
    """Return the file of times for this environment."""
    name = hashlib.sha256(environment(threads).encode()).hexdigest()[:16]
    return cache_folder() / "timings" / f"{name}.json"


def known_timings(threads: int) -> dict[str, KernelTime]:
    """Return the timings by kernel; unreadable ones count as unknown."""
    file = cache_file(threads)
    if file not in _MEMORY:
        _MEMORY[file] = _read(file)
    return _MEMORY[file]


def keep_timings(threads: int, timings: Mapping[str, KernelTime]) -> None:
    """Add timings, on disk too where it is writable; the file is replaced as a whole."""
    file = cache_file(threads)
    known = known_timings(threads)
    known.update(timings)
    known.update({key: timing for key, timing in _read(file).items() if key not in known})
    for prefix, most in ((_FORM, _MOST_FORMS), (_PROFILE, _MOST_PROFILED)):
        old = [key for key in known if key.startswith(prefix) and key not in timings]
        for key in old[: max(0, len(old) - most)]:
            del known[key]
    content = {
        "environment": environment(threads),
        "timings": {key: [timing.seconds, timing.spread] for key, timing in sorted(known.items())},
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(content, out)
        os.replace(name, file)
    except OSError:  # the folder is not writable: the next process measures again
        return


def _read(file: Path) -> dict[str, KernelTime]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))["timings"]
        timings = {str(key): KernelTime(float(pair[0]), float(pair[1])) for key, pair in stored.items()}
    except Exception:  # noqa: BLE001 (whatever the parser raises: times are measured again)
        return {}
    figures = (figure for timing in timings.values() for figure in (timing.seconds, timing.spread))
    return timings if all(0 <= figure < math.inf for figure in figures) else {}


def _processor() -> str:
    """Return model and instruction sets, by which the runtime chooses its kernels."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    flags = hashlib.sha256(told.get("flags", told.get("Features", "")).encode()).hexdigest()[:8]
    return f"{platform.machine()} {told.get('model name', platform.processor())} {flags}"
