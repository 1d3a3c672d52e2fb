"""Evaluates one standard operator on known arrays, by the ONNX reference implementation, with bounds.

Only operators that store, move or rescale data are run: those of encoded weights and shape computations. The
size of a result is bounded before it is computed: a small file cannot request much memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnx_admm.limits import RunBudget, current_budget

Array: TypeAlias = npt.NDArray[Any]
_Inputs: TypeAlias = Sequence[Array | None]

# fmt: off
_ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast",
        "CastLike", "Ceil", "Clip", "Div", "Equal", "Exp", "Floor", "Greater", "GreaterOrEqual",
        "Identity", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow",
        "Reciprocal", "Round", "Sign", "Sqrt", "Sub", "Sum", "Where", "Xor",
    }
)
_MOVING = frozenset(
    {
        "Concat", "CumSum", "DepthToSpace", "DequantizeLinear", "Flatten", "GatherElements", "NonZero",
        "QuantizeLinear", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
        "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze",
        "TopK", "Transpose", "Trilu", "Unsqueeze",
    }
)
# fmt: on
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)

_COUNTED_ELEMENTS = 1 << 12
"""Size from which on outputs are counted while they live."""

_CALL = 1 << 15
"""Operations that a call of a reference operator counts as: it builds a model each time."""

_REFERENCE_SINCE = {"DequantizeLinear": 19}
"""Opsets where the reference implementation starts later than the operator, with only types added."""


class NotEvaluated(Exception):
    """The operator is not supported, fails on these inputs, or its result would be too large."""


def is_evaluable(node: ir.Node) -> bool:
    """Return whether ``evaluate_node`` supports the operator."""
    if node.domain not in ("", "ai.onnx") or any(attr.is_ref() for attr in node.attributes.values()):
        return False
    return node.op_type in _ELEMENTWISE or node.op_type in _MOVING or node.op_type in _SIZES


def evaluate_node(
    node: ir.Node, inputs: _Inputs, opset: int, limit: int, budget: RunBudget | None = None
) -> list[Array]:
    """Return the node's outputs.

    Args:
        node: a node for which ``is_evaluable`` holds.
        inputs: one array per input, None where an optional input is left out.
        opset: version of the default operator set.
        limit: most elements of an output.
        budget: budget of the outputs, as long as they live; None for that of the current run.

    Raises:
        NotEvaluated: see there.
        LimitReached: the run has exceeded its budget.
    """
    budget, what = budget or current_budget(), f"computing {node.op_type} on constants"
    try:
        size = _largest_output(node, inputs)
        if size > limit:
            raise NotEvaluated(f"{node.op_type} gives {size} elements, over {limit}")
        budget.operate(_operations(node, inputs, size), what)
        if size >= _COUNTED_ELEMENTS:
            budget.reserve(size, what)
        with np.errstate(all="ignore"):
            outputs = [np.asarray(output) for output in _run(node, inputs, opset)]
    except _FAILURES as error:
        raise NotEvaluated(f"{node.op_type} {node.name}: {error}") from error
    known = {id(_owner(array)) for array in inputs if array is not None}
    for owner in map(_owner, outputs):
        if id(owner) not in known and owner.size >= _COUNTED_ELEMENTS:
            budget.keep(owner, what)
    return outputs


def _owner(array: Array) -> Array:
    """Return the array whose memory a view shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _operations(node: ir.Node, inputs: _Inputs, size: int) -> int:
    """Return the elements computed, products within a sum included."""
    inner = 1
    if node.op_type in ("MatMul", "MatMulInteger") and inputs[0] is not None and inputs[0].ndim:
        inner = max(1, inputs[0].shape[-1])
    return size * inner + _CALL


def _largest_output(node: ir.Node, inputs: _Inputs) -> int:
    arrays = [array for array in inputs if array is not None]
    if node.op_type in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
    if node.op_type in _MOVING:
        return sum(array.size * max(1, array.ndim) for array in arrays)
    return _SIZES[node.op_type](node, arrays)


