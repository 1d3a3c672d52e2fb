"""What a quantisation of activations is given: samples, tolerance and settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnx_admm.contracts import Dataset, ModelView, PassContext
from onnx_admm.quantization.linear.forms import LinearForm
from onnx_admm.quantization.ranges import RangeMethod

_FIRST_LIMIT = 2.0
"""First factor of the tolerance for the sum of single errors: they partly cancel, and the sum is measured."""


@dataclass(frozen=True)
class Samples:
    """Samples to find ranges on, to measure errors on, and to confirm the whole on.

    Attributes:
        calibration: ranges are found on them.
        measured: errors of single values are measured on them.
        unseen: the whole is confirmed on them.
        confirmed_on: what the unseen samples are, for the report.
    """

    calibration: Dataset
    measured: Dataset
    unseen: Dataset
    confirmed_on: str


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What the outputs keep; see ``QuantizeActivations``."""

    least_sqnr_db: float
    least_agreement: float
    blind_sqnr_db: float
    least_alone_db: float


@dataclass(frozen=True, kw_only=True)
class QuantizerSettings:
    """How activations are quantised.

    Attributes:
        tolerance: what the outputs keep.
        methods: methods of ranges to choose among.
        steps: steps of an activation's grid.
        linear_forms: forms on offer to Gemm and MatMul that have no static integers.
        trials: placements that are timed, at most.
        layers: names of the weights whose layers may be integer.
        reference: model whose outputs count as right.
        context: of the pass.
        most_latency: latency of the result over that of the model before, at most.
    """

    tolerance: Tolerance
    methods: frozenset[RangeMethod]
    steps: int
    linear_forms: frozenset[LinearForm]
    trials: int
    layers: Collection[str]
    reference: ModelView
    context: PassContext
    most_latency: float = 1.0

    @property
    def first_limit(self) -> float:
        """Largest sum of relative errors of single values at first."""
        return _FIRST_LIMIT * 10 ** (-self.tolerance.least_sqnr_db / 10)
