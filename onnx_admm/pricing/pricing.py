"""Price lists: what a model costs under a cost model, row by row, and from where on pruning pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import (
    FIGURE_OF,
    FIGURES,
    Composition,
    Cost,
    CostModel,
    LayerProfile,
    ModelView,
    Treatment,
    WholeModel,
)
from onnx_admm.errors import UnpricedOperator, UsageError
from onnx_admm.model import node_profiles

SUM = "the sum of the rows"

_RATIOS = 64
"""Pruning ratios tried of a layer, evenly spread by their logarithm, before the place is narrowed down."""

_LESS = 1 - 1e-9
"""Costs that differ by less are the same but for rounding."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """One priced row: a node with one of its weights, or a node without."""

    layer: LayerProfile
    treatment: Treatment
    cost: Cost


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A node that the cost model cannot price, and why."""

    node: str
    scope: str
    op_type: str
    why: str


@dataclass(frozen=True, slots=True)
class CostTable:
    """What a model costs.

    Attributes:
        rows: in graph order.
        total: of the rows, composed as ``composition`` says; what is in ``unpriced`` is not in it.
        composition: how rows become a total, as a phrase.
        unpriced: nodes without a price.
    """

    rows: tuple[CostRow, ...]
    total: Cost
    composition: str
    unpriced: tuple[Unpriced, ...] = ()


def price(
    view: ModelView,
    cost_model: CostModel,
    treatments: Mapping[str, Treatment] | None = None,
    bindings: Mapping[str, int] | None = None,
) -> CostTable:
    """What the model costs, with some weights treated otherwise than they are.

    Args:
        view: the model.
        cost_model: prices each row.
        treatments: by name of the weight's site; a weight that is not among them is taken as it is stored.
        bindings: extents of open axes, by symbol or place.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: a binding or a treatment for something the model does not have.
    """
    layers = node_profiles(view, bindings)
    named = {layer.weight for layer in layers}
    for weight in treatments or {}:
        if weight not in named:
            raise UsageError("a treatment for a weight that the model does not have", where=weight)
    return price_layers(layers, for_model(cost_model, view, bindings), treatments)


def for_model(cost_model: CostModel, view: ModelView, bindings: Mapping[str, int] | None = None) -> CostModel:
    """The cost model for the rows of this model: one that has seen it, where that makes a difference."""
    return cost_model.for_model(view, bindings or {}) if isinstance(cost_model, WholeModel) else cost_model


def price_layers(
    layers: Sequence[LayerProfile],
    cost_model: CostModel,
    treatments: Mapping[str, Treatment] | None = None,
) -> CostTable:
    """`price` of profiles that are at hand already."""
    rows, unpriced = [], []
    for layer in layers:
        treatment = (treatments or {}).get(layer.weight) or as_stored(layer)
        try:
            rows.append(CostRow(layer, treatment, cost_model.estimate(layer, treatment)))
        except UnpricedOperator as error:
            unpriced.append(Unpriced(layer.node, layer.scope, layer.op_type, error.what))
    costs = [row.cost for row in rows]
    if isinstance(cost_model, Composition):
        return CostTable(tuple(rows), cost_model.compose(costs), cost_model.composition, tuple(unpriced))
    return CostTable(tuple(rows), add_costs(costs), SUM, tuple(unpriced))


def as_stored(layer: LayerProfile) -> Treatment:
    """The treatment that the layer's weight has had; zeros count as unstructured."""
    return Treatment(layer.density, layer.bits)


def add_costs(costs: Sequence[Cost]) -> Cost:
    """Sum figure by figure; None where a row does not say. As uncertain as the most uncertain row."""
    sums: dict[str, float | None] = {}
    for name in FIGURES:
        figures = [getattr(cost, name) for cost in costs]
        sums[name] = None if None in figures or not figures else float(sum(figures))
    doubts = [cost.uncertainty for cost in costs if cost.uncertainty is not None]
    return Cost(**sums, uncertainty=max(doubts, default=None))


def break_even(
    cost_model: CostModel,
    layer: LayerProfile | Sequence[LayerProfile],
    bits: int | None = None,
    structure: str = "unstructured",
    figure: str | None = None,
) -> float:
    """Least pruning ratio (weights over nonzeros) at which a layer costs less than the dense one.

    Where cost falls continuously, this is where both cost the same: the break-even pruning ratio of Ren et
    al., arXiv 1812.11677, section 5.2. 1 where any pruning pays, inf where none does. Found on the cost
    model's own curve: ratios from 1 to all weights but one, and the first that pays narrowed down to one
    weight (channel) less.

    Args:
        cost_model: whose curve it is.
        layer: a row, or all rows of one weight that is used several times.
        bits: of a weight, dense and pruned; None: as stored.
        structure: how the zeros lie. A pattern N:M has one ratio, M / N.
        figure: which of the cost model's figures; None: the first.

    Raises:
        UsageError: the cost model does not give that figure.
        UnknownExtent, UnpricedOperator: from the cost model.
    """
    uses = (layer,) if isinstance(layer, LayerProfile) else tuple(layer)
    figure = chosen_figure(cost_model, figure)
    width = uses[0].bits if bits is None else bits

    def cost(density: float) -> float:
        treatment = Treatment(density, width, structure)
        return float(sum(getattr(cost_model.estimate(use, treatment), figure) for use in uses))

    dense = cost(1.0)
    pattern = Treatment(1.0, width, structure).pattern
    if pattern is not None:
        kept, of = pattern
        return of / kept if cost(kept / of) < dense * _LESS else math.inf
    units = uses[0].channels if structure == "channel" else uses[0].size

    def pays(kept: int) -> bool:
        return cost(kept / units) < dense * _LESS

    return _least_ratio(units, pays)


def chosen_figure(cost_model: CostModel, figure: str | None) -> str:
    """The figure asked for (``latency`` or ``latency_s``), else the one the cost model is about.

    Raises:
        UsageError: the cost model does not give it.
    """
    if figure is None:
        return cost_model.figures[0]
    figure = FIGURE_OF.get(figure, figure)
    if figure not in cost_model.figures:
        raise UsageError(
            "the cost model does not give that figure",
            where=cost_model.name,
            got=figure,
            expected=f"one of {', '.join(cost_model.figures)}",
        )
    return figure


def _least_ratio(units: int, pays: Callable[[int], bool]) -> float:
    """``units`` over the most kept units that pay, by trying some and then halving."""
    if units < 2:
        return math.inf
    if pays(units - 1):
        return 1.0
    tried = np.unique(np.round(units / np.geomspace(1, units, _RATIOS)).astype(int))[::-1]
    below = units - 1
    for kept in map(int, tried):
        if kept >= units - 1:
            continue
        if pays(kept):
            return units / _narrowed(kept, below, pays)
        below = kept
    return math.inf


def _narrowed(paying: int, losing: int, pays: Callable[[int], bool]) -> int:
    while losing - paying > 1:
        middle = (paying + losing) // 2
        paying, losing = (middle, losing) if pays(middle) else (paying, middle)
    return paying