def _gather_size(node: ir.Node, arrays: list[Array]) -> int:
    data, indices = arrays
    return int(indices.size * data.size // max(1, data.shape[node.attributes.get_int("axis", 0)]))


def _gather_nd_size(_: ir.Node, arrays: list[Array]) -> int:
    data, indices = arrays
    return int(indices.size * data.size // max(1, data.shape[0]))


def _matmul_size(_: ir.Node, arrays: list[Array]) -> int:
    left, right = (array.shape for array in arrays)
    batches = math.prod(np.broadcast_shapes(left[:-2], right[:-2]))
    return batches * math.prod(left[-2:-1]) * (right[-1] if len(right) > 1 else 1)


def _expand_size(_: ir.Node, arrays: list[Array]) -> int:
    return math.prod(np.broadcast_shapes(arrays[0].shape, tuple(int(n) for n in arrays[1])))


def _pad_size(node: ir.Node, arrays: list[Array]) -> int:
    """Return the size of a Pad's result, from an input (opset 11), an attribute (2) or its older name (1)."""
    if len(arrays) > 1:
        pads = [int(size) for size in arrays[1]]
    else:
        pads = [*node.attributes.get_ints("pads", node.attributes.get_ints("paddings", ()))]
    axes = [int(axis) for axis in arrays[3]] if len(arrays) > 3 else list(range(arrays[0].ndim))
    if len(pads) != 2 * len(axes):
        raise ValueError(f"{len(pads)} sizes to pad {len(axes)} axes with")
    extents = list(arrays[0].shape)
    for place, axis in enumerate(axes):
        extents[axis] += pads[place] + pads[place + len(axes)]
    return math.prod(max(0, extent) for extent in extents)


_SIZES: dict[str, Callable[[ir.Node, list[Array]], int]] = {
    "ConstantOfShape": lambda node, arrays: math.prod(int(n) for n in arrays[0]),
    "Expand": _expand_size,
    "Gather": _gather_size,
    "GatherND": _gather_nd_size,
    "MatMul": _matmul_size,
    "MatMulInteger": lambda node, arrays: _matmul_size(node, arrays[:2]),
    "OneHot": lambda node, arrays: arrays[0].size * int(arrays[1].item()),
    "Pad": _pad_size,
    "Range": lambda node, arrays: math.ceil((arrays[1].item() - arrays[0].item()) / arrays[2].item()),
    "Tile": lambda node, arrays: arrays[0].size * math.prod(int(n) for n in arrays[1]),
}


def _run(node: ir.Node, inputs: _Inputs, opset: int) -> Sequence[Any]:
    fed = {f"in{i}": array for i, array in enumerate(inputs) if array is not None}
    proto = ir.to_proto(node)
    proto.ClearField("input")
    proto.ClearField("output")
    proto.input.extend(f"in{i}" if array is not None else "" for i, array in enumerate(inputs))
    proto.output.extend(f"out{i}" if output.name else "" for i, output in enumerate(node.outputs))
    requested = [name for name in proto.output if name]
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [_value_info(name, array) for name, array in fed.items()],
        [onnx.helper.make_empty_tensor_value_info(name) for name in requested],
    )
    version = max(opset, _REFERENCE_SINCE.get(node.op_type, 1))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    results = iter(ReferenceEvaluator(model, new_ops=[ScatterElements, ScatterND, TopK]).run(None, fed))
    return [next(results) if name else np.empty(0) for name in proto.output]


def _value_info(name: str, array: Array) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, ir.DataType.from_numpy(array.dtype).value, array.shape)


class ScatterElements(OpRun):
    """ScatterElements (opset 11) without reduction, as one assignment: the reference loops in Python."""

    op_domain = ""

    def _run(
        self, data: Array, indices: Array, updates: Array, axis: int = 0, reduction: str | None = None
    ) -> Any:
        if reduction not in (None, "none"):
            raise NotImplementedError(f"reduction {reduction}")
        result = np.copy(data)
        np.put_along_axis(result, indices, updates, axis or 0)
        return (result,)


class ScatterND(OpRun):
    """ScatterND (opset 11) without reduction, as one assignment."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, updates: Array, reduction: str | None = None) -> Any:
        if reduction not in (None, "none"):
            raise NotImplementedError(f"reduction {reduction}")
        result = np.copy(data)
        result[tuple(np.moveaxis(indices, -1, 0))] = updates
        return (result,)


class TopK(OpRun):
    """TopK (opset 11), equal values in order of their index as the operator says; the reference differs."""

    op_domain = ""

    def _run(self, x: Array, k: Array, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
        keys = x.astype(np.int64) if x.dtype.kind in "iub" else x
        order = np.argsort(-keys if largest else keys, axis=axis, kind="stable")
        indices = np.take(order, np.arange(int(np.asarray(k).item())), axis=axis)
        return np.take_along_axis(x, indices, axis=axis), indices.astype(np.int64)
