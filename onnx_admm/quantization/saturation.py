"""Steps of activation grids that a processor multiplies without saturation.

Without VNNI, x86 kernels add pairs of uint8 x int8 products in 16 bits. ``2 * 255 * 127`` exceeds the range,
and the sum saturates without an error. With activations of 7 bits it does not: ``2 * 127 * 127 < 2^15``. The
weights keep their grid. Activations whose grid the runtime finds have all 255 steps. There the weights have
the smaller codes: ``2 * 255 * 64 < 2^15``.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, VPMADDUBSW and VPDPBUSD.
"""

from __future__ import annotations

from onnx_admm.contracts import RuntimeTarget
from onnx_admm.pricing.processors import own_processor
from onnx_admm.quantization.ranges import STEPS, STEPS_OF_7_BITS

_FULL_CODE, _SAFE_CODE = 127, 64


def steps_on(processor: RuntimeTarget | None) -> int:
    """Return the steps of a grid on a processor: 127 where sums of its 8-bit products saturate, else 255.

    Args:
        processor: the target; None: this machine's, where x86 without known VNNI counts as saturating.
    """
    return STEPS_OF_7_BITS if (processor or own_processor()).saturates else STEPS


def largest_code(steps: int) -> int:
    """Return the largest code of an int8 weight that is multiplied with activations of 255 steps.

    Args:
        steps: steps that activations may have on the processor, as from ``steps_on``.
    """
    return _FULL_CODE if steps >= STEPS else _SAFE_CODE
