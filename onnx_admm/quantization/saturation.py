"""Steps of activation grids that a processor multiplies without saturation.

Without VNNI, x86 kernels add pairs of uint8 x int8 products in 16 bits: ``2 * 255 * 127`` exceeds them, and
the sum saturates without a word. Activations of 7 bits do not: ``2 * 127 * 127 < 2^15``. The weights keep
their grid. Activations whose grid the runtime finds have all 255 steps; there the weights have the smaller
codes: ``2 * 255 * 64 < 2^15``.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, VPMADDUBSW and VPDPBUSD.
"""

from __future__ import annotations

import platform
from pathlib import Path

from onnx_admm.quantization.ranges import STEPS, STEPS_OF_7_BITS

_FULL_CODE, _SAFE_CODE = 127, 64

_X86 = ("x86_64", "AMD64", "i686", "x86")
_VNNI = {"avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni"}


def steps_here(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str | None = None) -> int:
    """Return the steps of a grid on this processor: 255, or 127 on x86 where VNNI is not known to be there.

    Args:
        cpuinfo: the kernel's list of processor flags.
        machine: architecture; None: this machine's.
    """
    if (machine or platform.machine()) not in _X86:
        return STEPS
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return STEPS_OF_7_BITS
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return STEPS if _VNNI & set(flags) else STEPS_OF_7_BITS


def largest_code(steps: int) -> int:
    """Return the largest code of an int8 weight that is multiplied with activations of 255 steps.

    Args:
        steps: steps that activations may have on the processor, as from ``steps_here``.
    """
    return _FULL_CODE if steps >= STEPS else _SAFE_CODE
