"""Weight sites: the places in a graph with compressible weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_admm.model.conditions import FixedByRecipe
from onnx_admm.model.constants import constant_tensor, stored_tensor, why_fixed
from onnx_admm.model.einsum import channel_axes
from onnx_admm.model.folding.decoder import Decoder, Workspace, subgraph_of
from onnx_admm.model.lookups import (
    LOOKED_UP,
    Lookup,
    find_lookup,
    gathers_rows,
    looks_up_scales,
)
from onnx_admm.model.names import label, unique
from onnx_admm.model.operators import (
    STANDARD,
    Macs,
    Trait,
    WeightInput,
    has_trait,
    operator_of,
    operators_with,
)
from onnx_admm.model.tables import beneath_functions, decodes, is_table, stored_table

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}
_RESHAPING = operators_with(Trait.REARRANGES)
_MOVING = operators_with(Trait.REARRANGES, Trait.CUTS, Trait.JOINS)
"""Operators that only move elements: exporters use them to reorder the gates of recurrent weights."""


@dataclass(frozen=True, slots=True)
class WeightSite:
    """One compressible weight.

    Attributes:
        name: unique key: the value's name, prefixed by its scope inside subgraphs and functions.
        op_type: operator that consumes it first in graph order.
        shape: shape of the stored tensor.
        dtype: element type, as numpy names it.
        out_axis: axis of the output channels, None where a Reshape hides it.
        in_axis: axis of the input channels (of one group), None where a Reshape hides it.
        group: groups of a grouped convolution, else 1.
        users: names of every node that consumes it; more than one where weights are tied.
        scope: path of the subgraph or function that holds it; empty for the main graph.
        editable: False where standard operators decode it (an already encoded weight), and where it is fixed.
        fixed: why its values must stay ("is an output of the model"); None where they may change.
        fixed_by_recipe: what the recipe asks for it, where that fixes its values; see ``model.conditions``.

    Example:
        >>> from onnx_admm.testing import model_family
        >>> site = model_family()["tied_weights"].sites()[0]
        >>> site.name, site.op_type, site.shape, len(site.users)
        ('w', 'Gemm', (6, 6), 2)
    """

    name: str
    op_type: str
    shape: tuple[int, ...]
    dtype: str
    out_axis: int | None
    in_axis: int | None
    group: int
    users: tuple[str, ...]
    scope: str = ""
    editable: bool = True
    fixed: str | None = None
    fixed_by_recipe: FixedByRecipe | None = None

    @property
    def is_table(self) -> bool:
        """Whether it is added to the data: possibly positions, and no matrix."""
        return self.op_type == "Add"

    @property
    def size(self) -> int:
        """Number of elements."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product


def weight_slots(node: ir.Node) -> tuple[WeightInput, ...]:
    """Return the weight inputs of the operator; empty for operators without."""
    known = operator_of(node)
    if known is None:
        return ()
    if known.macs is Macs.EINSUM:
        return tuple(WeightInput(index, *channel_axes(node, index)) for index in range(len(node.inputs)))
    if Trait.TRANSPOSES in known.traits:
        return tuple(_turned(node, slot) for slot in known.weights)
    return known.weights


def _turned(node: ir.Node, slot: WeightInput) -> WeightInput:
    """Return the axes of an operand that the node may transpose."""
    is_turned = node.attributes.get_int("transB" if slot.index else "transA", 0)
    return WeightInput(slot.index, slot.in_axis, slot.out_axis) if is_turned else slot


@dataclass(frozen=True, slots=True)
class FoundSite:
    """A site, its value (stored or computed), and its readers: nodes and input indices.

    ``stored_name`` is the value's name when the site was found. For a table that is decoded behind its
    lookups (``lookup``) the value holds the codes.
    """

    site: WeightSite
    value: ir.Value
    uses: tuple[tuple[ir.Node, int], ...]
    stored_name: str | None = None
    lookup: Lookup | None = None


