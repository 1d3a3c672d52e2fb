"""Latency of a model's integer form, layer by layer: the price of widths where integers will be used.

A runtime's float kernels compute blocks of channels, its integer kernels do not. The time of an integer
kernel beyond its multiply-accumulates depends on resolution and inputs. So widths are priced with the kernels
that the narrower layers will have. The grids of the values do not change the time, so they are arbitrary
here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from onnx_admm.contracts import CompressionOption, Cost, CostModel, Feeds, LayerProfile, ModelView
from onnx_admm.model.integers.plan import IntegerWeight, TensorGrid
from onnx_admm.model.integers.write import OLDEST_OPSET, write_integers
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.quantization.placing.placement import place, plan_of
from onnx_admm.quantization.units import find_units, roots_of
from onnx_admm.quantization.weights import integer_weight
from onnx_admm.runtime.layer_kernels import ELSEWHERE, layer_kernels

_ANY_GRID = TensorGrid(0.05, 128)


def integer_form(view: ModelView, layers: Collection[str]) -> ModelView:
    """Return a fork with these layers as integers, on arbitrary grids; unchanged if a bias does not fit.

    Args:
        view: the model.
        layers: names of layers, as in ``Unit.layer``.

    Raises:
        UnsupportedModel: its opset cannot be raised.
    """
    fork = convert_opset(view, at_least=OLDEST_OPSET)
    units, _ = find_units(fork)
    placed = place(units, {unit.node for unit in units if unit.layer in layers})
    weights: dict[int, IntegerWeight] = {
        unit.node: integer_weight(unit.weight_name, unit.weight, unit.axis)[0]
        for unit in placed.units
        if unit.weight is not None
    }
    roots = roots_of(units)
    grids = dict.fromkeys((roots.get(name, name) for name in placed.quantised), _ANY_GRID)
    plan = plan_of(placed, roots, grids, weights, {})
    if plan is not None:
        write_integers(fork, plan)
    return fork


@dataclass(frozen=True, kw_only=True)
class IntegerLatency:
    """Cost model: latency on this machine when some layers are computed with integers.

    Attributes:
        layers: names of the layers that will be integer.
        feeds: samples to run, as in a ``Batch``.
        threads: intra-op threads.
    """

    name: ClassVar[str] = "integer-latency"
    quantities: ClassVar[tuple[str, ...]] = ("latency_s",)

    layers: Collection[str]
    feeds: Feeds
    threads: int = 1
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def assumes(self) -> str:
        """The reason why zeros and bits change nothing, as a sentence."""
        return "stock ONNX Runtime on this machine, with the layers named here as 8-bit integers"

    def for_model(self, view: ModelView, bindings: Mapping[str, int]) -> CostModel:
        """Return a cost model with the times of this model's kernels."""
        kernels = layer_kernels(integer_form(view, self.layers), self.feeds, self.threads)
        seconds = {name: each.seconds or 0.0 for name, each in kernels.items() if name != ELSEWHERE}
        return IntegerLatency(layers=self.layers, feeds=self.feeds, threads=self.threads, seconds=seconds)

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the seconds of the layer's kernels; 0 for a node without a weight."""
        return Cost(latency_s=self.seconds.get(layer.weight, 0.0) if layer.weight else 0.0)
