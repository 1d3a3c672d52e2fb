"""Processors that costs and findings depend on, and the one at hand."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from onnx_admm.contracts import RuntimeTarget
from onnx_admm.errors import UsageError

THIS = "this"
"""Name of the processor at hand."""

TARGETS: Mapping[str, RuntimeTarget] = {
    target.name: target
    for target in (
        RuntimeTarget("x86-avx2", block=8, has_integer_dot=False, saturates=True),
        RuntimeTarget("x86-avx512", block=16, has_integer_dot=False, saturates=True),
        RuntimeTarget("x86-vnni", block=16),
        RuntimeTarget("arm64", block=4, has_fp16=True),
    )
}
"""By name. Widths on AVX512 were measured, those on AVX2 and ARM are read in the runtime's sources."""

_CPU_INFO = Path("/proc/cpuinfo")
_ARM = ("arm64", "aarch64")
_X86 = ("x86_64", "amd64", "i686", "x86")
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni"})


def find_target(name: str) -> RuntimeTarget:
    """Return a processor by name; ``this`` is the one at hand.

    Raises:
        UsageError: no such name.
    """
    if name == THIS:
        return own_processor()
    if name not in TARGETS:
        known = ", ".join((THIS, *TARGETS))
        raise UsageError(f"unknown target '{name}'", where="--target", expected=f"one of {known}")
    return TARGETS[name]


def own_processor(cpuinfo: Path = _CPU_INFO, machine: str | None = None) -> RuntimeTarget:
    """Return the processor at hand: AVX2 on an x86 of unknown instruction sets.

    An architecture that is neither x86 nor ARM has its own name, and a vector of four floats.

    Args:
        cpuinfo: the kernel's list of processor flags.
        machine: architecture; None: this machine's.
    """
    machine = (machine or platform.machine()).lower()
    if machine in _ARM:
        return TARGETS["arm64"]
    if machine not in _X86:
        return RuntimeTarget(machine or "unknown", block=4)
    flags = _flags(cpuinfo)
    if _VNNI & flags:
        return TARGETS["x86-vnni"]
    return TARGETS["x86-avx512" if "avx512f" in flags else "x86-avx2"]


def _flags(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    told = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(told.partition(":")[2].split())
