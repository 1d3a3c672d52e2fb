"""Fixed transforms in fewer bits, only where the outputs do not change noticeably."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx_admm.calibration.roundings import decibels
from onnx_admm.encoding.compression_options import FINE, HALF, Rounding, Treated
from onnx_admm.measurement.sensitivity import OutputProbe

LEAST_DB = 60.0
"""Signal-to-noise ratio, in dB, that each output keeps with one transform rounded.

The values of a transform were designed, and no training corrects an error in them.
"""

_WAYS = (next(way for way, bits in FINE.items() if bits == 12), HALF)


@dataclass(frozen=True)
class Shortened:
    """A transform and its rounding.

    Attributes:
        rounding: 12 bits, or half floats.
        left_db: signal-to-noise ratio of the outputs with it alone rounded, in dB.
    """

    rounding: Rounding
    left_db: float

    def says(self, treated: Treated) -> str:
        """Return one line on the transform."""
        size = f"{treated.values.nbytes:,} to about {treated.stored_bytes(self.rounding):,.0f} bytes"
        return (
            f"{self.rounding}: {size}; a fixed transform: alone it leaves the outputs {self.left_db:.1f} dB"
        )


def shortened_transforms(
    transforms: Mapping[str, Treated], probes: Sequence[OutputProbe]
) -> dict[str, Shortened]:
    """Return the transforms that keep `LEAST_DB` in fewer bits on all samples, measured one by one."""
    found: dict[str, Shortened] = {}
    base = [probe.relative_error({}) for probe in probes]
    for name, treated in transforms.items():
        for way in _WAYS:
            if treated.stored_bytes(way) >= treated.stored_bytes(None):
                continue
            weights = {name: treated.apply(way)}
            relative_errors = [
                probe.relative_error(weights) - none for probe, none in zip(probes, base, strict=True)
            ]
            left_db = decibels(max(0.0, *relative_errors))
            if left_db >= LEAST_DB:
                found[name] = Shortened(way, left_db)
                break
    return found
