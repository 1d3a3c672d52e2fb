"""How much each layer can lose, measured: the outputs' damage by density, one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from onnx_admm.admm.reconstruction import ReconstructionSettings, reconstruct
from onnx_admm.admm.sets import AtMostK
from onnx_admm.allocation import Curve
from onnx_admm.calibration.stream import CalibratedLayer, Calibration, layer_groups
from onnx_admm.contracts import Array, Dataset, PassContext, Task, WeightSite
from onnx_admm.sensitivity import OutputProbe

STEPS = (0.25, 0.5, 1.0, 2.0, 3.5)
"""Densities tried of a layer, in units of the whole model's."""

QUICK = ReconstructionSettings(iterations=15, fit_steps=10, trade_rounds=None)
"""A rate needs the order of magnitude of an error, not its last tenth."""

_MOST_GROUPS = 4


@dataclass(frozen=True)
class Trial:
    """What a measurement needs.

    Attributes:
        calibration: inputs of the layers in the original, and the original itself.
        probe_samples: what the outputs are compared on.
        context: memory for the moments of layers looked at together, and where to solve for them.
        task: advances by one a layer.
    """

    calibration: Calibration
    probe_samples: Dataset
    context: PassContext
    task: Task


def measured_curves(
    sites: Sequence[WeightSite], layers: Sequence[CalibratedLayer], density: float, trial: Trial
) -> dict[str, Curve]:
    """Damage of the outputs by density, each layer pruned alone to densities around the model's.

    A layer is rebuilt from its own inputs at each density, as it will be later; the bias stays. One whose
    inputs cannot be seen keeps its largest weights.

    Args:
        sites: layers to prune.
        layers: those of them whose inputs can be seen.
        density: of the whole model.
        trial: with what.
    """
    original = trial.calibration.original
    probe = OutputProbe(
        original, [site.name for site in sites], trial.probe_samples, threads=trial.calibration.threads
    )
    densities = tuple(sorted({min(1.0, density * step) for step in STEPS}))
    curves: dict[str, Curve] = {}

    def measure(site: WeightSite, candidates: Sequence[Array]) -> None:
        errors = tuple(probe.effect({site.name: candidate}).damage for candidate in candidates)
        finite = tuple(min(error, 1e6) for error in errors)
        curves[site.name] = Curve(densities, finite)
        trial.task.advance(note=site.name)

    for group in layer_groups(layers, trial.context.memory_bytes, _MOST_GROUPS):
        moments = trial.calibration.moments(original, group, centred=False)
        for layer in group:
            problem, layout = moments.pop(layer.site.name).problem, layer.carriers[0].layout
            kept = [AtMostK(round(layer.site.size * share)) for share in densities]
            found = trial.context.map(partial(reconstruct, problem, settings=QUICK), kept)
            measure(layer.site, [layout.tensor(each.weights) for each in found])
    for site in sites:
        if site.name not in curves:
            weights = original.read(site)
            measure(site, [AtMostK(round(site.size * share)).project(weights) for share in densities])
    return curves
