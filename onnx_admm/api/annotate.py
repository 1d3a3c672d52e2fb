"""A cost model's figures, written into the model where viewers such as Netron show them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from onnx_admm.contracts import FIGURES, Cost, CostModel, ModelView
from onnx_admm.errors import PassRefused
from onnx_admm.model.annotation import annotate_nodes
from onnx_admm.pricing import add_costs, price


def annotate(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    cost_model: CostModel,
    bindings: Mapping[str, int] | None = None,
) -> dict[str, Cost]:
    """Write what each node costs as it stands in ``source`` into ``metadata_props`` of a copy at ``target``.

    Keys are ``onnx_admm.<cost model>.<figure>``: on the node from IR version 10 on, else on the model, with
    ``:<node>`` behind. The model also gets each figure's ``.total`` and ``.assumes``, what the cost model
    takes for granted.

    Returns:
        Cost by node with weights.

    Raises:
        ModelError: ``source`` cannot be read.
        UnknownExtent: a cost depends on an axis that is left open.
        PassRefused: the model has no node with weights.
        OutputError: the copy cannot be written; whatever was at ``target`` is still there.
    """
    view = ModelView.load(source)
    table = price(view, cost_model, bindings=bindings)
    costs: dict[str, Cost] = {}
    for row in table.rows:
        if row.layer.weight:
            known = costs.get(row.layer.node)
            costs[row.layer.node] = row.cost if known is None else add_costs([known, row.cost])
    if not costs:
        raise PassRefused("no node with weights to annotate", where=os.fspath(source))
    prefix = f"onnx_admm.{cost_model.name}"
    annotate_nodes(view, {node: _notes(prefix, cost) for node, cost in costs.items()})
    totals = _notes(prefix, table.total)
    view.metadata.update({f"{key}.total": figure for key, figure in totals.items()})
    view.metadata[f"{prefix}.assumes"] = cost_model.assumes
    view.save(target)
    return costs


def _notes(prefix: str, cost: Cost) -> dict[str, str]:
    figures = {name: getattr(cost, name) for name in FIGURES}
    return {f"{prefix}.{name}": f"{figure:.6g}" for name, figure in figures.items() if figure is not None}
