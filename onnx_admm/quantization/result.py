"""Result of the quantisation of activations: the model, and what became of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_admm.contracts import ModelView
from onnx_admm.measurement.sensitivity import Effect
from onnx_admm.quantization.range_choice import ChosenRange
from onnx_admm.quantization.units import Kind, Unit

_NOTHING_TO_COMPARE = "its outputs have no finite value on these samples: nothing can be compared with them"


@dataclass(frozen=True)
class Result:
    """The model with integer activations.

    Attributes:
        model: None where no placement holds, or none is faster.
        latency_ratio: its latency over that of the model before.
        effect: on the unseen samples, against the reference.
        integer: what became of each integer layer.
        left: why each other layer stays float.
        kernels: number of kernels by operator, in the runtime's optimised graph.
        ranges: chosen range of each value.
        why: the reason why there is no model.
    """

    model: ModelView | None = None
    latency_ratio: float = 1.0
    effect: Effect | None = None
    integer: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, ChosenRange] = field(default_factory=dict)
    timed: int = 0
    why: str | None = None

    def figures(self) -> dict[str, Any]:
        """Return the figures of the report."""
        if self.model is None or self.effect is None:
            return {"timed": self.timed}
        return {
            "latency_ratio": round(self.latency_ratio, 4),
            "sqnr_db": decibels(self.effect.relative_error),
            "agreement": self.effect.agreement,
            "kernels": dict(self.kernels),
            "ranges": {
                name: {
                    "method": str(found.range.method.value),
                    "low": float(found.range.low),
                    "high": float(found.range.high),
                    "alone_db": decibels(found.error),
                    "min_max_db": decibels(found.min_max_error),
                }
                for name, found in self.ranges.items()
            },
            "timed": self.timed,
        }


def decibels(relative_error: float) -> float:
    """Return the signal-to-noise ratio of a relative error in dB, at most 200."""
    return (
        round(float(-10 * np.log10(max(relative_error, 1e-20))), 2) if np.isfinite(relative_error) else -200.0
    )


def nothing_to_compare(units: Sequence[Unit], left: Mapping[str, str]) -> Result:
    """Return the result for a model without finite outputs: all products stay float.

    Args:
        units: units of the model.
        left: why other layers stay float.
    """
    why = "the effect on the model's outputs cannot be measured"
    layers = {unit.layer: why for unit in units if unit.kind is Kind.PRODUCT}
    return Result(left={**layers, **left}, why=_NOTHING_TO_COMPARE)
