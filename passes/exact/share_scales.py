"""ShareScales: give all layers one scale, so that they can share one codebook.

A factor can move from one layer to the next through positively homogeneous operators (Relu, pooling, Flatten
and others). With weights ``W_l = c_l s_l`` on grids, factors f at the values between the layers and one
scale q,

    s_l f_out / f_in = q  for every layer l,      W'_l = c_l q,      b'_l = b_l f_out,

where f = 1 at inputs, outputs and values that no factor can pass. For a chain of L layers there is always a
solution: q is the geometric mean of the scales. Source: cross-layer equalisation (arXiv 1906.04721), here
with one factor for a value instead of one for each channel, and towards equal scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport, Skip
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.grids import Grid
from onnx_admm.model.channels.groups import ChannelGroup, Port, find_channel_groups
from onnx_admm.model.operators import Trait, operators_with

_HOMOGENEOUS = operators_with(Trait.HOMOGENEOUS)
_MISFIT = 1e-6
"""Largest error of a logarithm at which the equations count as solved."""


@dataclass(frozen=True, kw_only=True)
class ShareScales:
    """Move factors between layers until all quantised weights have the same scale; outputs stay.

    Use it before ``encode``: a separate scale takes about 30 bytes of the file for each layer. The pass does
    nothing where the layers cannot have one scale (branches that are added give too many equations).
    """

    name: ClassVar[str] = "share_scales"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``; any model will do."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        grids = {
            site.name: grid for site in model.sites() if site.editable and (grid := _grid(model, site.name))
        }
        ports = find_channel_groups(model)
        groups = [group for group in ports if _lets_factors_pass(group, grids)]
        layers = sorted({p.weight.name for g in ports for p in (*g.writers, *g.readers)} & grids.keys())
        if len(layers) < 2 or len({float(grids[layer].scale) for layer in layers}) == 1:
            return PassReport(changed=False)
        factors, shared = _solve(layers, groups, grids)
        if factors is None:
            return PassReport(
                False, skipped=(Skip("model", "the scales of its layers cannot be made equal"),)
            )
        for layer in layers:
            grid, shape = grids[layer], model.site(layer).shape
            model.replace(layer, (grid.codes.astype(np.float32) * shared).reshape(shape))
        for group, factor in zip(groups, factors, strict=True):
            _scale_constants(model, group, factor)
        edits = tuple(
            Edit(layer, f"scale {float(grids[layer].scale):.4g} to {shared:.4g}") for layer in layers
        )
        return PassReport(True, edits, figures={"scale": float(shared)})


def _grid(model: ModelView, name: str) -> Grid | None:
    weight = Weight(name, model.read(name))
    return weight.grid if weight.values.dtype == np.float32 else None


def _lets_factors_pass(group: ChannelGroup, grids: dict[str, Grid]) -> bool:
    layers = {port.weight.name for port in (*group.writers, *group.readers)}
    operators = {through.node.op_type for through in group.pass_through}
    return group.is_plain and layers <= grids.keys() and operators <= _HOMOGENEOUS


def _solve(
    layers: list[str], groups: list[ChannelGroup], grids: dict[str, Grid]
) -> tuple[list[float] | None, np.float32]:
    """Return factors by group and the shared scale; None where the equations contradict one another."""
    rows, sides = np.zeros((len(layers), len(groups) + 1)), np.zeros(len(layers))
    for row, layer in enumerate(layers):
        sides[row] = -np.log(float(grids[layer].scale))
        rows[row, -1] = -1.0
        for column, group in enumerate(groups):
            rows[row, column] += _stands_in(layer, group.writers) - _stands_in(layer, group.readers)
    solution, *_ = np.linalg.lstsq(rows, sides)
    if np.max(np.abs(rows @ solution - sides)) > _MISFIT:
        return None, np.float32(0)
    return np.exp(solution[:-1]).tolist(), np.float32(np.exp(solution[-1]))


def _stands_in(layer: str, ports: tuple[Port, ...]) -> int:
    return sum(port.weight.name == layer for port in ports)


def _scale_constants(model: ModelView, group: ChannelGroup, factor: float) -> None:
    """Scale the biases of the group's writers, and constants added on the way."""
    biases = [port.node.input(2) for port in group.writers]
    added = [each.value for through in group.pass_through for each in through.parameters]
    for value in (*biases, *added):
        array = None if value is None else value.constant()
        if value is not None and array is not None:
            model.write(value, (array.astype(np.float64) * factor).astype(array.dtype))
