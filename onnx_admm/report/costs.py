"""Where time, energy and bytes go under a cost model, and what each layer would gain, as data."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx_admm.contracts import FIGURES, Cost, CostModel, LayerProfile, ModelView, Treatment
from onnx_admm.pricing.pricing import (
    CostRow,
    CostTable,
    Unpriced,
    break_even,
    chosen_figure,
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
        node, scope, op_type, weight: what it is; ``weight`` is empty for a node without.
        treatment: what the weight has had; None without one.
        cost: as it is.
        shares: of the rows' sum, by figure; None where that is 0.
        break_even: least pruning ratio from the dense layer on that pays; infinite where none does, None
            without a weight.
        gains: cost of the row if its weight were treated otherwise, by what: more zeros, fewer bits.
    """

    node: str
    scope: str
    op_type: str
    weight: str
    treatment: Treatment | None
    cost: Cost
    shares: Mapping[str, float | None]
    break_even: float | None
    gains: Mapping[str, Cost]


@dataclass(frozen=True, kw_only=True)
class CostFacts(Document):
    """What a model file costs under a cost model.

    Attributes:
        path: the file.
        cost_model, assumes, figures: as the cost model says.
        figure: the one that ratios are found in.
        bindings: extents of open axes.
        rows: in graph order.
        total, composition, unpriced: as in `CostTable`.
    """

    path: str
    cost_model: str
    assumes: str
    figures: tuple[str, ...]
    figure: str
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
    figure: str | None = None,
) -> CostFacts:
    """Facts of a model that was loaded from ``path``.

    Args:
        view: the model.
        path: where it came from.
        cost_model: prices it.
        bindings: extents of open axes, by symbol or place.
        figure: what break-even ratios are found in; None: the cost model's first.

    Raises:
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: the cost model does not give that figure.
    """
    figure = chosen_figure(cost_model, figure)
    cost_model = for_model(cost_model, view, bindings)
    table = price(view, cost_model, bindings=bindings)
    sums = _sums(table, cost_model)
    ratios = _break_even_ratios(table, cost_model, figure)
    return CostFacts(
        path=os.fspath(path),
        cost_model=cost_model.name,
        assumes=cost_model.assumes,
        figures=cost_model.figures,
        figure=figure,
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
        treatment=row.treatment if layer.weight else None,
        cost=row.cost,
        shares={name: getattr(row.cost, name) / total if total else None for name, total in sums.items()},
        break_even=ratios.get(layer.weight),
        gains={what: cost_model.estimate(layer, other) for what, other in _alternatives(row).items()},
    )


def _alternatives(row: CostRow) -> dict[str, Treatment]:
    """More zeros and fewer bits than the weight has."""
    if not row.layer.weight:
        return {}
    have = row.treatment
    others = {ZEROS: replace(have, density=_DENSITY)} if have.density > _DENSITY else {}
    return others | {f"{bits} bits": replace(have, bits=bits) for bits in _NARROW if have.bits > bits}


def _sums(table: CostTable, cost_model: CostModel) -> dict[str, float]:
    return {
        name: math.fsum(getattr(row.cost, name) for row in table.rows)
        for name in FIGURES
        if name in cost_model.figures
    }


def _break_even_ratios(table: CostTable, cost_model: CostModel, figure: str) -> dict[str, float]:
    """By weight, all its uses together, at the bits it is stored in."""
    uses: dict[str, list[LayerProfile]] = defaultdict(list)
    for row in table.rows:
        if row.layer.weight:
            uses[row.layer.weight].append(row.layer)
    return {weight: break_even(cost_model, layers, figure=figure) for weight, layers in uses.items()}
