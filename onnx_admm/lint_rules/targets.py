"""Processors that rules know, and the one at hand."""

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


def find_target(name: str) -> RuntimeTarget:
    """Return a processor by name; ``this`` is the one at hand.

    Raises:
        UsageError: no such name.
    """
    if name == THIS:
        return TARGETS[_own_name(platform.machine(), _flags())]
    if name not in TARGETS:
        known = ", ".join((THIS, *TARGETS))
        raise UsageError(f"unknown target '{name}'", where="--target", expected=f"one of {known}")
    return TARGETS[name]


def _own_name(machine: str, flags: frozenset[str]) -> str:
    """Return the name of the processor with these instruction sets; AVX2 where nothing is known."""
    if machine.lower() in ("arm64", "aarch64"):
        return "arm64"
    if "avx512_vnni" in flags or "avx_vnni" in flags:
        return "x86-vnni"
    return "x86-avx512" if "avx512f" in flags else "x86-avx2"


def _flags() -> frozenset[str]:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    told = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(told.partition(":")[2].split())
