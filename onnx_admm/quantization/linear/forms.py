"""Linear layers that stay float between nodes, and the two integer forms of each.

Dynamic int8 finds the range of the data at each run, so it holds where one fixed range loses too much.
Weight-only int8 rounds the weight alone; the runtime's kernel rounds the data of each row in blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from onnx_admm.contracts import ModelView
from onnx_admm.model.integers.plan import IntegerWeight, LinearProduct
from onnx_admm.model.integers.write_linear import BLOCKS_SINCE, write_dynamic, write_weight_only
from onnx_admm.model.opsets.convert_opset import raise_opset
from onnx_admm.model.rewrite.for_runtime.apply import apply_rewrites
from onnx_admm.quantization.units import Kind, Unit, find_units, main_nodes
from onnx_admm.quantization.weights import integer_weight

_LINEAR = ("Gemm", "MatMul")
_FOR_KERNELS = ("transposed_weight", "row_bias", "relu_after_weight")
"""Rewrites without which a layer with a dequantised weight has no kernel."""

_MOST_INT32 = 2**31 - 1
_MOST_ACTIVATION = 255


class LinearForm(Enum):
    """How an integer weight is multiplied with float data."""

    DYNAMIC = "dynamic int8"
    WEIGHT_ONLY = "weight-only int8"


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """One stored matrix, and the products that read it.

    Attributes:
        name: name of the weight.
        op_type: operator of the products.
        shape: rows and columns, rows as many as the data has elements.
        products: by form, those of the forms that it may have.
        keeps_grid: by form, whether the weight keeps a grid of its own.
        why_not: reasons against the other forms.
    """

    name: str
    op_type: str
    shape: tuple[int, int]
    products: Mapping[LinearForm, tuple[LinearProduct, ...]] = field(repr=False)
    keeps_grid: Mapping[LinearForm, bool]
    why_not: Mapping[LinearForm, str]


Choice = Mapping[str, LinearForm]
"""LinearForm of layers, by name of the weight."""


def find_linear_layers(
    view: ModelView, layers: Collection[str], forms: Collection[LinearForm], largest: int
) -> tuple[tuple[LinearLayer, ...], dict[str, str]]:
    """Return the layers that may have a form, in order, and why others may not, by name.

    A weight that other nodes read as well would be stored twice; it stays float.

    Args:
        view: the model, with static integers where it has any.
        layers: names of the weights that may be integer.
        forms: forms on offer.
        largest: largest code of a weight in the dynamic form (see ``saturation``).
    """
    readers: dict[str, list[Unit]] = defaultdict(list)
    for unit in find_units(view)[0]:
        if unit.kind is Kind.PRODUCT and unit.op_type in _LINEAR and unit.weight_name in layers:
            readers[unit.weight_name].append(unit)
    nodes = main_nodes(view)
    found, left = list[LinearLayer](), dict[str, str]()
    for name, units in readers.items():
        weight = nodes[units[0].node].input(1)
        is_shared = weight is None or weight.fixed is not None or len(weight.uses()) > len(units)
        if is_shared or len({unit.axis for unit in units}) > 1:
            left[name] = "its weight has other readers and would be stored twice"
            continue
        outputs = [nodes[unit.node].outputs[0].name for unit in units]
        found.append(_layer(units, outputs, [form for form in LinearForm if form in forms], largest))
    return tuple(found), left


def _layer(
    units: Sequence[Unit], outputs: Sequence[str], forms: Sequence[LinearForm], largest: int
) -> LinearLayer:
    first, name = units[0], units[0].weight_name
    products, keeps, why_not = (
        dict[LinearForm, tuple[LinearProduct, ...]](),
        dict[LinearForm, bool](),
        dict[LinearForm, str](),
    )
    for form in forms:
        if first.weight is None:
            continue
        limits = (largest,) if form is LinearForm.DYNAMIC else ()
        weight, keeps[form] = integer_weight(name, first.weight, first.axis, *limits)
        if form is LinearForm.DYNAMIC and _exceeds_int32(weight):
            why_not[form] = "its sums may exceed int32"
            continue
        if form is LinearForm.WEIGHT_ONLY and len(units) > 1:
            why_not[form] = "several products read its weight, which no kernel takes then"
            continue
        products[form] = tuple(
            LinearProduct(output, name, weight, unit.bias)
            for output, unit in zip(outputs, units, strict=True)
        )
    shape = (0, 0) if first.weight is None else first.weight.shape
    rows_columns = (shape[0], shape[1]) if first.axis else (shape[1], shape[0])
    return LinearLayer(name, first.op_type, rows_columns, products, keeps, why_not)


def _exceeds_int32(weight: IntegerWeight) -> bool:
    """Return whether a sum of products with 8-bit data may exceed int32."""
    sums = np.abs(weight.codes.astype(np.int64)).sum(axis=1 - weight.axis)
    return bool(_MOST_ACTIVATION * sums.max(initial=0) > _MOST_INT32)


def with_forms(view: ModelView, layers: Sequence[LinearLayer], choice: Choice) -> ModelView:
    """Return a fork in which the layers of the choice have their form.

    Args:
        view: opset 13 or newer. It is raised to 21 for weight-only layers, where that is possible.
        layers: those that ``find_linear_layers`` found in it.
        choice: form by layer.
    """
    fork = view.fork()
    chosen = [(choice[layer.name], layer) for layer in layers if layer.name in choice]
    order = {node.outputs[0].name: place for place, node in enumerate(main_nodes(view))}
    by_form = {
        form: sorted(
            (product for has, layer in chosen if has is form for product in layer.products[form]),
            key=lambda product: order[product.output],
        )
        for form in LinearForm
    }
    if by_form[LinearForm.WEIGHT_ONLY]:
        raise_opset(fork, BLOCKS_SINCE)
        write_weight_only(fork, by_form[LinearForm.WEIGHT_ONLY])
        apply_rewrites(fork, _FOR_KERNELS)
    write_dynamic(fork, by_form[LinearForm.DYNAMIC])
    return fork
