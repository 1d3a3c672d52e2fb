"""The contract tests of cost models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from onnx_admm.contracts import (
    QUANTITIES,
    Composition,
    CompressionOption,
    Cost,
    CostModel,
    LayerProfile,
    ModelView,
)
from onnx_admm.errors import OnnxAdmmError, UnknownExtent, UnpricedOperator
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pricing.pricing import add_costs, as_stored, break_even, for_model, price
from onnx_admm.testing.contract import demand

_DENSITIES = (0.0, 0.01, 0.1, 0.5, 1.0)
_BITS = (1, 2, 4, 8, 32)
_STRUCTURES = ("unstructured", "2:4", "block", "channel")
_OPTIONS = (
    *(CompressionOption(density, bits) for density, bits in itertools.product(_DENSITIES, _BITS)),
    *(CompressionOption(0.5, bits, structure) for bits, structure in itertools.product(_BITS, _STRUCTURES)),
)
_BOUND = {"N": 1, "T": 7}
_OTHERWISE = {"N": 3, "T": 11}
_NEVER_EXACT = ("latency_s", "energy_j")

_KINDS = """
    <ir_version: 10, opset_import: ["" : 17]>
    kinds (float[N,8,12,12] x, float[T,N,6] steps, int64[N] ids)
        => (float[N,3] scores, float[N,N] likeness, float[T,1,N,5] heard, float[N,8] looked_up)
    <float[16,8,3,3] w1, float[16] b1, float[16,1,3,3] w2, float[64,16,1,1] w3, float[10,64] w4,
     float[10,3] w5, float[1,20,6] w6, float[1,20,5] w7, float[100,8] table>
    {
        conv = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        relu = Relu (conv)
        depthwise = Conv <group = 16> (relu, w2)
        pointwise = Conv (depthwise, w3)
        pooled = GlobalAveragePool (pointwise)
        flat = Flatten (pooled)
        dense = Gemm <transB = 1> (flat, w4)
        tiny = MatMul (dense, w5)
        scores = Softmax (tiny)
        turned = Transpose (dense)
        likeness = MatMul (dense, turned)
        heard = LSTM <hidden_size = 5> (steps, w6, w7)
        looked_up = Gather (table, ids)
    }"""


def layers(bindings: Mapping[str, int] | None = None) -> tuple[LayerProfile, ...]:
    """Return rows of every kind that a cost model meets.

    These are convolutions, products, a recurrent layer, a lookup and nodes without weights.

    Args:
        bindings: extents of the axes ``N`` and ``T``; by default 1 and 7.

    Example:
        >>> from onnx_admm.testing import layers
        >>> [layer.op_type for layer in layers()][:4]
        ['Conv', 'Relu', 'Conv', 'Conv']
        >>> layers()[0].macs, layers({"N": 2, "T": 7})[0].macs
        (165888, 331776)
    """
    return node_profiles(_kinds(), _BOUND if bindings is None else bindings)


def check_cost_model(model: CostModel) -> None:
    """Check a cost model's contract on `layers`, under all kinds of compression options.

    It states its assumptions and its quantities, and gives these and no others, with an uncertainty for times
    and energies. Every quantity is finite and not negative; equal questions get equal answers; a quantity
    that depends on an open axis raises `UnknownExtent`, which says how to bind it; a row is priced or refused
    with a named error that names it; rows without a price are listed by `price`, the total is the stated
    composition of the rest; a break-even ratio is at least 1.

    Raises:
        ContractBroken: names the cost model, the layer and the requirement.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> from onnx_admm.contracts import Cost
        >>> from onnx_admm.testing import check_cost_model
        >>> @dataclass(frozen=True)
        ... class Bits:
        ...     '''Counts the bits of all weights.'''
        ...     name: ClassVar[str] = "bits"
        ...     assumes: ClassVar[str] = "zeros are not stored, and their places take nothing"
        ...     quantities: ClassVar[tuple[str, ...]] = ("bytes",)
        ...     def estimate(self, layer, option):
        ...         return Cost(bytes=layer.parameters * option.density * option.bits / 8)
        >>> check_cost_model(Bits())
    """
    subject = getattr(model, "name", type(model).__name__)
    _check_declaration(model, subject)
    priced = 0
    rows = zip(layers(), layers(_OTHERWISE), layers({}), strict=True)
    for bound, otherwise, unbound in rows:
        for option in _OPTIONS if bound.weight else (as_stored(bound),):
            case = f"{subject} on {bound.node} ({bound.op_type}), {_say(option)}"
            cost = _estimate(model, bound, option, case)
            if cost is not None:
                priced += 1
                _check_cost(model, cost, case)
                demand(
                    model.estimate(bound, option) == cost, case, "gives the same answer to the same question"
                )
                _check_unbound(model, (bound, otherwise, unbound), option, case)
    demand(priced > 0, subject, "prices at least one row")
    _check_table(model, subject)
    _check_break_even(model, subject)


def _check_declaration(model: CostModel, subject: str) -> None:
    demand(isinstance(model, CostModel), subject, "has all members of the CostModel protocol")
    parameters = getattr(type(model), "__dataclass_params__", None)
    demand(parameters is not None and parameters.frozen, subject, "is a frozen dataclass")
    demand(bool(model.assumes.strip()), subject, "says what it assumes")
    demand(bool(model.quantities), subject, "gives at least one quantity")
    unknown = [name for name in model.quantities if name not in QUANTITIES]
    demand(not unknown, subject, f"gives quantities among {', '.join(QUANTITIES)}", unknown or None)


def _estimate(model: CostModel, layer: LayerProfile, option: CompressionOption, case: str) -> Cost | None:
    """Return the cost; None where the row was refused with a named error."""
    try:
        return model.estimate(layer, option)
    except OnnxAdmmError as error:
        demand(layer.node in str(error), case, "names the node it cannot price", error)
        demand(not isinstance(error, UnknownExtent), case, "prices what is bound", error)
        return None


def _check_cost(model: CostModel, cost: Cost, case: str) -> None:
    for name in QUANTITIES:
        quantity = getattr(cost, name)
        promised = name in model.quantities
        demand((quantity is not None) == promised, case, f"gives {name} if and only if it says so", quantity)
        sound = quantity is None or (math.isfinite(quantity) and quantity >= 0)
        demand(sound, case, f"gives a finite {name} of at least 0", quantity)
    doubt = cost.uncertainty
    inexact = any(name in model.quantities for name in _NEVER_EXACT)
    demand(doubt is not None or not inexact, case, "says how uncertain times and energies are")
    demand(doubt is None or (math.isfinite(doubt) and doubt >= 0), case, "gives an uncertainty of at least 0")


def _check_unbound(
    model: CostModel, layers: tuple[LayerProfile, ...], option: CompressionOption, case: str
) -> None:
    """Check that a quantity given in spite of open axes does not depend on them."""
    *bound, unbound = layers
    try:
        cost = model.estimate(unbound, option)
    except UnknownExtent as error:
        demand("--bind " in str(error), case, "says which axis to bind, and how", error)
        return
    except OnnxAdmmError as error:
        demand(False, case, "answers an open axis with UnknownExtent", error)
        return
    same = all(model.estimate(layer, option) == cost for layer in bound)
    demand(same, case, "refuses an open axis that its quantities depend on", cost)


def _check_table(model: CostModel, subject: str) -> None:
    view = _kinds()
    table = price(view, model, bindings=_BOUND)
    named = {row.layer.node for row in table.rows} | {row.node for row in table.unpriced}
    missing = {layer.node for layer in layers()} - named
    demand(not missing, subject, "prices every node or lists it as unpriced", missing or None)
    costs = [row.cost for row in table.rows]
    seen = for_model(model, view, _BOUND)
    expected = seen.compose(costs) if isinstance(seen, Composition) else add_costs(costs)
    demand(table.total == expected, subject, f"totals {table.composition}", table.total)
    demand(bool(table.composition.strip()), subject, "says how rows become a total")


def _check_break_even(model: CostModel, subject: str) -> None:
    for layer, bits, quantity in itertools.product(layers(), (2, 8, 32), model.quantities):
        if not layer.weight:
            continue
        for structure in _STRUCTURES:
            case = f"{subject} on {layer.node} at {bits} bits, {structure}"
            try:
                ratio = break_even(model, layer, bits, structure, quantity)
            except UnpricedOperator:
                continue
            demand(ratio >= 1.0, case, "breaks even at 1x or more", ratio)


def _say(option: CompressionOption) -> str:
    return f"density {option.density}, {option.bits} bits, {option.structure}"


def _kinds() -> ModelView:
    return parse_text(_KINDS)
