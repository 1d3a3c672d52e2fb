"""Costs of a model file under a cost model, and possible gains of each layer, as data."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx_admm.contracts import QUANTITIES, CompressionOption, Cost, CostModel, LayerProfile, ModelView
from onnx_admm.pricing.pricing import (
    CostRow,
    CostTable,
    Unpriced,
    basis_of,
    break_even,
    chosen_quantity,
    for_model,
    price,
)
from onnx_admm.report.document import Document

ZEROS = "90 % zeros"
_DENSITY = 0.1
_NARROW = (8, 4)


@dataclass(frozen=True, kw_only=True)
class CostRowFacts:
    """One row of a price list.

    Attributes:
        node, scope, op_type, weight: identity of the row; ``weight`` is empty for a node without.
        option: compression option of the stored weight; None without one.
        cost: present cost.
        shares: share of the rows' sum, by quantity; None where that is 0.
        break_even: least pruning ratio from the dense layer on that pays; infinite where none does, None
            without a weight.
        gains: cost of the row under other options of its weight, by name: more zeros, fewer bits.
    """

    node: str
    scope: str
    op_type: str
    weight: str
    option: CompressionOption | None
    cost: Cost
    shares: Mapping[str, float | None]
    break_even: float | None
    gains: Mapping[str, Cost]


@dataclass(frozen=True, kw_only=True)
class CostFacts(Document):
    """Costs of a model file under a cost model.

    Attributes:
        path: the file.
        cost_model, assumes, quantities: as the cost model states them.
        basis: what the quantities are: ``measured`` on this machine, ``predicted`` or ``counted``.
        quantity: the quantity of the break-even ratios.
        bindings: extents of open axes.
        rows: rows in graph order.
        total, composition, unpriced: as in `CostTable`.
    """

    path: str
    cost_model: str
    assumes: str
    quantities: tuple[str, ...]
    basis: str
    quantity: str
    bindings: Mapping[str, int]
    rows: tuple[CostRowFacts, ...]
    total: Cost
    composition: str
    unpriced: tuple[Unpriced, ...]


def describe_costs(
    view: ModelView,
    path: str | os.PathLike[str],
    cost_model: CostModel,
    bindings: Mapping[str, int] | None = None,
    quantity: str | None = None,
) -> CostFacts:
    """Return the costs of a model that was loaded from ``path``.

    Args:
        view: the model.
        path: its file.
        cost_model: prices it.
        bindings: extents of open axes, by symbol or place.
        quantity: the quantity of break-even ratios; None: the cost model's first.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: the cost model does not give that quantity.
    """
    quantity, basis = chosen_quantity(cost_model, quantity), basis_of(cost_model)
    cost_model = for_model(cost_model, view, bindings)
    table = price(view, cost_model, bindings=bindings)
    sums = _sums(table, cost_model)
    ratios = _break_even_ratios(table, cost_model, quantity)
    return CostFacts(
        path=os.fspath(path),
        cost_model=cost_model.name,
        assumes=cost_model.assumes,
        quantities=cost_model.quantities,
        basis=basis,
        quantity=quantity,
        bindings=dict(bindings or {}),
        rows=tuple(_row(row, cost_model, sums, ratios) for row in table.rows),
        total=table.total,
        composition=table.composition,
        unpriced=table.unpriced,
    )


def _row(
    row: CostRow, cost_model: CostModel, sums: Mapping[str, float], ratios: Mapping[str, float]
) -> CostRowFacts:
    layer = row.layer
    return CostRowFacts(
        node=layer.node,
        scope=layer.scope,
        op_type=layer.op_type,
        weight=layer.weight,
        option=row.option if layer.weight else None,
        cost=row.cost,
        shares={name: getattr(row.cost, name) / total if total else None for name, total in sums.items()},
        break_even=ratios.get(layer.weight),
        gains={what: cost_model.estimate(layer, other) for what, other in _alternatives(row).items()},
    )


def _alternatives(row: CostRow) -> dict[str, CompressionOption]:
    """Return options with more zeros and fewer bits than the weight has."""
    if not row.layer.weight:
        return {}
    have = row.option
    others = {ZEROS: replace(have, density=_DENSITY)} if have.density > _DENSITY else {}
    return others | {f"{bits} bits": replace(have, bits=bits) for bits in _NARROW if have.bits > bits}


def _sums(table: CostTable, cost_model: CostModel) -> dict[str, float]:
    return {
        name: math.fsum(getattr(row.cost, name) for row in table.rows)
        for name in QUANTITIES
        if name in cost_model.quantities
    }


def _break_even_ratios(table: CostTable, cost_model: CostModel, quantity: str) -> dict[str, float]:
    """Return break-even ratios by weight, all its uses together, at its stored bits."""
    uses: dict[str, list[LayerProfile]] = defaultdict(list)
    for row in table.rows:
        if row.layer.weight:
            uses[row.layer.weight].append(row.layer)
    return {weight: break_even(cost_model, layers, quantity=quantity) for weight, layers in uses.items()}
