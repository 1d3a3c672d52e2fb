"""Price lists: costs of a model row by row, and the break-even pruning ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_admm.contracts import (
    QUANTITIES,
    QUANTITY_OF,
    Composition,
    CompressionOption,
    Cost,
    CostModel,
    LayerProfile,
    ModelView,
    WholeModel,
)
from onnx_admm.errors import UnpricedOperator, UsageError
from onnx_admm.model import node_profiles

SUM = "the sum of the rows"

_RATIOS = 64
"""Pruning ratios tried of a layer, evenly spread by their logarithm, before bisection."""

_LESS = 1 - 1e-9
"""Relative difference below which costs count as equal."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """One priced row: a node with one of its weights, or a node without."""

    layer: LayerProfile
    option: CompressionOption
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
    """Costs of a model.

    Attributes:
        rows: rows in graph order.
        total: total of the rows, composed as ``composition`` says; without ``unpriced``.
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
    options: Mapping[str, CompressionOption] | None = None,
    bindings: Mapping[str, int] | None = None,
) -> CostTable:
    """Return the costs of a model, with some weights stored under other options.

    Args:
        view: the model.
        cost_model: prices each row.
        options: options by name of the weight's site; other weights count as they are stored.
        bindings: extents of open axes, by symbol or place.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: a binding or a compression option for something the model does not have.
    """
    layers = node_profiles(view, bindings)
    named = {layer.weight for layer in layers}
    for weight in options or {}:
        if weight not in named:
            raise UsageError("a compression option for a weight that the model does not have", where=weight)
    return price_layers(layers, for_model(cost_model, view, bindings), options)


def for_model(cost_model: CostModel, view: ModelView, bindings: Mapping[str, int] | None = None) -> CostModel:
    """Return the cost model for the rows of this model: one that knows the model, where it has one."""
    return cost_model.for_model(view, bindings or {}) if isinstance(cost_model, WholeModel) else cost_model


def price_layers(
    layers: Sequence[LayerProfile],
    cost_model: CostModel,
    options: Mapping[str, CompressionOption] | None = None,
) -> CostTable:
    """Return the costs of given profiles; see `price`."""
    rows, unpriced = [], []
    for layer in layers:
        option = (options or {}).get(layer.weight) or as_stored(layer)
        try:
            rows.append(CostRow(layer, option, cost_model.estimate(layer, option)))
        except UnpricedOperator as error:
            unpriced.append(Unpriced(layer.node, layer.scope, layer.op_type, error.what))
    costs = [row.cost for row in rows]
    if isinstance(cost_model, Composition):
        return CostTable(tuple(rows), cost_model.compose(costs), cost_model.composition, tuple(unpriced))
    return CostTable(tuple(rows), add_costs(costs), SUM, tuple(unpriced))


def as_stored(layer: LayerProfile) -> CompressionOption:
    """Return the compression option of a layer as it is stored; zeros count as unstructured."""
    return CompressionOption(layer.density, layer.bits)


def basis_of(cost_model: CostModel) -> Literal["measured", "predicted", "counted"]:
    """Return what the quantities of a cost model are: times of this machine, predictions, or exact counts."""
    if getattr(cost_model, "is_this_machine", False):
        return "measured"
    return "counted" if {"latency_s", "energy_j"}.isdisjoint(cost_model.quantities) else "predicted"


def add_costs(costs: Sequence[Cost]) -> Cost:
    """Sum each quantity; None where a row gives none. Take the largest uncertainty."""
    sums: dict[str, float | None] = {}
    for name in QUANTITIES:
        quantities = [getattr(cost, name) for cost in costs]
        sums[name] = None if None in quantities or not quantities else float(sum(quantities))
    doubts = [cost.uncertainty for cost in costs if cost.uncertainty is not None]
    return Cost(**sums, uncertainty=max(doubts, default=None))


def break_even(
    cost_model: CostModel,
    layer: LayerProfile | Sequence[LayerProfile],
    bits: int | None = None,
    structure: str = "unstructured",
    quantity: str | None = None,
) -> float:
    """Return the least pruning ratio (weights over nonzeros) at which a layer costs less than the dense one.

    Where cost falls continuously, both cost the same there: the break-even pruning ratio of Ren et al., arXiv
    1812.11677, section 5.2. 1 where any pruning pays, inf where none does. It is found on the cost model's
    own curve: ratios from 1 to all weights but one are tried, and the first that pays is refined to one
    weight (channel).

    Args:
        cost_model: the cost model.
        layer: a row, or all rows of one weight that is used several times.
        bits: bits of a weight, dense and pruned; None: as stored.
        structure: how the zeros lie. A pattern N:M has one ratio, M / N.
        quantity: which of the cost model's quantities; None: the first.

    Raises:
        UsageError: the cost model does not give that quantity.
        UnknownExtent, UnpricedOperator: from the cost model.
    """
    uses = (layer,) if isinstance(layer, LayerProfile) else tuple(layer)
    quantity = chosen_quantity(cost_model, quantity)
    width = uses[0].bits if bits is None else bits

    def cost(density: float) -> float:
        option = CompressionOption(density, width, structure)
        return float(sum(getattr(cost_model.estimate(use, option), quantity) for use in uses))

    dense = cost(1.0)
    pattern = CompressionOption(1.0, width, structure).pattern
    if pattern is not None:
        kept, of = pattern
        return of / kept if cost(kept / of) < dense * _LESS else math.inf
    units = uses[0].channels if structure == "channel" else uses[0].size

    def pays(kept: int) -> bool:
        return cost(kept / units) < dense * _LESS

    return _least_ratio(units, pays)


def chosen_quantity(cost_model: CostModel, quantity: str | None) -> str:
    """Return the requested quantity (``latency`` or ``latency_s``), else the cost model's main one.

    Raises:
        UsageError: the cost model does not give it.
    """
    if quantity is None:
        return cost_model.quantities[0]
    quantity = QUANTITY_OF.get(quantity, quantity)
    if quantity not in cost_model.quantities:
        raise UsageError(
            "the cost model does not give that quantity",
            where=cost_model.name,
            got=quantity,
            expected=f"one of {', '.join(cost_model.quantities)}",
        )
    return quantity


def _least_ratio(units: int, pays: Callable[[int], bool]) -> float:
    """Return ``units`` over the most kept units that pay, by trying some and then bisecting."""
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
