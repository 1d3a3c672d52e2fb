"""Every weight, zeros included: digits of a radix, several to a word, behind one decoder.

    digit = (word / r^j) mod r,  weight = codebook[digit]

Standard operators (opset 10; 11 for a table of words) that ONNX Runtime folds at load. Five ternary digits to
a byte are 1.6 bits a weight, fewer than gaps and codes where more than about half of the weights are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.encoding.coders.bits import digits_per_word, pack_digits, powers
from onnx_admm.encoding.coders.unpack import INT32, Array, EncodedTensor, flatten, unpack
from onnx_admm.model.rewrite.fragment import Fragment

WORD_BITS = (8, 16)
"""Widths of a word; radices differ in which one they fill better."""

_PIECE = 1 << 20

_MANY_WORDS = 1 << 14
"""Words from which on a table pays: it takes some eighty bytes in the file."""

_RANGE_SINCE = 11


@dataclass(frozen=True)
class DenseCoder:
    """One decoder of digits.

    Attributes:
        levels: its values; zero included where a weight has zeros.
        word_bits: 8 or 16.
    """

    levels: tuple[float, ...]
    word_bits: int = 8

    @property
    def label(self) -> str:
        """Name in reports."""
        return f"digits ({len(self.levels)} levels), {self.bits:.3g} bits"

    @property
    def bits(self) -> float:
        """Bits of one weight."""
        return self.word_bits / self._digits

    @property
    def _digits(self) -> int:
        return digits_per_word(len(self.levels), self.word_bits)

    def lookups(self, size: int) -> int:
        """Return the number of look-ups that decode ``size`` weights: one for each word with a table."""
        words = -(-size // self._digits)
        return words if self._is_tabled(words) else size

    def _is_tabled(self, words: int) -> bool:
        return bool(words >= max(_MANY_WORDS, 4 * len(self.levels) ** self._digits))

    def data_bits(self, member: EncodedTensor) -> int:
        """Return the bits of the nonzeros' digits."""
        return round(int(np.count_nonzero(member.units)) * self.bits)

    def index_bits(self, member: EncodedTensor) -> int:
        """Return the bits of the zeros' digits: the cost of the nonzeros' positions."""
        return round(len(member.units) * self.bits) - self.data_bits(member)

    def emit(self, fragment: Fragment, members: Sequence[EncodedTensor]) -> dict[str, str]:
        """Append the decoder; return value names by weight name."""
        levels: Array = np.unique(np.array(self.levels, np.float32))
        digits = np.concatenate([_digits(levels, member.units) for member in members])
        per_word = self._digits
        words = pack_digits(digits, len(levels), self.word_bits)
        narrow = levels.astype(np.int8)
        if len(words) >= _MANY_WORDS and np.array_equal(narrow, levels):
            levels = narrow  # int8 steps of a scale: a quarter of the memory until multiplied
        row = self._gathered(fragment, fragment.constant(levels), words)
        lengths = [len(member.units) for member in members]
        whole = len(words) * per_word
        if all(length % per_word == 0 for length in lengths) and sum(lengths) == whole:
            return unpack(fragment, row, members, [n // per_word for n in lengths], dtype=levels.dtype)
        padding = [whole - sum(lengths)] if whole > sum(lengths) else []
        return unpack(
            fragment,
            flatten(fragment, row, whole),
            members,
            [*lengths, *padding],
            dtype=levels.dtype,
        )

    def _gathered(self, fragment: Fragment, codebook: str, words: Array) -> str:
        """Return the level of each digit, (words,) or (words, digits of a word).

        For many words, each possible word is decoded once into a table, and the words look up all their
        levels together: no intermediate is as large as the weight except the words as indices.
        """
        radix, per_word = len(self.levels), self._digits
        if per_word == 1:
            return fragment.add("Gather", codebook, fragment.add("Cast", fragment.constant(words), to=INT32))
        values = radix**per_word
        is_tabled = fragment.opset >= _RANGE_SINCE and self._is_tabled(len(words))
        if is_tabled:
            first, step = fragment.constant(0, np.int32), fragment.constant(1, np.int32)
            every = fragment.add("Range", first, fragment.constant(values, np.int32), step)
            index = fragment.add("Reshape", every, fragment.constant([-1, 1], np.int64))
        else:
            index = fragment.add("Cast", fragment.constant(words[:, None]), to=INT32)
        index = fragment.add("Div", index, fragment.constant(powers(radix, per_word), np.int32))
        index = fragment.add("Mod", index, fragment.constant(radix, np.int32))
        row = fragment.add("Gather", codebook, index)
        if is_tabled:
            row = fragment.add("Gather", row, fragment.add("Cast", fragment.constant(words), to=INT32))
        return row


def _digits(levels: Array, units: Array) -> Array:
    """Return the index of each value among the levels, computed a piece at a time."""
    digits = np.empty(len(units), np.uint8 if len(levels) <= 1 << 8 else np.uint16)
    for start in range(0, len(units), _PIECE):
        digits[start : start + _PIECE] = np.searchsorted(levels, units[start : start + _PIECE])
    return digits
