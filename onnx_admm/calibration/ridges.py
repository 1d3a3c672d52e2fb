"""How far a layer is pulled towards its original weights, judged on samples that were not fitted to.

Where rows are few for the inputs there are, second moments describe the samples more than the inputs to come.
How strong a ridge mends that depends on the layer: rows of one sample resemble one another, inputs behind
compressed layers are noisy, and the fewer weights are left the more the ridge takes away from them.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_admm.admm.reconstruction.layer_problem import LayerProblem
from onnx_admm.admm.reconstruction.reconstruct import ReconstructionSettings, reconstruct
from onnx_admm.admm.sets.supports import ConstraintSet
from onnx_admm.calibration.moments import Moments

QUICK = ReconstructionSettings(iterations=15, fit_steps=10, trade_rounds=None)
"""For the order of magnitude of an error, not its last tenth."""

_STEP = 2.0
_MOST_STEPS = 6

_ALIKE = 1.05
"""Errors on held-out samples that differ by less than this tell nothing: the stronger ridge is taken, for
inputs that are of no kind seen here."""


def ridged(moments: Moments, constraint: ConstraintSet) -> LayerProblem:
    """The layer's problem with the ridge that does best on held-out samples, in steps of two.

    Weights of ``constraint`` are fitted to half of the samples and judged on the other half, with the usual
    ridge and with weaker or stronger ones as long as they do better; of those that do equally well the
    strongest is taken. Where there are no halves the problem is as it is.
    """
    if moments.halves is None:
        return moments.problem
    seen, unseen = moments.halves

    def error(ridge: float) -> float:
        return unseen.error(reconstruct(replace(seen, ridge=ridge), constraint, QUICK).weights)

    usual = moments.problem.ridge
    errors = {usual: error(usual)}
    for step in (1 / _STEP, _STEP):
        for power in range(1, _MOST_STEPS + 1):
            ridge = usual * step**power
            errors[ridge] = error(ridge)
            if errors[ridge] > _ALIKE * min(errors.values()):
                break
    least = min(errors.values())
    strongest = max(ridge for ridge, found in errors.items() if found <= _ALIKE * least)
    return replace(moments.problem, ridge=strongest)
