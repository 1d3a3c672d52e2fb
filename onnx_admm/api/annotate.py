"""A cost model's figures, written into the model where viewers such as Netron show them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import fields

from onnx_admm.contracts import Cost, CostModel, ModelView, Treatment
from onnx_admm.errors import PassRefused
from onnx_admm.model.annotation import annotate_nodes
from onnx_admm.model.shapes import layer_profiles


def annotate(
    source: str | os.PathLike[str], target: str | os.PathLike[str], cost_model: CostModel
) -> dict[str, Cost]:
    """Write what each node costs as it stands in ``source`` into ``metadata_props`` of a copy at ``target``.

    Keys are ``onnx_admm.<cost model>.<figure>``: on the node from IR version 10 on, else on the model, with
    ``:<node>`` behind. The model also gets each figure's ``.total``, the sum over the nodes, and
    ``.assumes``, what the cost model takes for granted.

    Returns:
        Cost by node.

    Raises:
        ModelError: ``source`` cannot be read.
        PassRefused: the model has no node with weights.
        OutputError: the copy cannot be written; whatever was at ``target`` is still there.
    """
    view = ModelView.load(source)
    costs = price_nodes(view, cost_model)
    if not costs:
        raise PassRefused("no node with weights to annotate", where=os.fspath(source))
    prefix = f"onnx_admm.{cost_model.name}"
    annotate_nodes(view, {node: _notes(prefix, cost) for node, cost in costs.items()})
    totals = _notes(prefix, total(costs.values()))
    view.metadata.update({f"{key}.total": figure for key, figure in totals.items()})
    view.metadata[f"{prefix}.assumes"] = cost_model.assumes
    view.save(target)
    return costs


def price_nodes(view: ModelView, cost_model: CostModel) -> dict[str, Cost]:
    """Cost of every node with weights, by name, treated as it is: its density and its bits."""
    costs: dict[str, Cost] = {}
    for profile in layer_profiles(view):
        density = profile.nonzeros / profile.parameters if profile.parameters else 1.0
        cost = cost_model.estimate(profile, Treatment(density, profile.bits))
        known = costs.get(profile.node)
        costs[profile.node] = cost if known is None else total([known, cost])
    return costs


def total(costs: Iterable[Cost]) -> Cost:
    """Sum of the rows, figure by figure; None where a row does not say."""
    rows = list(costs)
    sums: dict[str, float | None] = {}
    for entry in fields(Cost):
        figures = [getattr(row, entry.name) for row in rows]
        sums[entry.name] = None if None in figures or not figures else float(sum(figures))
    return Cost(**sums)


def _notes(prefix: str, cost: Cost) -> dict[str, str]:
    figures = {entry.name: getattr(cost, entry.name) for entry in fields(cost)}
    return {f"{prefix}.{name}": f"{figure:.6g}" for name, figure in figures.items() if figure is not None}
