"""What a rewrite finds, and the facts that it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from onnx_admm.model.analysis.shape_propagation import extents
from onnx_admm.model.analysis.shapes import Shape, infer
from onnx_admm.model.edit import free_name, taken_names
from onnx_admm.model.folding.decoder import Workspace, subgraph_of
from onnx_admm.model.names import label
from onnx_admm.model.operators import STANDARD
from onnx_admm.model.view import ModelView

BATCH = 3
"""Extent of open first axes: one that no exporter writes by itself, so that equal extents mean equal axes."""

_LARGE_BATCH = 29
"""A second extent of open first axes: what is the same for both does not depend on the batch.

It is larger than usual strides and limits, so that a quotient or a minimum of the batch shows, too.
"""


@dataclass(frozen=True, slots=True)
class Match:
    """One place where a rewrite applies.

    Attributes:
        nodes: the nodes that go or change; the first names the place.
        what: what the rewrite does there, as a sentence without its full stop.
        opset: oldest opset of the result.
        apply: changes the graph; to be called at most once, before any other change.
        name: name of the place, where it is no node.
    """

    nodes: tuple[ir.Node, ...]
    what: str
    opset: int
    apply: Callable[[], None] = field(repr=False)
    name: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the nodes, or of what else it is about."""
        return (self.name,) if self.name else tuple(label(node) for node in self.nodes)


class RewriteContext:
    """One model and what rewrites ask about it; shapes are inferred on first need.

    Args:
        view: the model.
    """

    def __init__(self, view: ModelView) -> None:
        self.view = view
        self._workspace = Workspace()
        self._taken: set[str | None] | None = None

    @cached_property
    def _copies(self) -> Mapping[ir.Value, ir.Value]:
        return infer(self.view, first_axis=BATCH).inferred_copies

    @cached_property
    def shapes(self) -> dict[ir.Value, Shape]:
        """Inferred shapes; an open first axis counts as 3, None stands for an unknown extent."""
        return {value: extents(copy) for value, copy in self._copies.items() if copy.shape is not None}

    @cached_property
    def shapes_of_one(self) -> dict[ir.Value, Shape]:
        """Inferred shapes for one sample: an open first axis counts as 1."""
        copies = infer(self.view, first_axis=1).inferred_copies
        return {value: extents(copy) for value, copy in copies.items() if copy.shape is not None}

    @cached_property
    def _shapes_of_many(self) -> dict[ir.Value, Shape]:
        copies = infer(self.view, first_axis=_LARGE_BATCH).inferred_copies
        return {value: extents(copy) for value, copy in copies.items() if copy.shape is not None}

    @cached_property
    def dtypes(self) -> dict[ir.Value, ir.DataType]:
        """Inferred element types."""
        return {value: copy.dtype for value, copy in self._copies.items() if copy.dtype is not None}

    def nodes(self, *op_types: str, domains: Sequence[str] = STANDARD) -> Iterator[ir.Node]:
        """Yield the nodes of these operators that are still in a graph.

        Functions are left out: their values have no shapes, and their opset is another one.
        """
        inside = self.view.function_scopes()
        for reference in self.view.nodes():
            node = reference.ir_node
            if reference.scope in inside or node.graph is None:
                continue
            if node.op_type in op_types and node.domain in domains:
                yield node

    def fixed_extent(self, value: ir.Value, axis: int) -> int | None:
        """Return the extent of an axis; None where it is not known, or depends on the batch.

        Args:
            value: the value.
            axis: an axis of it, from 0 on, or from the last one back.
        """
        shapes = self.shapes_of_batches(value)
        if shapes is None or not all(-len(shape) <= axis < len(shape) for shape in shapes):
            return None
        few, many = shapes
        return few[axis] if few[axis] == many[axis] else None

    def shapes_of_batches(self, value: ir.Value | None) -> tuple[Shape, Shape] | None:
        """Return the shapes of a value for a small and a larger batch; None where one is not known.

        Two values whose shapes are equal for both have the same shape for every batch.
        """
        few = None if value is None else self.shapes.get(value)
        many = None if value is None or few is None else self._shapes_of_many.get(value)
        return None if few is None or many is None else (few, many)

    def keeps_form(self, data: ir.Value, result: ir.Value) -> bool:
        """Return whether a result is known to be of fp32, and of the shape of the data."""
        shape, dtype = self.shapes.get(data), ir.DataType.FLOAT
        if shape is None or self.shapes.get(result) != shape:
            return False
        return self.dtypes.get(data) == dtype and self.dtypes.get(result) == dtype

    def is_constant(self, value: ir.Value | None) -> bool:
        """Return whether a value is stored, or computed from stored constants alone."""
        return value is not None and subgraph_of(value, self._workspace) is not None

    def free_name(self, name: str) -> str:
        """Return a name that no value of the model has."""
        if self._taken is None:
            self._taken = taken_names(self.view.graph_ir)
        return free_name(name, self._taken)


Finder = Callable[[RewriteContext], Iterator[Match]]
"""Yields the places where a rewrite applies; each may be applied before the next is asked for."""
