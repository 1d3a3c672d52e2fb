"""Choice of the ridge, the weight of the distance to the original weights, on held-out samples.

Where rows are few for the number of inputs, second moments describe the samples more than future inputs. The
best ridge depends on the layer: rows of one sample are similar, inputs behind compressed layers are noisy,
and the fewer weights are left the more a ridge limits them.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_admm.admm.reconstruction.layer_problem import LayerProblem
from onnx_admm.admm.reconstruction.reconstruct import ReconstructionSettings, reconstruct
from onnx_admm.admm.sets.supports import ConstraintSet
from onnx_admm.calibration.moments import Moments

QUICK = ReconstructionSettings(iterations=15, fit_steps=10, trade_rounds=None)
"""Settings for the order of magnitude of an error."""

_STEP = 2.0
_MOST_STEPS = 6

_ALIKE = 1.05
"""Difference of held-out errors below which the stronger ridge is chosen.

Future inputs may be unlike these samples.
"""


def ridged(moments: Moments, constraint: ConstraintSet) -> LayerProblem:
    """Return the layer's problem with the best ridge on held-out samples, searched in steps of two.

    Weights of ``constraint`` are fitted to half of the samples and judged on the other half, with the usual
    ridge and with weaker or stronger ones as long as they do better; of those that do equally well the
    strongest is taken. Without halves the problem is unchanged.
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
