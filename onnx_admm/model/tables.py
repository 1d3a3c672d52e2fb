"""Tables that are added or looked up: learned positions, and constants that only look similar.

A bias has one number for each channel; a table has two axes or more, and a minimum number of elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_admm.model.constants import stored_tensor
from onnx_admm.model.operators import Trait, operators_with

LEAST_ELEMENTS = 1024
_DECODING = operators_with(Trait.DECODES)


def is_table(shape: Sequence[int]) -> bool:
    """Return whether a constant of that shape may be a table, and no bias."""
    size = 1
    for extent in shape:
        size *= extent
    return sum(extent > 1 for extent in shape) >= 2 and size >= LEAST_ELEMENTS


def decodes(nodes: Sequence[ir.Node]) -> bool:
    """Return whether constants of these nodes were encoded, and not only moved or made by a formula."""
    return any(node.op_type in _DECODING for node in nodes)


def stored_table(value: ir.Value) -> bool:
    """Return whether a value is a stored constant of floats and of a table's shape."""
    tensor = stored_tensor(value)
    return tensor is not None and tensor.dtype.is_floating_point() and is_table(tuple(tensor.shape.numpy()))