class SiteFinder:
    """One sweep over a model for its compressible weights."""

    def __init__(self, decoder: Decoder, opset: int) -> None:
        self._decoder = decoder
        self._opset = opset
        self._workspace = Workspace()
        self._found: dict[ir.Value, FoundSite] = {}
        self._taken: set[str] = set()
        self._carried: dict[ir.Value, ir.Value] = {}
        self._before: dict[ir.Value, ir.Value] = {}

    def find(self, scopes: Iterator[tuple[str, ir.Graph | ir.Function]]) -> dict[str, FoundSite]:
        """Return every compressible weight of the graphs in ``scopes``, in graph order, tied weights once.

        The main graph comes first. Its weights keep their names, which no weight of another graph gets, nor
        any other value there.
        """
        names: set[str] = set()
        for scope, graph in scopes:
            if not scope:
                names = {value.name for value in _values(graph) if value.name}
            else:
                self._taken |= names
            for node in graph:
                for inner, outer in unchanged_state(node).items():
                    self._carried[inner] = self._carried.get(outer, outer)
                for slot in weight_slots(node):
                    operand = node.inputs[slot.index] if slot.index < len(node.inputs) else None
                    if operand is not None:
                        operand = self._carried.get(operand, operand)
                        if self._may_hold_weight(node, slot, operand):
                            self._visit(node, slot, operand, scope)
        return {found.site.name: found for found in self._found.values()}

    def _may_hold_weight(self, node: ir.Node, slot: WeightInput, operand: ir.Value) -> bool:
        """Return whether the operand may be a weight, and is no codebook, bias or formula of constants."""
        if node.op_type == "Add":
            return not self._is_constant(node.inputs[1 - slot.index])
        if node.op_type != "Gather":
            return True
        if not self._is_constant(node.inputs[1]):
            return not looks_up_scales(node)
        return stored_table(stored_source(operand)[0]) and self._reaches_data(node)

    def _is_constant(self, value: ir.Value | None) -> bool:
        return value is not None and subgraph_of(value, self._workspace) is not None

    def _reaches_data(self, node: ir.Node) -> bool:
        """Return whether a node's result from constants meets data other than as a weight."""
        pending, seen, meets_data = [node], {node}, False
        while pending:
            for output in pending.pop().outputs:
                for use in output.uses():
                    user = use.node
                    if user in seen:
                        continue
                    if all(value is None or self._is_constant(value) for value in user.inputs):
                        seen.add(user)
                        pending.append(user)
                    elif user.op_type != "Add" and any(slot.index == use.idx for slot in weight_slots(user)):
                        return False
                    else:
                        meets_data = True
        return meets_data

    def _visit(self, node: ir.Node, slot: WeightInput, operand: ir.Value, scope: str) -> None:
        if gathers_rows(node):
            operand = beneath_functions(operand, self._is_constant)
        value, reshaped = stored_source(operand)
        tensor = stored_tensor(value)
        if has_trait(node, Trait.INTEGER):
            self._visit_codes(node, slot, operand, scope)
        elif tensor is None:
            self._visit_computed(node, slot, operand, scope)
        elif tensor.dtype in LOOKED_UP and value is operand:
            self._visit_lookup(node, slot, value, scope)
        elif tensor.dtype in _FLOATS and len(tensor.shape) >= 2:
            form = _Form(tuple(tensor.shape.numpy()), str(tensor.dtype.numpy()), reshaped, True)
            self._add(node, slot, value, scope, form)

    def _visit_computed(self, node: ir.Node, slot: WeightInput, value: ir.Value, scope: str) -> None:
        tied = self._tied(value)
        if tied is not None:
            self._tie(node, slot, tied)
            return
        source = self._rearranged(value)
        if source is not None and (tensor := constant_tensor(source)) is not None:
            form = _Form(tuple(tensor.shape.numpy()), str(tensor.dtype.numpy()), True, True)
            self._add(node, slot, source, scope, form)
            return
        told = self._decoder.told(value, self._workspace)
        if told is None or (told.dtype is not None and not _is_float(told.dtype)):
            self._visit_lookup(node, slot, value, scope)
            return
        if node.op_type == "Add" and not self._is_decoded(value):
            return
        decoded = self._decoder.form(value, self._opset, self._workspace)
        if decoded is None:
            return
        shape, dtype = decoded
        if len(shape) >= 2 and _is_float(dtype):
            self._add(node, slot, value, scope, _Form(shape, str(dtype), False, False))
            self._before.update(dict.fromkeys(_chain(value), value))

    def _visit_codes(self, node: ir.Node, slot: WeightInput, codes: ir.Value, scope: str) -> None:
        """Add int8 codes with zero point 0 that an operator multiplies: an encoded weight, read as codes."""
        if self._is_constant(node.inputs[0]) or any(node.inputs[slot.index + 2 :]):
            return  # part of a decoder, or codes with a zero point
        tensor = stored_tensor(codes)
        if tensor is not None:
            decoded = tuple(tensor.shape.numpy()), tensor.dtype.numpy()
        else:
            found = self._decoder.form(codes, self._opset, self._workspace)
            if found is None:
                return
            decoded = found
        if len(decoded[0]) >= 2 and decoded[1] == np.int8:
            self._add(node, slot, codes, scope, _Form(decoded[0], str(decoded[1]), False, False))

    def _tied(self, value: ir.Value) -> ir.Value | None:
        """Return an earlier weight that ``value`` is a rearrangement of, or that is one of ``value``."""
        chain = (link for link in (value, *_chain(value)) if link in self._found)
        return next(chain, self._before.get(value))

    def _tie(self, node: ir.Node, slot: WeightInput, value: ir.Value) -> None:
        """Record another use of a weight."""
        known = self._found[value]
        site = replace(known.site, users=(*known.site.users, label(node)))
        self._found[value] = replace(known, site=site, uses=(*known.uses, (node, slot.index)))

    def _visit_lookup(self, node: ir.Node, slot: WeightInput, codes: ir.Value, scope: str) -> None:
        """Add the table that a Gather looks up as integers, if readers of the rows decode them."""
        lookup = find_lookup(node, self._is_constant) if node.op_type == "Gather" else None
        form = None if lookup is None else self._decoder.form(codes, self._opset, self._workspace)
        if lookup is not None and form is not None and len(form[0]) >= 2:
            shape = _Form(form[0], str(lookup.dtype), False, False)
            self._add(node, slot, codes, scope, shape)
            self._found[codes] = replace(self._found[codes], lookup=lookup)

    def _is_decoded(self, value: ir.Value) -> bool:
        """Return whether a table is computed from codes, and not from another table of floats."""
        subgraph = subgraph_of(value, self._workspace)
        return (
            subgraph is not None
            and decodes(subgraph.nodes)
            and not any(map(stored_table, subgraph.constants))
        )

    def _rearranged(self, value: ir.Value) -> ir.Value | None:
        """Return the one stored matrix whose elements, each once, make up ``value``."""
        subgraph = subgraph_of(value, self._workspace)
        if subgraph is None or not all(node.op_type in _MOVING for node in subgraph.nodes):
            return None
        stored = {
            constant: tensor
            for constant in subgraph.constants
            if (tensor := constant_tensor(constant)) is not None
        }
        floats = [constant for constant, tensor in stored.items() if tensor.dtype in _FLOATS]
        if len(floats) != 1 or len(stored[floats[0]].shape) < 2:
            return None
        array = self._decoder.decode(value, self._opset, self._workspace)
        return floats[0] if array is not None and array.size == stored[floats[0]].size else None

    def _add(self, node: ir.Node, slot: WeightInput, value: ir.Value, scope: str, form: _Form) -> None:
        if node.op_type == "Add" and not is_table(form.shape):
            return
        if value in self._found:
            self._tie(node, slot, value)
            return
        user, use = label(node), (node, slot.index)
        key, rank, fixed = value.name or user, len(form.shape), why_fixed(value)
        site = WeightSite(
            name=unique(f"{scope}/{key}" if scope else key, self._taken),
            op_type=node.op_type,
            shape=form.shape,
            dtype=form.dtype,
            out_axis=None if form.reshaped or slot.out_axis is None else slot.out_axis % rank,
            in_axis=None if form.reshaped or slot.in_axis is None else slot.in_axis % rank,
            group=node.attributes.get_int("group", 1),
            users=(user,),
            scope=scope,
            editable=form.editable and fixed is None,
            fixed=fixed,
        )
        self._found[value] = FoundSite(site, value, (use,), value.name)


