"""Weights and biases of a model that can be encoded, and reasons for the others."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_admm.contracts import Array, ModelView, Skip
from onnx_admm.encoding.biases import BIAS_SLOTS, added_constants, layer_biases
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.grids import Grid
from onnx_admm.model.integers.codes import integer_codes
from onnx_admm.model.rewrite.weight_storage import StoredWeight, stored_weights

LARGE = 1 << 16
"""Elements from which on a weight counts as large: not kept in memory, nor compared with others."""

_FLOATS = ("float32", "float16", "float64")
_LARGEST_BIAS = 1 << 16


@dataclass(frozen=True)
class Contents:
    """Weights and biases that can be encoded, dense.

    Attributes:
        weights: weights of compressible sites, in graph order, then int8 codes of integer kernels; those
            inside functions are left, since a function sees no decoder.
        biases: small fp32 constants of the main graph that a node adds.
        roundable: names of the biases of layers (see ``biases``).
        skipped: sites that stay, and why.
    """

    weights: tuple[Weight, ...]
    biases: tuple[Weight, ...]
    skipped: tuple[Skip, ...]
    roundable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class WeightContent:
    """The content of a weight in its model (``codebook.Stored``)."""

    stored: StoredWeight

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the weight."""
        return self.stored.dtype

    @property
    def memo(self) -> MutableMapping[str, Any]:
        """Notes on the values, shared by all readers."""
        return self.stored.memo

    def read(self) -> Array:
        """Return the values."""
        return self.stored.read()

    def grid(self) -> Grid | None:
        """Return the grid that the model stores it on, else None."""
        grid = self.stored.byte_grid()
        return None if grid is None else Grid(grid.codes, grid.scales)


def read_contents(view: ModelView) -> Contents:
    """Return the weights and biases of ``view``; large weights are read on demand."""
    weights, skipped = [], []
    functions = view.function_scopes()
    stored = {weight.site.name: weight for weight in stored_weights(view)}
    codes = integer_codes(view)
    for site in view.sites():
        if site.name in codes:
            continue
        may_change = site.editable if site.fixed_by_recipe is None else site.fixed_by_recipe.may_be_encoded
        if not may_change or site.name not in stored:
            skipped.append(Skip(site.name, site.fixed or "already encoded"))
        elif site.scope in functions:
            skipped.append(Skip(site.name, f"is in the function {site.scope}"))
        elif site.dtype not in _FLOATS:
            skipped.append(Skip(site.name, f"{site.dtype} weights have no encoding"))
        else:
            content = WeightContent(stored[site.name])
            weights.append(Weight(site.name, content if site.size >= LARGE else content.read()))
    weights += [Weight(name, array) for name, array in codes.items()]
    names = {weight.name for weight in weights}
    found = {value.name: value for node in view.nodes() for value in added_constants(node)}
    biases = [
        Weight(name, array)
        for name, value in found.items()
        if name not in names
        and value.fixed is None
        and (array := value.constant()) is not None
        and array.dtype == np.float32
    ]
    small = tuple(bias for bias in biases if 0 < bias.size <= _LARGEST_BIAS)
    return Contents(tuple(weights), small, tuple(skipped), layer_biases(view))


def zero_biases(contents: Contents, view: ModelView) -> list[str]:
    """Return the names of biases that are all zero and are optional inputs."""
    optional = {name for name, slot in BIAS_SLOTS.items() if name != "Gemm" or view.opset >= 11}
    free = []
    for bias in contents.biases:
        readers = [node for node in view.nodes() if any(v and v.name == bias.name for v in node.inputs)]
        in_slot = all(
            node.op_type in optional and (value := node.input(BIAS_SLOTS[node.op_type])) is not None
            and value.name == bias.name
            for node in readers
        )  # fmt: skip
        if readers and in_slot and not np.any(bias.values):
            free.append(bias.name)
    return free
