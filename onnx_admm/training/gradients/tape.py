"""The tape: what gradient rules write the backward pass on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnx_admm.model.differentiation.records import Array, Attribute, GraphNode, Shape, Subgraph

PREFIX = "admm::"
"""Of every value that is written; no value of a model begins so."""


class Tape:
    """Nodes and constants in the order in which they are written; equal constants are kept once."""

    def __init__(self) -> None:
        self.nodes: list[GraphNode] = []
        self.front: list[GraphNode] = []
        """Nodes in front of the graph that is differentiated."""
        self.constants: dict[str, Array] = {}
        self.behind_relu: set[str] = set()
        """Outputs of Relu that one node alone reads."""
        self.absorbed: set[str] = set()
        """Those of them whose reader has applied the gradient of the Relu already."""
        self._pool: dict[tuple[bytes, Shape, str], str] = {}
        self._extra: dict[tuple[str, int], str] = {}
        self._count = 0

    # -- writing -----------------------------------------------------------------------------

    def write(self, operator: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """Write a node with one output; its name."""
        return self.write_several(operator, inputs, 1, domain=domain, **attributes)[0]

    def write_several(
        self, operator: str, inputs: Sequence[str], count: int, *, domain: str = "", **attributes: Attribute
    ) -> tuple[str, ...]:
        """Write a node with several outputs; their names."""
        name = self.fresh(operator)
        outputs = tuple(name if count == 1 else f"{name}::{index}" for index in range(count))
        node = GraphNode(
            operator=operator,
            inputs=tuple(inputs),
            outputs=outputs,
            attributes=attributes,
            domain=domain,
            name=name,
        )
        self.nodes.append(node)
        return outputs

    def fresh(self, stem: str) -> str:
        """Return a name that no value has."""
        self._count += 1
        return f"{PREFIX}{self._count}::{stem}"

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        """Return a constant of the array's dtype, or of the stated one."""
        value = np.array(array, dtype, order="C")
        key = (value.tobytes(), value.shape, value.dtype.str)
        if key not in self._pool:
            self._pool[key] = self.fresh("constant")
            self.constants[self._pool[key]] = value
        return self._pool[key]

    def ints(self, values: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Return a constant vector of int64: a shape, axes, sizes."""
        return self.constant([int(value) for value in values], np.int64)

    def extra_output(self, outputs: Sequence[str], index: int) -> str:
        """Return the name of an output of a forward node, which gets that output if it has none.

        Args:
            outputs: the outputs that the node has.
            index: of the output that is wanted.
        """
        if index < len(outputs) and outputs[index]:
            return outputs[index]
        key = (next(name for name in outputs if name), index)
        return self._extra.setdefault(key, self.fresh("output"))

    def with_extra_outputs(self, node: GraphNode) -> tuple[str, ...]:
        """Return the outputs that a forward node has in the end."""
        first = next((name for name in node.outputs if name), "")
        added = {index: name for (owner, index), name in self._extra.items() if owner == first}
        count = max([len(node.outputs), *(index + 1 for index in added)])
        given = (*node.outputs, *[""] * (count - len(node.outputs)))
        return tuple(added.get(index, name) for index, name in enumerate(given))

    # -- what rules are made of --------------------------------------------------------------

    def product(self, *factors: str) -> str:
        """Multiply values of one shape (or that broadcast to it)."""
        result = factors[0]
        for factor in factors[1:]:
            result = self.write("Mul", result, factor)
        return result

    def scaled(self, value: str, factor: float, dtype: npt.DTypeLike) -> str:
        """Multiply by a number."""
        return value if factor == 1 else self.write("Mul", value, self.constant(factor, dtype))

    def mask(self, condition: str, dtype: npt.DTypeLike) -> str:
        """1 where a condition holds, else 0."""
        kinds = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}
        return self.write("Cast", condition, to=kinds[np.dtype(dtype).name])

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """Return the same elements in another shape."""
        return self.write("Reshape", value, self.ints(shape))

    def transpose(self, value: str, order: Sequence[int]) -> str:
        """Return the axes in another order."""
        if list(order) == list(range(len(order))):
            return value
        return self.write("Transpose", value, perm=tuple(int(axis) for axis in order))

    def sum(self, value: str, axes: Sequence[int], *, keep: bool = False) -> str:
        """Sum over axes; over none, the value itself."""
        return self.write("ReduceSum", value, self.ints(axes), keepdims=int(keep)) if len(axes) else value

    def sum_to(self, value: str, shape: Shape, target: Shape) -> str:
        """Sum a gradient of ``shape`` over the axes along which ``target`` was broadcast to it."""
        if tuple(shape) == tuple(target):
            return value
        lead = len(shape) - len(target)
        axes = [
            axis
            for axis, extent in enumerate(shape)
            if axis < lead or (target[axis - lead] == 1 and extent != 1)
        ]
        if not axes:
            return self.reshape(value, target)
        summed = self.sum(value, axes, keep=True)
        return summed if lead == 0 else self.reshape(summed, target)

    def mean(self, value: str, shape: Shape, axes: Sequence[int], dtype: npt.DTypeLike) -> str:
        """Return the mean of a value of ``shape`` over axes, which are kept with an extent of 1."""
        count = int(np.prod([shape[axis] for axis in axes], dtype=np.int64))
        return self.scaled(self.sum(value, axes, keep=True), 1 / count, dtype)

    def cut(
        self,
        value: str,
        axes: Sequence[int],
        starts: Sequence[int],
        stops: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> str:
        """Return a part of a value along axes."""
        operands = [self.ints(starts), self.ints(stops), self.ints(axes)]
        if steps is not None and any(step != 1 for step in steps):
            operands.append(self.ints(steps))
        return self.write("Slice", value, *operands)

    def padded(self, value: str, before: Sequence[int], after: Sequence[int]) -> str:
        """Zeros around a value; one number for each axis, none of them negative."""
        if not any(before) and not any(after):
            return value
        return self.write("Pad", value, self.ints([*before, *after]))

    def zeros(self, shape: Shape, dtype: npt.DTypeLike) -> str:
        """Zeros of a shape."""
        return self.write("ConstantOfShape", self.ints(shape), value=np.zeros(1, dtype))

    def matmul(self, a: str, b: str, rank: int, *, turn_a: bool = False, turn_b: bool = False) -> str:
        """Multiply stacks of matrices of one rank, either transposed first if asked.

        ONNX Runtime merges the transpositions into the product.
        """
        order = [*range(rank - 2), rank - 1, rank - 2]
        return self.write(
            "MatMul",
            self.transpose(a, order) if turn_a else a,
            self.transpose(b, order) if turn_b else b,
        )

    def scan(
        self, body: Subgraph, states: Sequence[str], sequences: Sequence[str], *, is_reverse: bool
    ) -> tuple[str, ...]:
        """Run a body over the first axis of sequences; last states, then what each step gives.

        Args:
            body: reads states, then slices; gives states, then outputs of the step.
            states: values before the first step.
            sequences: values with one slice for each step along their first axis.
            is_reverse: from the last slice to the first; the outputs keep the order of the slices.
        """
        turned = int(is_reverse)
        return self.write_several(
            "Scan",
            [*states, *sequences],
            len(body.outputs),
            body=body,
            num_scan_inputs=len(sequences),
            scan_input_directions=(turned,) * len(sequences),
            scan_output_directions=(turned,) * (len(body.outputs) - len(states)),
        )
