"""Biases of layers among the constants, and those that may be rounded.

A bias is one number for each output channel of a layer, added right behind it. An attention mask, a position
table or a constant that another node reads too is not a bias, whatever its size: it keeps its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Array, ModelView, Skip
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.vector_coder import BiasType, round_vectors
from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.model.operators import biased_operators

BIAS_SLOTS = biased_operators()
"""Operators with a bias of their own, and its input index."""

MOST_ROUNDING = 0.1
"""Relative change that half of a bias's numbers may exceed; a bias that changes more stays."""


def added_constants(node: NodeRef) -> Iterator[ValueRef]:
    """Yield the constants that a node of the main graph adds: a layer's own bias, or operands of an Add."""
    if node.scope:
        return
    if node.op_type in BIAS_SLOTS:
        value = node.input(BIAS_SLOTS[node.op_type])
        if value is not None:
            yield value
    elif node.op_type == "Add":
        yield from (value for value in node.inputs if value is not None)


def layer_biases(view: ModelView) -> frozenset[str]:
    """Return the names of the constants of the main graph that only serve as biases."""
    found = {value: None for node in view.nodes() for value in added_constants(node)}
    return frozenset(
        value.name
        for value in found
        if not value.is_output and (array := value.constant()) is not None and _is_bias(value, array)
    )


def _is_bias(value: ValueRef, array: Array) -> bool:
    readers = value.uses()
    return bool(readers) and all(_adds_per_channel(reader, value, array) for reader in readers)


def _adds_per_channel(reader: NodeRef, value: ValueRef, array: Array) -> bool:
    if reader.op_type in BIAS_SLOTS:
        layer, slot = reader, reader.input(BIAS_SLOTS[reader.op_type])
        channels = _channels(layer)
        return slot == value and channels is not None and _is_row(array, channels[0])
    if reader.op_type != "Add":
        return False
    other = next((operand for operand in reader.inputs if operand != value), None)
    producer = None if other is None else other.producer()
    channels = None if producer is None else _channels(producer)
    if channels is None:
        return False
    count, behind = channels
    return _is_row(array, count, behind)


def _is_row(array: Array, count: int, behind: int = 0) -> bool:
    """Return whether the array has ``count`` numbers, all along the axis with ``behind`` axes after it."""
    return array.ndim > behind and array.size == array.shape[-1 - behind] == count


def _channels(layer: NodeRef) -> tuple[int, int] | None:
    """Return the output channels of a layer with a stored weight, and the number of axes after theirs."""
    weight = layer.input(1)
    array = None if weight is None else weight.constant()
    if array is None or array.ndim < 2:
        return None
    match layer.op_type:
        case "Conv":
            return array.shape[0], array.ndim - 2
        case "ConvTranspose":
            return array.shape[1] * int(layer.attribute("group", 1)), array.ndim - 2
        case "Gemm":
            return array.shape[0 if layer.attribute("transB", 0) else 1], 0
        case "MatMul":
            return array.shape[-1], 0
        case _:
            return None


# -- rounding --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundedBiases:
    """Result of rounding biases.

    Attributes:
        rounded: biases with their new values, all in one row of the type.
        left: unchanged biases.
        skipped: the reason for each unchanged bias.
    """

    rounded: tuple[Weight, ...]
    left: tuple[Weight, ...]
    skipped: tuple[Skip, ...]


def round_biases(biases: Sequence[Weight], stored: BiasType) -> RoundedBiases:
    """Round the biases to ``stored``, except those that would change too much.

    A bias is left where half of its nonzero numbers would change by more than `MOST_ROUNDING` of themselves.
    int8 has one scale for all: of the largest numbers that the scale can be made for, the one is taken with
    which the most numbers can be rounded, so that a single large one does not spoil the others.
    """
    finite = [bias for bias in biases if np.isfinite(bias.flat).all()]
    groups = [finite]
    if stored == "int8":
        tops = sorted({_largest(bias) for bias in finite}, reverse=True)
        groups = [[bias for bias in finite if _largest(bias) <= top] for top in tops]
    tried = [_kept(group, stored) for group in groups]
    best = max(tried, key=lambda kept: sum(bias.size for bias in kept.values()), default={})
    left = tuple(bias for bias in biases if bias.name not in best)
    why = (
        f"its biases stay as they are: rounded to {stored}, half of them would change by more than "
        f"{MOST_ROUNDING:.0%} of themselves"
    )
    return RoundedBiases(tuple(best.values()), left, tuple(Skip(bias.name, why) for bias in left))


def _kept(group: Sequence[Weight], stored: BiasType) -> dict[str, Weight]:
    """Return those of the group whose rounded values are close, by name."""
    pairs = zip(group, round_vectors(group, stored), strict=True)
    return {new.name: new for old, new in pairs if _is_close(old, new, stored)}


def _is_close(old: Weight, new: Weight, stored: BiasType) -> bool:
    if new is old and stored != "int8":  # beyond the range of the type
        return not np.any(old.flat)
    nonzero = old.flat != 0
    if not nonzero.any():
        return True
    change = np.abs(new.flat[nonzero].astype(np.float64) / old.flat[nonzero] - 1)
    return float(np.median(change)) <= MOST_ROUNDING


def _largest(bias: Weight) -> float:
    return float(np.max(np.abs(bias.flat), initial=0.0))
