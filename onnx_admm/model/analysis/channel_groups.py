"""Groups of channels that can only be removed together: the layers that write, pass on and read them.

Values joined by operators that keep channels apart (Relu, pooling, Flatten, an Add of two branches ...) form
a group. To remove channel c of a group means to cut it out of every weight that writes, passes on or reads
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import networkx as nx

from onnx_admm.model.analysis.shapes import Shape, infer_shapes
from onnx_admm.model.edit import NodeRef, ValueRef
from onnx_admm.model.view import ModelView

UNARY = ("Clip", "Dropout", "Elu", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Tanh")
POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
REDUCTIONS = ("ReduceMax", "ReduceMean")
_FLATTENING = ("Flatten", "Reshape")

_OUT_IN_AXES = {"Conv": (0, 1), "ConvTranspose": (1, 0), "MatMul": (1, 0)}


@dataclass(frozen=True, slots=True)
class Port:
    """A layer at the value it writes or reads, and the axis of its weight that counts the channels."""

    node: NodeRef
    value: ValueRef
    axis: int

    @property
    def weight(self) -> ValueRef:
        """The layer's weight."""
        weight = self.node.input(1)
        if weight is None:
            raise ValueError(f"{self.node.name} has no weight")
        return weight


@dataclass(frozen=True, slots=True)
class PassThrough:
    """A node that passes channels on; ``parameters`` are its constants with one entry for each channel."""

    node: NodeRef
    source: ValueRef
    target: ValueRef
    parameters: tuple[tuple[ValueRef, int], ...] = ()


@dataclass(frozen=True)
class ChannelGroup:
    """Values that share channels.

    Attributes:
        channels: number of channels.
        writers, readers: layers in graph order.
        pass_through: nodes between them, in graph order.
        blocked: why no channel can be removed; None where they can.
    """

    channels: int
    writers: tuple[Port, ...]
    readers: tuple[Port, ...]
    pass_through: tuple[PassThrough, ...]
    blocked: str | None

    @property
    def name(self) -> str:
        """Names of the layers that write it."""
        return " + ".join(port.weight.name for port in self.writers)


def find_channel_groups(view: ModelView) -> tuple[ChannelGroup, ...]:
    """Return every group of channels that some layer of the main graph writes, in graph order."""
    survey = _Survey(infer_shapes(view))
    for node in view.nodes():
        survey.visit(node)
    groups = []
    for values in nx.connected_components(survey.graph):
        writers = tuple(port for port in survey.writers if port.value in values)
        if writers:
            groups.append((survey.writers.index(writers[0]), survey.group(values, writers)))
    return tuple(group for _, group in sorted(groups, key=lambda pair: pair[0]))


