"""Sensitivity of each layer: relative error of the outputs by density and bits, one layer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from onnx_admm.admm.reconstruction.grids import grids_of
from onnx_admm.admm.reconstruction.layer_problem import LayerProblem
from onnx_admm.admm.reconstruction.reconstruct import reconstruct
from onnx_admm.admm.reconstruction.successive import round_successively
from onnx_admm.admm.sets.levels import Levels, SupportLevels
from onnx_admm.admm.sets.supports import AtMostK
from onnx_admm.allocation.allocation import Curve, Surface
from onnx_admm.calibration.ridges import QUICK
from onnx_admm.calibration.stream import CalibratedLayer, Calibration, layer_groups
from onnx_admm.contracts import Array, Dataset, PassContext, Task, WeightSite
from onnx_admm.measurement.sensitivity import OutputProbe

STEPS = (0.25, 0.5, 1.0, 2.0, 3.5, 6.0)
"""Densities tried of a layer, in units of the whole model's: small and depthwise layers tolerate little."""

_MOST_GROUPS = 4
_MOST_RELATIVE_ERROR = 1e6

_MEASURED_BITS = 4
"""Most bits that are measured: each further bit halves the steps and so quarters the error."""

_ROUNDED_AT = 0.25
"""Density at which levels are tried, in addition to all weights: their error hardly depends on it."""


@dataclass(frozen=True)
class Trial:
    """Requirements of a measurement.

    Attributes:
        calibration: inputs of the layers in the original, and the original itself.
        probe_samples: samples that the outputs are compared on.
        context: memory for the moments of layers computed together, and the executor.
        task: advances by one for each layer.
    """

    calibration: Calibration
    probe_samples: Dataset
    context: PassContext
    task: Task


def measured_surfaces(
    sites: Sequence[WeightSite],
    layers: Sequence[CalibratedLayer],
    trial: Trial,
    *,
    densities: tuple[float, ...],
    bits: Sequence[int] = (),
) -> dict[str, Surface]:
    """Return the relative error of the outputs by density and bits, each layer changed alone.

    A layer is rebuilt from its own inputs at each density, as it will be later; the bias stays. Levels are
    fitted on two of the supports by successive rounding. A layer without available inputs keeps its largest
    weights, and takes the nearest levels.

    Args:
        sites: layers to prune.
        layers: those of them whose inputs are available.
        trial: requirements of the measurement.
        densities: densities to try, rising, over 0 to 1.
        bits: bits to try, each below 32.
    """
    original = trial.calibration.original
    probe = OutputProbe(
        original, [site.name for site in sites], trial.probe_samples, threads=trial.calibration.threads
    )
    surfaces: dict[str, Surface] = {}

    def measure(site: WeightSite, candidates: Sequence[_Candidate]) -> None:
        relative_errors = {
            (each.density, each.bits): min(
                probe.effect({site.name: each.weights}).relative_error, _MOST_RELATIVE_ERROR
            )
            for each in candidates
        }
        surfaces[site.name] = _surface(relative_errors, densities, bits)
        trial.task.advance(note=site.name)

    for group in layer_groups(layers, trial.context.memory_bytes, _MOST_GROUPS):
        moments = trial.calibration.moments(original, group, centred=False)
        for layer in [each for each in group if each.site.name in moments]:
            problem = moments.pop(layer.site.name).problem
            measure(layer.site, list(_rebuilt(layer, problem, trial.context, densities, bits)))
    for site in sites:
        if site.name not in surfaces:
            measure(site, list(_nearest(site, original.read(site), densities, bits)))
    return surfaces


class _Candidate(NamedTuple):
    """Weights to try; bits None: not quantised."""

    density: float
    bits: int | None
    weights: Array


def _rebuilt(
    layer: CalibratedLayer,
    problem: LayerProblem,
    context: PassContext,
    densities: Sequence[float],
    bits: Sequence[int],
) -> Iterator[_Candidate]:
    layout, size = layer.extractors[0].layout, layer.site.size
    kept = [AtMostK(round(size * share)) for share in densities]
    found = list(context.map(partial(reconstruct, problem, settings=QUICK), kept))
    pruned = {share: each.weights for share, each in zip(densities, found, strict=True)}
    for share, weights in pruned.items():
        yield _Candidate(share, None, layout.tensor(weights))
    tried = _tried_levels(densities, bits)
    bases = {share: pruned.get(share, problem.original) for share, _ in tried}
    for share in bases:
        if share not in pruned:
            yield _Candidate(share, None, layout.tensor(problem.original))
    work = [(problem, bases[share], width) for share, width in tried]
    for (share, width), weights in zip(tried, context.map(_rounded, work), strict=True):
        yield _Candidate(share, width, layout.tensor(weights.astype(problem.original.dtype)))


def _rounded(work: tuple[LayerProblem, Array, int]) -> Array:
    """Return levels on a support by successive rounding: a row at a time, errors compensated."""
    problem, weights, bits = work
    mask = weights != 0
    is_dense = bool(mask.all()) and bits > 1  # one bit has no level for zero
    levels = Levels(bits, axis=0) if is_dense else SupportLevels(mask, bits, axis=0)
    grids = grids_of(levels, weights, None, None if is_dense else mask)
    grid, codes = round_successively(problem, grids, weights.astype(np.float64))
    values: Array = codes * grid.units
    return values


def _nearest(
    site: WeightSite, weights: Array, densities: Sequence[float], bits: Sequence[int]
) -> Iterator[_Candidate]:
    pruned = {share: AtMostK(round(site.size * share)).project(weights) for share in {*densities, 1.0}}
    for share, array in pruned.items():
        yield _Candidate(share, None, array)
    for share, width in _tried_levels(densities, bits):
        levels = SupportLevels(pruned[share] != 0, width, axis=site.out_axis)
        yield _Candidate(share, width, levels.project(pruned[share]))


def _tried_levels(densities: Sequence[float], bits: Sequence[int]) -> list[tuple[float, int]]:
    """Return pairs to measure: two densities, and bits up to the last that is measured."""
    if not bits:
        return []
    shares = {min(densities, key=lambda share: abs(share - _ROUNDED_AT)), 1.0}
    return [(share, width) for share in sorted(shares) for width in _widths(bits)]


def _widths(bits: Sequence[int]) -> list[int]:
    """Return the bits to measure: those requested; wider ones are replaced by the widest that is measured."""
    return sorted({min(width, _MEASURED_BITS) for width in bits})


def _surface(
    relative_errors: Mapping[tuple[float, int | None], float],
    densities: tuple[float, ...],
    bits: Sequence[int],
) -> Surface:
    pruned = Curve(densities, tuple(relative_errors[share, None] for share in densities))
    rounded: dict[int, Curve] = {}
    least: dict[float, float] = {}
    for width in sorted(bits, reverse=True):  # fewer levels are never taken for better
        nearest = min(width, _MEASURED_BITS)
        shares = sorted(share for share, tried in relative_errors if tried == nearest)
        for share in shares:
            added = (relative_errors[share, nearest] - relative_errors[share, None]) / 4 ** (width - nearest)
            least[share] = max(least.get(share, 0.0), added)
        rounded[width] = Curve(tuple(shares), tuple(least[share] for share in shares))
    return Surface(pruned, rounded)
