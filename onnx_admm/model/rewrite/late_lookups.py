"""Decodes an encoded table behind the lookup of its rows, where no other node reads it (see ``lookups``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_admm.model.edit import free_name, replace_node, taken_names
from onnx_admm.model.folding.decoder import Workspace, is_computed
from onnx_admm.model.folding.static_form import form_of
from onnx_admm.model.lookups import cast_type, gathers_rows
from onnx_admm.model.operators import STANDARD
from onnx_admm.model.view import ModelView


def decode_behind_lookups(view: ModelView, names: Iterable[str]) -> tuple[str, ...]:
    """Move the decoders of tables behind the nodes that look up rows; outputs stay, to the bit.

    Args:
        view: the model, in place.
        names: names of encoded sites; those that other nodes read too, or that are not decoded from integers
            with one scale or one for each row, are left.

    Returns:
        The names of those that were moved.
    """
    moved = {name: codes for name in names if (codes := _move(view, name)) is not None}
    if moved:
        view.strip_unused()
        taken = taken_names(view.graph_ir)
        for name, codes in moved.items():
            if name not in taken:  # the table has gone, and reports know it by its name
                codes.name = name
    return tuple(moved)


@dataclass(frozen=True)
class _Tail:
    """The last steps of a decoder: ``Cast (Cast (codes) * scale)``."""

    codes: ir.Value
    scale: ir.Value | None
    to: ir.DataType | None


def _move(view: ModelView, name: str) -> ir.Value | None:
    """Decode one table behind its lookups; return its codes, None where it is left."""
    found = view.found_sites().get(name)
    if found is None or found.lookup is not None or found.value.is_graph_output():
        return None
    table, graph = found.value, view.graph_ir.graph
    readers = [use.node for use in table.uses()]
    lookups = [
        node
        for node in readers
        if gathers_rows(node) and node.graph is graph and not _is_constant(node.inputs[1])
    ]
    tail = _tail(table)
    if tail is None or len(lookups) < len(readers) or any(use.idx for use in table.uses()):
        return None
    taken = taken_names(view.graph_ir)
    for node in lookups:
        _decode_behind(node, tail, taken)
    return tail.codes


def _is_constant(value: ir.Value | None) -> bool:
    return value is None or is_computed(value, Workspace())


def _tail(table: ir.Value) -> _Tail | None:
    to, scale, node = None, None, table.producer()
    if node is not None and node.op_type == "Cast" and cast_type(node) != ir.DataType.FLOAT:
        to, node = cast_type(node), _producer(node)
    if node is not None and node.op_type == "Mul":
        scale, node = node.inputs[1], _producer(node)
    if node is None or node.op_type != "Cast" or node.domain not in STANDARD:
        return None
    codes = node.inputs[0]
    if codes is None or form_of(codes, {}).dtype != np.int8:
        return None
    if scale is not None:
        shape, rows = form_of(scale, {}).shape, form_of(codes, {}).shape
        if shape is None or rows is None or (shape and shape != (rows[0], *(1,) * (len(rows) - 1))):
            return None
    return _Tail(codes, scale, to)


def _producer(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0]
    return None if value is None else value.producer()


def _decode_behind(node: ir.Node, tail: _Tail, taken: set[str | None]) -> None:
    """Replace a lookup of values by a lookup of codes and the steps of the decoder."""
    steps: list[ir.Node] = []
    indices, graph = node.inputs[1], node.graph

    def add(op_type: str, inputs: list[ir.Value | None], **attributes: int) -> ir.Value:
        steps.append(ir.node(op_type, inputs, attributes, name=""))
        value = steps[-1].outputs[0]
        value.name = free_name(f"{node.outputs[0].name}_decoded", taken)
        return value

    rows = add("Gather", [tail.codes, indices], axis=0)
    last: tuple[str, list[ir.Value | None], dict[str, int]] = (
        "Cast",
        [rows],
        {"to": ir.DataType.FLOAT.value},
    )
    if tail.scale is not None:
        units = add(last[0], last[1], **last[2])
        shape = form_of(tail.scale, {}).shape
        factor = add("Gather", [tail.scale, indices], axis=0) if shape else tail.scale
        last = ("Mul", [units, factor], {})
    if tail.to is not None:
        last = ("Cast", [add(last[0], last[1], **last[2])], {"to": tail.to.value})
    if graph is not None:
        graph.insert_before(node, steps)
    replace_node(node, *last)