@dataclass
class _Survey:
    """State of the survey after some nodes: the channel axis of each value, and the roles of nodes."""

    shapes: dict[ValueRef, Shape]
    graph: nx.Graph[ValueRef] = field(default_factory=nx.Graph)
    axes: dict[ValueRef, int] = field(default_factory=dict)
    writers: list[Port] = field(default_factory=list)
    readers: list[Port] = field(default_factory=list)
    pass_through: list[PassThrough] = field(default_factory=list)
    blocks: dict[ValueRef, str] = field(default_factory=dict)

    def visit(self, node: NodeRef) -> None:
        """Record the effect of the node on channels; unknown effects block the values involved."""
        if node.scope:
            reason: str | None = f"{node.name} in the subgraph {node.scope} reads it"
        elif node.op_type in (*_OUT_IN_AXES, "Gemm"):
            reason = self._layer(node)
        elif node.op_type in (*UNARY, *POOLS):
            reason = self._carry(node, behind_batch=node.op_type in POOLS)
        elif node.op_type in _FLATTENING:
            reason = self._flatten(node)
        elif node.op_type in REDUCTIONS:
            reason = self._reduce(node)
        elif node.op_type == "BatchNormalization":
            reason = self._normalise(node)
        elif node.op_type == "Add":
            reason = self._add(node)
        else:
            reason = f"{node.op_type} {node.name} may not keep channels apart"
        for value in (*node.inputs, *node.outputs) if reason is not None else ():
            if value is not None and value.constant() is None:
                self.blocks.setdefault(value, reason or "")
                self.graph.add_node(value)

    def group(self, values: set[ValueRef], writers: tuple[Port, ...]) -> ChannelGroup:
        """Return the group of these values."""
        readers = tuple(port for port in self.readers if port.value in values)
        pass_through = tuple(through for through in self.pass_through if through.source in values)
        group = ChannelGroup(port_length(writers[0]), writers, readers, pass_through, None)
        return replace(group, blocked=self._why_blocked(values, group))

    def _why_blocked(self, values: set[ValueRef], group: ChannelGroup) -> str | None:
        reasons = sorted(self.blocks[value] for value in values if value in self.blocks)
        if reasons:
            return reasons[0]
        if any(value.is_output for value in values):
            return "its channels are an output of the model"
        written = {port.value for port in group.writers} | {through.target for through in group.pass_through}
        if values - written:
            return "its channels come from an input of the model too"
        if group.channels == 0:
            return "it has no channels"
        if any(port_length(port) != group.channels for port in group.writers):
            return "layers of different widths are added"
        lengths = [port_length(port) for port in group.readers]
        lengths += [
            _extent(value, axis) for through in group.pass_through for value, axis in through.parameters
        ]
        if any(length % group.channels for length in lengths):
            return "a layer reads its channels in an order that is not known"
        return None

    # -- one operator each -----------------------------------------------------------------------

    def _layer(self, node: NodeRef) -> str | None:
        data, weight = node.input(0), node.input(1)
        array = None if weight is None else weight.constant()
        if data is None or weight is None or array is None:
            return f"the weight of {node.name} is no stored constant"
        if node.attribute("group", 1) != 1 or node.attribute("transA", 0):
            return f"{node.op_type} {node.name} is grouped or transposes its input"
        if node.op_type == "MatMul" and array.ndim != 2:
            return f"{node.op_type} {node.name} multiplies by more than a matrix"
        if not _is_own(weight) or not (node.input(2) is None or _is_own(node.input(2))):
            return f"a constant of {node.name} is shared or computed"
        rank = len(self.shapes.get(data, ()))
        last = rank - 1 if node.op_type == "MatMul" else 1
        if rank < 2 or self.axes.get(data, last) != last:
            return f"{node.op_type} {node.name} reads another axis than the channels'"
        transposed = node.op_type == "Gemm" and node.attribute("transB", 0)
        out_axis, in_axis = _OUT_IN_AXES.get(node.op_type, (0, 1) if transposed else (1, 0))
        self.readers.append(Port(node, data, in_axis))
        self.writers.append(Port(node, node.outputs[0], out_axis))
        self.graph.add_nodes_from((data, node.outputs[0]))
        self.axes[node.outputs[0]] = last
        return None

    def _carry(
        self,
        node: NodeRef,
        *,
        behind_batch: bool = False,
        becomes: int | None = None,
        parameters: tuple[tuple[ValueRef, int], ...] = (),
    ) -> str | None:
        target = node.outputs[0]
        source = next(
            (value for value in node.inputs if value is not None and value.constant() is None), None
        )
        axis = None if source is None else self.axes.get(source)
        if source is None or axis is None or (behind_batch and axis != 1):
            return f"{node.op_type} {node.name} reads no layer's channels"
        if any(output.uses() or output.is_output for output in node.outputs[1:]):
            return f"a second output of {node.op_type} {node.name} is read"
        self.axes[target] = axis if becomes is None else becomes
        self.pass_through.append(PassThrough(node, source, target, parameters))
        self.graph.add_edge(source, target)
        return None

    def _flatten(self, node: NodeRef) -> str | None:
        """Map (n, c, ...) to (n, c * ...): each channel becomes a block of columns."""
        source, target = node.input(0), node.outputs[0]
        before = self.shapes.get(source, ()) if source is not None else ()
        after = self.shapes.get(target, ())
        inner = math.prod(extent or 0 for extent in before[1:])
        to = node.input(1)
        if len(before) < 2 or len(after) != 2 or inner == 0 or after[1] != inner or before[0] != after[0]:
            return f"{node.op_type} {node.name} is no plain flattening"
        if to is not None and to.constant() is None:
            return f"the shape of {node.name} is computed"
        return self._carry(node, behind_batch=True, becomes=1)

    def _reduce(self, node: NodeRef) -> str | None:
        """Accept a reduction over other axes than the channels'; axes are an attribute or an input."""
        source, given = node.input(0), node.input(1)
        stored = None if given is None else given.constant()
        axes = node.attribute("axes") if given is None else stored
        rank, axis = len(self.shapes.get(source, ())) if source is not None else 0, None
        if source is not None:
            axis = self.axes.get(source)
        if axes is None or rank == 0 or axis is None:
            return f"{node.op_type} {node.name} may not keep channels apart"
        reduced = {int(a) % rank for a in axes}
        if axis in reduced:
            return f"{node.op_type} {node.name} mixes channels"
        gone = 0 if node.attribute("keepdims", 1) else sum(a < axis for a in reduced)
        return self._carry(node, becomes=axis - gone)

    def _normalise(self, node: NodeRef) -> str | None:
        constants = [value for value in node.inputs[1:5] if value is not None]
        if len(constants) != 4 or not all(map(_is_own, constants)):
            return f"a constant of {node.name} is shared or computed"
        if node.attribute("training_mode", 0) or not node.attribute("spatial", 1):
            return f"{node.name} normalises in training mode, or every activation by itself"
        return self._carry(node, behind_batch=True, parameters=tuple((value, 0) for value in constants))

    def _add(self, node: NodeRef) -> str | None:
        operands = [value for value in node.inputs if value is not None]
        constants = [value for value in operands if value.constant() is not None]
        if not constants:
            return self._join(node, operands)
        if len(constants) == len(operands):
            return f"{node.name} adds constants"
        source = next(value for value in operands if value not in constants)
        axis = self._channel_axis(constants[0], source)
        if axis is None or not _is_own(constants[0]):
            return f"what {node.name} adds is shared, or not one number for each channel"
        if len(_shape(constants[0])) > len(self.shapes.get(source, ())):
            return f"{node.name} adds a constant of more axes than the value it is added to has"
        return self._carry(node, parameters=((constants[0], axis),))

    def _channel_axis(self, constant: ValueRef, source: ValueRef) -> int | None:
        """Return the axis of a broadcast constant that counts the channels; None where none does."""
        shape = _shape(constant)
        place = self.axes.get(source, -1) - (len(self.shapes.get(source, ())) - len(shape))
        wide = [axis for axis, extent in enumerate(shape) if extent != 1]
        return place if wide == [place] else None

    def _join(self, node: NodeRef, operands: list[ValueRef]) -> str | None:
        axes = {self.axes.get(value) for value in operands}
        shapes = {self.shapes.get(value) for value in operands}
        axis = next(iter(axes))
        if len(axes) > 1 or axis is None or len(shapes) > 1:
            return f"{node.name} adds channels of different places"
        self.axes[node.outputs[0]] = axis
        for value in operands:
            self.pass_through.append(PassThrough(node, value, node.outputs[0]))
            self.graph.add_edge(value, node.outputs[0])
        return None


def port_length(port: Port) -> int:
    """Return the number of channels (or columns, where each channel is a block) of the weight."""
    return _extent(port.weight, port.axis)


def _extent(value: ValueRef, axis: int) -> int:
    return _shape(value)[axis]


def _shape(value: ValueRef) -> tuple[int, ...]:
    array = value.constant()
    return () if array is None else array.shape


def _is_own(value: ValueRef | None) -> bool:
    """Return whether a stored constant is read by one node alone."""
    return (
        value is not None and value.constant() is not None and len(value.uses()) == 1 and not value.is_output
    )
