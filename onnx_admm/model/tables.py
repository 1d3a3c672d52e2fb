"""Tables that are added or looked up at fixed places: positions that were learned, and what only looks alike.

A bias has one number for each channel; a table has two axes or more, and enough elements to be worth a line.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_admm.model.constants import stored_tensor
from onnx_admm.model.operators import Trait, operators_with

LEAST_ELEMENTS = 1024
_DECODING = operators_with(Trait.DECODES)


def is_table(shape: Sequence[int]) -> bool:
    """Whether a constant of that shape may be a table, and no bias."""
    size = 1
    for extent in shape:
        size *= extent
    return sum(extent > 1 for extent in shape) >= 2 and size >= LEAST_ELEMENTS


def decodes(nodes: Sequence[ir.Node]) -> bool:
    """Whether constants that these nodes compute were encoded, and not only moved or made up by a formula."""
    return any(node.op_type in _DECODING for node in nodes)


def stored_table(value: ir.Value) -> bool:
    """Whether a value is a stored constant of floats and of a table's shape."""
    tensor = stored_tensor(value)
    return tensor is not None and tensor.dtype.is_floating_point() and is_table(tuple(tensor.shape.numpy()))
