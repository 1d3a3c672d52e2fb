"""Constants that may be weights of unsupported operators, and why each stays unchanged.

These are constants of integer operators, of operators outside the standard (such as the attributes of
decision trees), and large float constants of standard operators that are no layers here (Mul, PRelu, Where,
ScatterND, DeformConv ...). Vectors that are biases or scales of channels by their place are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.folding.decoder import Workspace, subgraph_of
from onnx_admm.model.names import label
from onnx_admm.model.operators import STANDARD, Trait, operator_of, operators_with
from onnx_admm.model.view import ModelView

_INTEGER_OPERATORS = operators_with(Trait.INTEGER)
_INTEGERS = {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4}
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}
_MOVING = operators_with(Trait.REARRANGES, Trait.CASTS, Trait.CUTS, Trait.REPEATS, Trait.JOINS)
_WITH_PARAMETERS = operators_with(Trait.NORMALISES) | {"Add", "Div", "Mul", "Sub", "Sum"}
_WITH_WEIGHTS = {"Conv", "ConvTranspose", "DeformConv", "Gemm", "GRU", "LSTM", "MatMul", "RNN"}
_RECURRENT = operators_with(Trait.RECURRENT)
_LEAST_STANDARD_BYTES, _LARGE_VECTOR_BYTES = 4096, 1 << 16
_LEAST_BYTES = 256
"""Smaller constants are scales, shapes and the like."""


@dataclass(frozen=True, slots=True)
class UnsupportedWeight:
    """A constant that may be a weight, of an operator that this project does not know as a layer.

    Attributes:
        name: name of the constant.
        node: node that reads it.
        operator: the node's, prefixed by its domain outside the standard.
        is_integer: whether it holds integers of at most 8 bits.
        nbytes: its bytes.
        is_standard: whether the operator is of the standard.
        is_attribute: whether they are the node's attributes, all together.
    """

    name: str
    node: str
    operator: str
    is_integer: bool
    nbytes: int
    is_standard: bool = False
    is_attribute: bool = False

    def line(self) -> str:
        """Return one line on why it stays unchanged, with its bytes where it may be a layer's weight."""
        return f"{self.nbytes:,} bytes {self.why_left()}" if self._may_be_layer else self.why_left()

    @property
    def _may_be_layer(self) -> bool:
        return self.is_standard and not self.is_integer

    def why_left(self) -> str:
        """Return why it stays unchanged."""
        if self.is_integer:
            return f"integers already, read by {self.operator}"
        if self._may_be_layer:
            return f"read by {self.operator}, which is not a supported layer"
        those = "attributes of" if self.is_attribute else "read by"
        return f"{those} {self.operator}, an operator outside the standard"


def unsupported_weights(view: ModelView) -> tuple[UnsupportedWeight, ...]:
    """Return these constants in graph order, subgraphs and functions included, each once."""
    workspace = Workspace()
    sites = {found.value for found in view.found_sites().values()}
    for site in view.found_sites().values():
        scale = None if site.lookup is None else site.lookup.scale
        subgraph = None if scale is None else subgraph_of(scale, workspace)
        sites.update(() if subgraph is None else subgraph.constants)
    found: dict[ir.Value | ir.Node, UnsupportedWeight] = {}
    for reference in view.nodes():
        node = reference.ir_node
        if not _is_known(node) and (nbytes := _attribute_bytes(node)) >= _LEAST_STANDARD_BYTES:
            found[node] = UnsupportedWeight(
                label(node), label(node), _operator(node), False, nbytes, node.domain in STANDARD, True
            )
        for index, value in enumerate(node.inputs):
            tensor = None if value is None else constant_tensor(value)
            if value is None or tensor is None or value in sites or tensor.nbytes < _LEAST_BYTES:
                continue
            reader = node
            if _is_known(node):
                readers = _readers(node, index, workspace) if _may_be_weight(tensor) else iter(())
                at = next((each for each in readers if not _is_channel_vector(tensor, *each)), None)
                if at is None:
                    continue
                reader = at[0]
            unsupported = UnsupportedWeight(
                value.name or label(node),
                label(reader),
                _operator(reader),
                tensor.dtype in _INTEGERS,
                tensor.nbytes,
                reader.domain in STANDARD,
            )
            found.setdefault(value, unsupported)
    return tuple(found.values())


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in STANDARD else f"{node.domain}::{node.op_type}"


def _attribute_bytes(node: ir.Node) -> int:
    """Return the bytes that a node's attributes with many numbers take in the file."""
    lists = (ir.AttributeType.FLOATS, ir.AttributeType.INTS, ir.AttributeType.TENSOR)
    numbers = [each for each in node.attributes.values() if not each.is_ref() and each.type in lists]
    return sum(ir.to_proto(each).ByteSize() for each in numbers)


def _is_known(node: ir.Node) -> bool:
    """Return whether the weight inputs of a node are known, and contain no integers."""
    if node.domain in STANDARD:
        return node.op_type not in _INTEGER_OPERATORS
    known = operator_of(node)
    return known is not None and Trait.INTEGER not in known.traits


def _may_be_weight(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype in _FLOATS and tensor.nbytes >= _LEAST_STANDARD_BYTES


def _readers(node: ir.Node, index: int, workspace: Workspace) -> Iterator[tuple[ir.Node, int]]:
    """Yield nodes, with their input, that combine a constant with data, also behind nodes that move it.

    A decoder's constants have none: it computes with them before any data.
    """
    pending = [(node, index)]
    seen = set(pending)
    while pending:
        reader, place = pending.pop()
        if not all(value is None or subgraph_of(value, workspace) is not None for value in reader.inputs):
            yield reader, place
        elif reader.op_type in _MOVING:
            uses = [(use.node, use.idx) for output in reader.outputs for use in output.uses()]
            pending.extend(use for use in uses if use not in seen)
            seen.update(uses)


def _is_channel_vector(tensor: ir.TensorProtocol, node: ir.Node, index: int) -> bool:
    """Return whether it is a bias, a scale or another parameter with one number for each channel."""
    if node.op_type in _RECURRENT and index >= 3:
        return tensor.nbytes < _LARGE_VECTOR_BYTES  # biases and states of both directions
    is_vector = sum(extent > 1 for extent in tensor.shape.numpy()) <= 1
    if not is_vector or tensor.nbytes >= _LARGE_VECTOR_BYTES:
        return False
    return (
        node.domain not in STANDARD
        or node.op_type in _WITH_PARAMETERS
        or (node.op_type in _WITH_WEIGHTS and index >= 1)
    )