def unchanged_state(node: ir.Node) -> dict[ir.Value, ir.Value]:
    """Return the values that a Loop or Scan passes on unchanged: input of its body, and initial value.

    Source: operators Loop (inputs: turns, condition, states) and Scan (states, then what is scanned).
    """
    body = node.attributes.get("body")
    if node.op_type not in ("Loop", "Scan") or node.domain not in STANDARD or body is None:
        return {}
    graph = body.as_graph()
    first_in, first_out = (2, 1) if node.op_type == "Loop" else (0, 0)
    count = len(node.inputs) - (2 if first_in else node.attributes.get_int("num_scan_inputs", 0))
    count = min(count, len(graph.inputs) - first_in, len(graph.outputs) - first_out)
    found: dict[ir.Value, ir.Value] = {}
    for number in range(count):
        begins_with, inner = node.inputs[first_in + number], graph.inputs[first_in + number]
        if begins_with is not None and _behind_identities(graph.outputs[first_out + number]) is inner:
            found[inner] = begins_with
    return found


def _behind_identities(value: ir.Value) -> ir.Value:
    while (
        (node := value.producer()) is not None and node.op_type == "Identity" and node.inputs[0] is not None
    ):
        value = node.inputs[0]
    return value


def _chain(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the values behind a value, as long as operators only change shape or order."""
    while (node := value.producer()) is not None and has_trait(node, Trait.REARRANGES):
        if node.inputs[0] is None:
            return
        value = node.inputs[0]
        yield value


def _values(graph: ir.Graph | ir.Function) -> Iterator[ir.Value]:
    """Yield the inputs, initializers and results of one graph."""
    yield from graph.inputs
    if isinstance(graph, ir.Graph):
        yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return ir.DataType.from_numpy(dtype) in _FLOATS


@dataclass(frozen=True, slots=True)
class _Form:
    shape: tuple[int, ...]
    dtype: str
    reshaped: bool
    editable: bool


def stored_source(value: ir.Value) -> tuple[ir.Value, bool]:
    """Return the stored constant behind a chain of reshapes, and whether there was one."""
    reshaped = False
    while stored_tensor(value) is None:
        producer = value.producer()
        if producer is None or producer.op_type not in _RESHAPING or producer.inputs[0] is None:
            break
        value, reshaped = producer.inputs[0], reshaped or producer.op_type != "Identity"
    return value, reshaped
