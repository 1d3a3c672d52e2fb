"""Profiles for cost models: nodes with their weights, shapes and multiply-accumulates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.errors import UnknownExtent, UnpricedOperator
from onnx_admm.model.analysis.macs import count_macs, weight_operands
from onnx_admm.model.analysis.quantised_bits import level_bits
from onnx_admm.model.analysis.shape_propagation import extents, known
from onnx_admm.model.analysis.shapes import Inference, Shape, infer
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.names import label
from onnx_admm.model.sites import FoundSite
from onnx_admm.model.view import ModelView

Array = npt.NDArray[Any]
Plain = int | float | str | bool | tuple[Any, ...]
"""Value of an attribute: a number, a text, or a tuple of them."""

_SHOWN = 64  # elements of a constant whose values a profile has
_DRAWS_LOTS = {"Bernoulli", "Multinomial"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """An input or output of a node.

    Attributes:
        name: the value's name in its graph; empty where an optional input is left out.
        dtype: element type, as numpy names it; ``unknown`` where it is not stated.
        bits: bits of one element; 32 where that is unknown.
        shape: extents, None for unknown ones; None where not even the rank is known.
        is_constant: whether it is fixed once the model is loaded.
        producer: operator of the node that computes it; empty for inputs and constants.
        values: elements in order, of constants of at most 64; else None.

    Example:
        >>> from onnx_admm.contracts import Operand
        >>> Operand(name="x", dtype="float32", shape=(1, 8)).elements
        8
    """

    name: str = ""
    dtype: str = "unknown"
    bits: int = 32
    shape: Shape | None = None
    is_constant: bool = False
    producer: str = ""
    values: tuple[int | float | str | bool, ...] | None = None

    @property
    def elements(self) -> int | None:
        """Number of elements; None where an extent is unknown."""
        shape = known(self.shape)
        return None if shape is None else math.prod(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProfile:
    """One node with one of its weights, or one node without: one row of a price list.

    A node with two weights (LSTM) has two profiles, a tied weight one for each use.

    Attributes:
        node: the node's name, else its first output's.
        op_type: its operator.
        domain: the operator's domain; empty for the default one.
        opset: version of that domain.
        scope: path of the subgraph or function around it; empty in the main graph. A branch or a loop's body
            counts once.
        attributes: attributes by name, sorted; tensors and graphs are left out.
        inputs, outputs: its operands.
        weight: name of the weight's site; empty where the profile has none.
        operand: index of the input that holds the weight; None without.
        weight_shape: dense shape of the weight.
        out_axis: axis of its output channels; None where a Reshape hides it.
        density: nonzeros over elements of the weight.
        parameters: elements of the weight; 0 where a tied weight was counted at an earlier node.
        nonzeros: nonzero elements, counted like ``parameters``.
        bits: bits of a stored weight, or of its levels: a weight whose nonzero values (by channel at least)
            are at most 256, each twice on average, counts as quantised. Without a weight, bits of the node's
            first input.
        macs: multiply-accumulates with this weight (without one: of the node), zeros included; None where an
            extent is unknown or the operator's cannot be counted.
        share: part of the node that this profile stands for: 1, or its share of the node's MACs.
        open_axes: axes of the model's inputs that no binding gives an extent.

    Example:
        >>> from onnx_admm.testing import layers
        >>> conv = layers({"N": 1, "T": 7})[0]
        >>> conv.op_type, conv.weight_shape, conv.macs, conv.output_shape
        ('Conv', (16, 8, 3, 3), 165888, (1, 16, 12, 12))
    """

    node: str
    op_type: str
    domain: str = ""
    opset: int = 1
    scope: str = ""
    attributes: tuple[tuple[str, Plain], ...] = ()
    inputs: tuple[Operand, ...] = ()
    outputs: tuple[Operand, ...] = ()
    weight: str = ""
    operand: int | None = None
    weight_shape: tuple[int, ...] = ()
    out_axis: int | None = None
    density: float = 1.0
    parameters: int = 0
    nonzeros: int = 0
    bits: int = 32
    macs: int | None = 0
    share: float = 1.0
    open_axes: tuple[str, ...] = ()

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """Shape of the first output; None where an extent is unknown."""
        return known(self.outputs[0].shape) if self.outputs else None

    @property
    def size(self) -> int:
        """Elements of the weight, tied or not; 0 without one."""
        return math.prod(self.weight_shape) if self.weight else 0

    @property
    def channels(self) -> int:
        """Output channels of the weight; its elements where its axes are hidden."""
        return self.size if self.out_axis is None else self.weight_shape[self.out_axis]

    def known_macs(self) -> int:
        """Return ``macs``, which must be known.

        Raises:
            UnknownExtent: they depend on an open axis; names it and says how to bind it.
            UnpricedOperator: this operator's cannot be counted.
        """
        if self.macs is None:
            raise self._unknown("multiply-accumulates")
        return self.macs

    def moved_bytes(self) -> float:
        """Return the bytes of activations that the node reads and writes, each once.

        For a node with two weights, its share of them.

        Raises:
            UnknownExtent, UnpricedOperator: as `known_macs`.
        """
        operands = [operand for operand in (*self.inputs, *self.outputs) if operand.name]
        sizes = [
            None if operand.elements is None else operand.elements * operand.bits / 8
            for operand in operands
            if not operand.is_constant
        ]
        if None in sizes:
            raise self._unknown("activations")
        return self.share * sum(size for size in sizes if size is not None)

    def _unknown(self, what: str) -> UnknownExtent | UnpricedOperator:
        where = f"{self.node} ({self.op_type})"
        if self.open_axes:
            return UnknownExtent(
                f"the {what} depend on an open axis",
                where=where,
                got=", ".join(self.open_axes),
                hint=f"Give it an extent: {' '.join(f'--bind {axis}=1' for axis in self.open_axes)}.",
            )
        return UnpricedOperator(f"the {what} cannot be counted", where=where)


def layer_profiles(
    view: ModelView, bindings: Mapping[str, int] | None = None, *, reads_weights: bool = True
) -> tuple[LayerProfile, ...]:
    """Return a profile for each use of each weight, in graph order, for one sample.

    A symbolic first axis of an input that ``bindings`` leaves open counts as 1. Any other open extent leaves
    ``macs`` and ``output_shape`` None where they depend on it, never 0.

    Args:
        view: the model.
        bindings: extents by symbol or by place, as for ``node_profiles``.
        reads_weights: whether zeros and levels are counted, as for ``node_profiles``.

    Raises:
        UsageError: an axis that no input has or leaves open, or an extent below 1.
    """
    profiler = _Profiler(view, infer(view, bindings, first_axis=1), reads_weights)
    return tuple(profile for profile in profiler.profiles() if profile.weight)


def node_profiles(
    view: ModelView, bindings: Mapping[str, int] | None = None, *, reads_weights: bool = True
) -> tuple[LayerProfile, ...]:
    """Return a profile for each use of each weight and for each node without, in graph order.

    Nodes that compute constants are left out: they disappear when the model is loaded. Every open axis stays
    open unless it is bound, the batch too.

    Args:
        view: the model.
        bindings: extents by symbol, such as ``{"N": 1, "frames": 160}``, or by place: ``{"x[1]": 576}``.
        reads_weights: whether zeros and levels are counted, which takes seconds for large weights; else all
            weights count as dense, in their own type.

    Raises:
        UsageError: an axis that no input has or leaves open, or an extent below 1.
    """
    return tuple(_Profiler(view, infer(view, bindings), reads_weights).profiles())


class _Profiler:
    """One pass over a model."""

    def __init__(self, view: ModelView, inference: Inference, reads_weights: bool) -> None:
        self._view, self._reads_weights = view, reads_weights
        self._inferred_copies = inference.inferred_copies
        self._open_axes = inference.open_axes
        self._opsets = view.graph_ir.opset_imports
        self._constants: set[ir.Value] = set()
        self._uses: dict[ir.Node, list[tuple[int, FoundSite]]] = defaultdict(list)
        for found in view.found_sites().values():
            for node, index in found.uses:
                self._uses[node].append((index, found))
        self._counted: dict[str, tuple[int, int]] = {}

    def profiles(self) -> Iterator[LayerProfile]:
        for reference in self._view.nodes():
            node = reference.ir_node
            is_folded = self._is_folded(node)
            if is_folded:
                self._constants.update(node.outputs)
            if node in self._uses:
                yield from self._with_weights(node, reference.scope)
            elif not is_folded:
                yield self._without(node, reference.scope)

    def _is_folded(self, node: ir.Node) -> bool:
        """Return whether a runtime computes the node once, when it loads the model."""
        if node.domain not in ("", "ai.onnx") or node.op_type.startswith("Random"):
            return False
        if node.op_type in _DRAWS_LOTS or any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            return False
        return all(value is None or self._is_constant(value) for value in node.inputs)

    def _is_constant(self, value: ir.Value) -> bool:
        return value in self._constants or constant_tensor(value) is not None

    def _with_weights(self, node: ir.Node, scope: str) -> Iterator[LayerProfile]:
        base = self._base(node, scope)
        uses = [(index, found, self._macs(node, index)) for index, found in self._uses[node]]
        whole = sum(macs or 0 for _, _, macs in uses)
        for index, found, macs in uses:
            nonzeros, bits, is_first = self._count(found)
            yield replace(
                base,
                weight=found.site.name,
                operand=index,
                weight_shape=found.site.shape,
                out_axis=found.site.out_axis,
                density=nonzeros / found.site.size if found.site.size else 1.0,
                parameters=found.site.size if is_first else 0,
                nonzeros=nonzeros if is_first else 0,
                bits=bits,
                macs=macs,
                share=(macs or 0) / whole if whole else 1 / len(uses),
            )

    def _without(self, node: ir.Node, scope: str) -> LayerProfile:
        base = self._base(node, scope)
        counts = [self._macs(node, index) for index in weight_operands(node)]
        first = next((operand for operand in base.inputs if operand.name), None)
        return replace(
            base,
            bits=first.bits if first is not None else 32,
            macs=None if None in counts else sum(macs for macs in counts if macs is not None),
        )

    def _base(self, node: ir.Node, scope: str) -> LayerProfile:
        attributes = {
            name: plain
            for name, attribute in sorted(node.attributes.items())
            if (plain := _plain(attribute)) is not None
        }
        return LayerProfile(
            node=label(node),
            op_type=node.op_type,
            domain="" if node.domain == "ai.onnx" else node.domain,
            opset=self._opsets.get(node.domain, 1) if node.domain else self._view.opset,
            scope=scope,
            attributes=tuple(attributes.items()),
            inputs=tuple(self._operand(value) for value in node.inputs),
            outputs=tuple(self._operand(value) for value in node.outputs),
            open_axes=self._open_axes,
        )

    def _operand(self, value: ir.Value | None) -> Operand:
        if value is None:
            return Operand()
        inferred = self._inferred_copies.get(value, value)
        tensor, producer = constant_tensor(inferred), value.producer()
        return Operand(
            name=value.name or "",
            dtype=_dtype(inferred.dtype),
            bits=_bits(inferred.dtype),
            shape=None if inferred.shape is None else extents(inferred),
            is_constant=self._is_constant(value),
            producer="" if producer is None or self._is_constant(value) else producer.op_type,
            values=None
            if tensor is None or tensor.size > _SHOWN
            else tuple(np.asarray(tensor.numpy()).ravel().tolist()),
        )

    def _macs(self, node: ir.Node, index: int) -> int | None:
        def shape(value: ir.Value | None) -> tuple[int, ...] | None:
            inferred = None if value is None else self._inferred_copies.get(value)
            return None if inferred is None or inferred.shape is None else known(extents(inferred))

        return count_macs(node, index, shape)

    def _count(self, found: FoundSite) -> tuple[int, int, bool]:
        """Return the nonzeros and bits of a weight, and whether it occurs for the first time."""
        name = found.site.name
        if name in self._counted:
            return *self._counted[name], False
        if not self._reads_weights:
            self._counted[name] = found.site.size, _bits(found.value.dtype)
            return *self._counted[name], True
        if found.site.editable:
            array = self._view.read_found(found)
            bits = level_bits(array, found.site.out_axis) or 8 * int(array.dtype.itemsize)
        else:
            decoded = self._view.decoded_found(found)
            array = decoded.array
            bits = min(decoded.stored_bits, math.ceil(math.log2(max(2, len(np.unique(array))))))
        self._counted[name] = int(np.count_nonzero(array)), bits
        return *self._counted[name], True


def _plain(attribute: ir.Attr) -> Plain | None:
    """Return an attribute's value if it consists of numbers and texts, else None."""
    if attribute.is_ref():
        return None
    value = attribute.value
    if isinstance(value, list | tuple):
        return tuple(value) if all(isinstance(item, int | float | str) for item in value) else None
    return value if isinstance(value, int | float | str) else None


def _dtype(dtype: ir.DataType | None) -> str:
    try:
        return "unknown" if dtype is None else str(dtype.numpy())
    except TypeError:
        return "unknown"


def _bits(dtype: ir.DataType | None) -> int:
    try:
        return 32 if dtype is None else int(dtype.bitwidth)
    except TypeError:  # texts have no width
        return 32
