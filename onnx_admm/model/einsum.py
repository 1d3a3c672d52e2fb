"""Einsum as a layer: axes of an operand that are output and input channels, and multiply-accumulates.

Source: ONNX operator Einsum (opset 12); a letter that the output lacks is summed over.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir


def terms_of(node: ir.Node) -> tuple[tuple[str, ...], str] | None:
    """Return the letters of every operand and of the output; None where "..." stands for axes."""
    equation = node.attributes.get_string("equation", "") or ""
    left, arrow, right = equation.replace(" ", "").partition("->")
    if "." in equation:
        return None
    operands = tuple(left.split(","))
    if not arrow:  # letters that appear once, in alphabetical order
        counts = Counter(left.replace(",", ""))
        right = "".join(sorted(letter for letter, count in counts.items() if count == 1))
    return operands, right


def channel_axes(node: ir.Node, index: int) -> tuple[int | None, int | None]:
    """Return an operand's last axis that the output has, and its first that is summed over; None if none."""
    terms = terms_of(node)
    if terms is None or index >= len(terms[0]):
        return None, None
    letters, output = terms[0][index], terms[1]
    kept = [axis for axis, letter in enumerate(letters) if letter in output]
    summed = [axis for axis, letter in enumerate(letters) if letter not in output]
    return (kept[-1] if kept else None), (summed[0] if summed else None)


def einsum_macs(node: ir.Node, shapes: Sequence[tuple[int, ...] | None]) -> int | None:
    """Return the number of products, one for each combination of letters; None where an extent is unknown."""
    terms = terms_of(node)
    if terms is None or len(terms[0]) != len(shapes):
        return None
    extents: dict[str, int] = {}
    for letters, shape in zip(terms[0], shapes, strict=True):
        if shape is None or len(letters) != len(shape):
            return None
        for letter, extent in zip(letters, shape, strict=True):
            extents[letter] = max(extents.get(letter, 1), extent)
    return math.prod(extents.values())
