"""The battery that every cost model goes through."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

from onnx_admm.contracts import Cost, CostModel, LayerProfile, Treatment
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.testing.contract import demand

_DENSITIES = (0.0, 0.01, 0.1, 0.5, 1.0)
_BITS = (1, 2, 4, 8, 32)


def layers() -> tuple[LayerProfile, ...]:
    """Layers of every kind a cost model meets: convolutions, dense ones, one without weights."""
    return (
        LayerProfile("conv", "Conv", (16, 8, 3, 3), (1, 16, 14, 14), 1152, 225_792, 1152, 32),
        LayerProfile("pointwise", "Conv", (64, 16, 1, 1), (1, 64, 7, 7), 1024, 50_176, 300, 8),
        LayerProfile("dense", "Gemm", (500, 800), (1, 500), 400_000, 400_000, 4_000, 4),
        LayerProfile("tiny", "MatMul", (2, 3), (1, 3), 6, 6, 6, 32),
        LayerProfile("relu", "Relu", (), (1, 16, 14, 14), 0, 0, 0, 32),
    )


def check_cost_model(model: CostModel) -> None:
    """Hold a cost model to its contract on `layers`, at all densities and widths.

    Every figure is finite and not negative, the same question gets the same answer, an unknown shape is a
    named error and never a cost of 0, a break-even ratio is at least 1, and what is assumed is said.

    Raises:
        ContractBroken: names the cost model, the layer and the promise.
    """
    subject = getattr(model, "name", type(model).__name__)
    demand(isinstance(model, CostModel), subject, "has all members of the CostModel protocol")
    demand(bool(model.assumes.strip()), subject, "says what it assumes")
    priced = 0
    for layer, density, bits in itertools.product(layers(), _DENSITIES, _BITS):
        treatment = Treatment(density, bits)
        case = f"{subject} on {layer.node} at density {density} and {bits} bits"
        cost = _estimate(model, layer, treatment, case)
        if cost is not None:
            priced += 1
            _check_cost(cost, case)
            demand(model.estimate(layer, treatment) == cost, case, "answers the same question alike")
            _check_unknown_shape(model, layer, treatment, cost, case)
    demand(priced > 0, subject, "prices at least one layer")
    for layer, bits in itertools.product(layers(), _BITS):
        ratio = model.break_even(layer, bits)
        demand(ratio >= 1.0, f"{subject} on {layer.node} at {bits} bits", "breaks even at 1x or more", ratio)


def _estimate(model: CostModel, layer: LayerProfile, treatment: Treatment, case: str) -> Cost | None:
    try:
        return model.estimate(layer, treatment)
    except OnnxAdmmError as error:
        demand(layer.node in str(error), case, "names the layer it cannot price", error)
        return None


def _check_cost(cost: Cost, case: str) -> None:
    for entry in fields(cost):
        figure = getattr(cost, entry.name)
        sound = figure is None or (math.isfinite(figure) and figure >= 0)
        demand(sound, case, f"gives a finite {entry.name} of at least 0", figure)


def _check_unknown_shape(
    model: CostModel, layer: LayerProfile, treatment: Treatment, known: Cost, case: str
) -> None:
    try:
        unknown = model.estimate(replace(layer, output_shape=None, macs=0), treatment)
    except OnnxAdmmError:
        return
    for entry in fields(Cost):
        vanished = getattr(unknown, entry.name) == 0 and getattr(known, entry.name)
        demand(not vanished, case, f"never gives {entry.name} 0 for a layer of unknown shape")
