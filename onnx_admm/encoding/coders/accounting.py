"""Expected bytes of a layer in the packed form, for a random support."""

from __future__ import annotations

import math

from onnx_admm.encoding.coders.bits import MOST_LOW_BITS, digits_per_word
from onnx_admm.encoding.coders.dense_coder import WORD_BITS

GAPS_MUST_SAVE = 1.1
"""Ratio of bits of digits over bits of gaps and codes from which on gaps are used: they load more slowly."""

_SLOW_FROM = 1 << 14
"""Elements from which on the loading time of a weight counts."""


def gaps_price(elements: int) -> float:
    """Return the factor on bits of gaps and codes for a comparison with those of digits."""
    return GAPS_MUST_SAVE if elements >= _SLOW_FROM else 1.0


def packed_bytes(elements: int, nonzeros: float, levels: int) -> float:
    """Return the expected bytes of a layer's codes and index in the cheapest packed coding.

    The least of gaps with codes, ``nonzeros (ceil(log2 levels) + l + 1 / (1 - q^(2^l))) / 8`` with the best
    Rice parameter l and ``q = 1 - nonzeros / elements``; and digits of radix ``levels + 1`` (``levels`` where
    nothing is zero) for every element. Decoder, codebook and shape are not in it: layers share them.

    Args:
        elements: weights of the layer.
        nonzeros: expected number of kept weights, at random places.
        levels: distinct nonzero values.

    Source: Golomb, IEEE Trans. IT 12 (1966), for the mean length of the unary part.
    """
    if nonzeros == 0:
        return 0.0
    dense = digit_bits(levels + (nonzeros < elements)) * elements
    code = max(1, (levels - 1).bit_length())
    sparse = nonzeros * (code + gap_bits(nonzeros / elements))
    return (dense if dense <= sparse * gaps_price(elements) else sparse) / 8


def gap_bits(density: float) -> float:
    """Return the expected bits of index for each kept weight, Rice-coded with the best parameter."""
    if density >= 1:
        return 1.0
    stay = math.log1p(-density)
    return min(low - 1 / math.expm1((1 << low) * stay) for low in range(MOST_LOW_BITS + 1))


def digit_bits(levels: int) -> float:
    """Return the bits of a weight with a digit for every element: the better of two word widths; else inf."""
    widths = [bits / count for bits in WORD_BITS if (count := digits_per_word(max(2, levels), bits))]
    return min(widths, default=math.inf)
