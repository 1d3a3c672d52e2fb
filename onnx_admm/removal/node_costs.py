"""Costs of nodes at narrower widths: multiply-accumulates by formula, other quantities by the cost model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_admm.contracts import CostModel, ModelView, PassContext
from onnx_admm.errors import PassRefused
from onnx_admm.model import node_profiles
from onnx_admm.model.channels.groups import ChannelGroup, Units, channel_map
from onnx_admm.pricing.pricing import basis_of, chosen_quantity, price
from onnx_admm.removal.widths import Floats


def check_cost(keep: float, quantity: str, context: PassContext) -> None:
    """Refuse a share or a quantity that no pass can meet.

    Raises:
        PassRefused: the share is not above 0 and at most 1, or there is no cost model for the quantity.
    """
    if not 0 < keep <= 1:
        raise PassRefused("impossible share", where="keep", got=keep, expected="above 0, at most 1")
    if quantity != "macs" and context.cost_model is None:
        raise PassRefused(
            "no cost model to price it",
            where="quantity",
            got=quantity,
            hint="Name one with --cost-model.",
        )


def basis_of_cost(quantity: str, context: PassContext) -> str:
    """Return whether a quantity is ``measured`` on this machine, ``predicted`` or ``counted``."""
    if quantity == "macs" or context.cost_model is None:
        return "counted"
    return basis_of(context.cost_model)


def costs_of(model: ModelView, quantity: str, context: PassContext) -> dict[str, float]:
    """Return a quantity of every node: ``"macs"`` by formula, others by the context's cost model.

    A model without counted multiply-accumulates costs nothing; see `require_cost`.
    """
    if quantity == "macs" or context.cost_model is None:
        return macs_by_node(model, context.bindings)
    return cost_by_node(model, context.cost_model, quantity, context.bindings)


def macs_by_node(model: ModelView, bindings: Mapping[str, int]) -> dict[str, float]:
    """Return the multiply-accumulates of every node with some, for one sample."""
    bound = {**_batches(model), **bindings}
    counts: dict[str, float] = defaultdict(float)
    for row in node_profiles(model, bound, reads_weights=False):
        if row.macs:
            counts[row.node] += row.macs
    return dict(counts)


def require_cost(costs: Mapping[str, float]) -> None:
    """Refuse a model that costs nothing, because no share of its cost is defined.

    Raises:
        PassRefused: the costs are all 0.
    """
    if not sum(costs.values()) > 0:
        raise PassRefused(
            "no multiply-accumulates can be counted",
            hint="Give open axes an extent with --bind.",
        )


def mac_ratios(group: ChannelGroup, orders: Units, widths: Sequence[int]) -> dict[str, Floats]:
    """Return the share of every node's multiply-accumulates that is left at some widths of a group.

    Args:
        group: the group.
        orders: units in the order of their removal.
        widths: numbers of units that stay, the largest first.
    """
    ratios: dict[str, Floats] = {}
    axes = [(port.node.name, port.units) for port in (*group.writers, *group.readers)]
    axes += [
        (through.node.name, parameter.units)
        for through in group.pass_through
        for parameter in through.parameters[:1]
        if through.node.op_type in ("Conv", "ConvTranspose")
    ]
    for name, units in axes:
        shares = np.array(
            [1.0 - np.isin(units, orders[: group.units - width]).mean() for width in widths], np.float64
        )
        ratios[name] = ratios.get(name, np.ones(len(widths))) * shares
    return ratios


def cost_by_node(
    model: ModelView, cost_model: CostModel, quantity: str, bindings: Mapping[str, int]
) -> dict[str, float]:
    """Return a quantity of every node, as the cost model prices it."""
    name = chosen_quantity(cost_model, quantity)
    costs: dict[str, float] = defaultdict(float)
    for row in price(model, cost_model, bindings={**_batches(model), **bindings}).rows:
        costs[row.layer.node] += getattr(row.cost, name) or 0.0
    return dict(costs)


def priced_ratios(
    model: ModelView,
    index: int,
    orders: Units,
    widths: Sequence[int],
    price_nodes: Callable[[ModelView], Mapping[str, float]],
    costs: Mapping[str, float],
) -> dict[str, Floats]:
    """Return the share of every node's cost that is left at some widths of a group, as the cost model says.

    Args:
        model: the model.
        index: index of the group.
        orders: units in the order of their removal.
        widths: numbers of units that stay, the largest first; the first is all of them.
        price_nodes: returns the cost of every node of a model.
        costs: present costs of nodes.
    """
    ratios = {name: np.ones(len(widths)) for name in costs}
    for place, width in enumerate(widths):
        if place == 0:
            continue
        narrow = model.fork()
        channels = channel_map(narrow)
        keep = np.ones(channels.groups[index].units, np.bool_)
        keep[orders[: len(keep) - width]] = False
        channels.remove(channels.allowed({index: keep}))
        for name, cost in price_nodes(narrow).items():
            if costs.get(name):
                ratios[name][place] = cost / costs[name]
    return {name: ratio for name, ratio in ratios.items() if (ratio != 1.0).any()}


def _batches(model: ModelView) -> dict[str, int]:
    """Return an extent of 1 for open first axes of inputs."""
    found: dict[str, int] = {}
    for port in model.signature().inputs:
        first = (port.shape or (1,))[0]
        if isinstance(first, str):
            found[first] = 1
        elif first is None:
            found[f"{port.name}[0]"] = 1
    return found
