"""Placement: which units are integer, given which of them are requested to be.

- A product is integer if it is requested to be.
- A kernel without a weight is integer if all its inputs come from integer nodes or are quantised for a
  product anyway: quantising a float for an addition alone costs more than the addition.
- A node that passes integers through is integer if its input is and an integer node reads its output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_admm.model.integers.plan import IntegerPlan, IntegerProduct, IntegerWeight, TensorGrid
from onnx_admm.quantization.units import Kind, Unit, roots_of
from onnx_admm.quantization.weights import with_bias


@dataclass(frozen=True)
class Placement:
    """Units that are integer, and the values between them.

    Attributes:
        units: integer units, in order.
        quantised: values on a grid: read or given as integers.
        given: those of them that are outputs of an integer unit.
    """

    units: tuple[Unit, ...]
    quantised: frozenset[str]
    given: frozenset[str]


def place(units: Sequence[Unit], asked: Collection[int]) -> Placement:
    """Return the placement for the units that are requested to be integer.

    Args:
        units: units in graph order.
        asked: nodes of products and kernels that should be integer.
    """
    products = [unit for unit in units if unit.kind is Kind.PRODUCT and unit.node in asked]
    quantised = {name for unit in products for name in unit.inputs}
    integer, given = list[Unit](), set[str]()
    for unit in units:
        if unit.kind is Kind.PRODUCT:
            is_integer = unit.node in asked
        elif unit.kind is Kind.KERNEL:
            is_integer = unit.node in asked and quantised.issuperset(unit.inputs)
        else:
            is_integer = quantised.issuperset(unit.inputs)
        if is_integer:
            integer.append(unit)
            if unit.must_quantise:
                given.add(unit.output)
                quantised.add(unit.output)
    kept = _without_idle(integer)
    read = {name for unit in kept for name in unit.inputs}
    given = {unit.output for unit in kept if unit.must_quantise or unit.output in read}
    return Placement(tuple(kept), frozenset(read | given), frozenset(given))


def _without_idle(integer: Sequence[Unit]) -> list[Unit]:
    """Return the units without passing ones whose integers no integer unit reads."""
    read, kept = set[str](), list[Unit]()
    for unit in reversed(integer):
        if unit.kind is not Kind.PASSING or unit.output in read:
            kept.append(unit)
            read.update(unit.inputs)
    return kept[::-1]


def plan_of(
    placement: Placement,
    roots: Mapping[str, str],
    grids: Mapping[str, TensorGrid],
    weights: Mapping[int, IntegerWeight],
    ranks: Mapping[str, int],
) -> IntegerPlan | None:
    """Return the plan of what is written; None where a bias does not fit int32.

    Args:
        placement: the integer units.
        roots: the value that a unit passes through, by the unit's output.
        grids: grid of each root.
        weights: weight of each product, by node.
        ranks: number of axes of values, by root.
    """
    products = list[IntegerProduct]()
    for unit in placement.units:
        if unit.kind is not Kind.PRODUCT:
            continue
        weight, bias = weights[unit.node], None
        if unit.bias is not None:
            found = product_with_bias(unit, weight, grid_at(unit.inputs[0], roots, grids))
            if found is None:
                return None
            weight, bias = found
        rank = ranks.get(unit.inputs[0], 0)
        products.append(IntegerProduct(unit.node, weight, bias, rank))
    others = tuple(unit.node for unit in placement.units if unit.kind is not Kind.PRODUCT)
    on_grids = {name: grid_at(name, roots, grids) for name in sorted(placement.quantised)}
    return IntegerPlan(tuple(products), others, on_grids, placement.given)


def product_with_bias(
    unit: Unit, weight: IntegerWeight, grid: TensorGrid
) -> tuple[IntegerWeight, npt.NDArray[np.int32]] | None:
    """Return the weight and the bias of a product whose data is on the grid; None where int32 is too small.

    Raises:
        ValueError: the unit has no weight or no bias.
    """
    if unit.weight is None or unit.bias is None:
        raise ValueError(f"{unit.name} has no weight or no bias")
    return with_bias(weight, unit.weight, unit.bias, grid.scale)


def grid_at(name: str, roots: Mapping[str, str], grids: Mapping[str, TensorGrid]) -> TensorGrid:
    """Return the grid of a value: its root's."""
    return grids[roots.get(name, name)]


def roots_read(units: Sequence[Unit]) -> dict[int, frozenset[str]]:
    """Return by node of a product or kernel the roots of all values that it reads, or gives as integers."""
    roots = roots_of(units)
    return {
        unit.node: frozenset(
            roots.get(name, name) for name in (*unit.inputs, *((unit.output,) if unit.must_quantise else ()))
        )
        for unit in units
        if unit.kind is not Kind.PASSING
    }
