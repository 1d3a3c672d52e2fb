"""What the rules of LSTM, GRU and RNN share: one direction of a layer, and scans over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnx_admm.model.differentiation.records import Attribute, GraphNode, Subgraph
from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.tape import Tape

SEQUENCE_LENGTHS, FIRST_HIDDEN, FIRST_CELL, PEEPHOLES = 4, 5, 6, 7
"""Inputs of a recurrent operator beside X, W, R and B."""


@dataclass
class Body:
    """The body of a scan, written node by node.

    Attributes:
        tape: gives names.
        nodes: what was written.
    """

    tape: Tape
    nodes: list[GraphNode] = field(default_factory=list)

    def write(self, operator: str, *inputs: str, **attributes: Attribute) -> str:
        """Write a node with one output; its name."""
        name = self.tape.fresh(operator)
        node = GraphNode(operator=operator, inputs=inputs, outputs=(name,), attributes=attributes, name=name)
        self.nodes.append(node)
        return name

    def named(self, count: int) -> tuple[str, ...]:
        """Names for inputs of the body."""
        return tuple(self.tape.fresh("slice") for _ in range(count))

    def finished(self, inputs: Sequence[str], outputs: Sequence[str]) -> Subgraph:
        """Return the body; each output by a name of its own."""
        renamed = tuple(self.write("Identity", name) for name in outputs)
        return Subgraph(tuple(inputs), renamed, tuple(self.nodes))


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a recurrent layer.

    Attributes:
        tape, node: where its gradient is written, and whose it is.
        index: of the direction in W, R, B and Y.
        gates: weight rows per hidden unit.
        is_reverse: whether it starts at the last step.
        steps, samples, features, hidden: extents.
    """

    tape: Tape
    node: GradientNode
    index: int
    gates: int
    is_reverse: bool
    steps: int
    samples: int
    features: int
    hidden: int

    def part(self, value: str, shape: Sequence[int], axis: int = 0, start: int | None = None) -> str:
        """Return the direction's part of a value, in another shape."""
        first = self.index if start is None else start
        return self.tape.reshape(self.tape.cut(value, [axis], [first], [first + 1]), shape)

    def zeros(self, *shape: int) -> str:
        """Zeros of a shape."""
        return self.tape.zeros(shape, self.node.dtype)

    def input_weights(self) -> str:
        """W of the direction, (gates * hidden, features)."""
        return self.part(self.node.inputs[1], [self.gates * self.hidden, self.features])

    def hidden_weights(self) -> str:
        """R of the direction, (gates * hidden, hidden)."""
        return self.part(self.node.inputs[2], [self.gates * self.hidden, self.hidden])

    def biases(self) -> tuple[str, str]:
        """Return the biases of both products, (gates * hidden,) each."""
        width = self.gates * self.hidden
        if not self.node.has(3):
            return self.zeros(width), self.zeros(width)
        both = self.part(self.node.inputs[3], [2 * width])
        first, second = self.tape.write_several("Split", [both, self.tape.ints([width, width])], 2, axis=0)
        return first, second

    def first_state(self, index: int) -> str:
        """Return the state before the first step, (samples, hidden)."""
        if not self.node.has(index):
            return self.zeros(self.samples, self.hidden)
        return self.part(self.node.inputs[index], [self.samples, self.hidden])

    def hidden_states(self) -> str:
        """Y of the direction, (steps, samples, hidden)."""
        y = self.tape.extra_output(self.node.outputs, 0)
        return self.part(y, [self.steps, self.samples, self.hidden], axis=1)

    def previous(self, states: str, first: str) -> str:
        """Return the state before each step, (steps, samples, hidden)."""
        start = self.tape.reshape(first, [1, self.samples, self.hidden])
        if self.steps == 1:
            return start
        if self.is_reverse:
            later = self.tape.cut(states, [0], [1], [self.steps])
            return self.tape.write("Concat", later, start, axis=0)
        earlier = self.tape.cut(states, [0], [0], [self.steps - 1])
        return self.tape.write("Concat", start, earlier, axis=0)

    def rows(self, value: str, width: int) -> str:
        """All steps and samples as rows, (steps * samples, width)."""
        return self.tape.reshape(value, [self.steps * self.samples, width])

    def steps_of(self, value: str, width: int) -> str:
        """Rows as steps and samples, (steps, samples, width)."""
        return self.tape.reshape(value, [self.steps, self.samples, width])

    def inputs(self) -> str:
        """X as rows, (steps * samples, features)."""
        return self.rows(self.node.x, self.features)

    def output_gradient(self) -> str:
        """Return the gradient of Y, (steps, samples, hidden)."""
        if self.node.gradients[0] is None:
            return self.zeros(self.steps, self.samples, self.hidden)
        return self.part(self.node.gradients[0], [self.steps, self.samples, self.hidden], axis=1)

    def last_gradient(self, output: int) -> str:
        """Return the gradient of a last state, (samples, hidden)."""
        given = self.node.gradients[output] if len(self.node.gradients) > output else None
        if given is None:
            return self.zeros(self.samples, self.hidden)
        return self.part(given, [self.samples, self.hidden])


@dataclass(frozen=True, slots=True)
class DirectionGradients:
    """Gradients of one direction.

    Attributes:
        input_rows, hidden_rows: of what the products with X and with the states give, each of shape
            (steps * samples, gates * hidden).
        hidden_weights: of R, (gates * hidden, hidden).
        states: of the first states, (samples, hidden), by input.
    """

    input_rows: str
    hidden_rows: str
    hidden_weights: str
    states: dict[int, str]


def directions(tape: Tape, node: GradientNode, gates: int) -> list[Direction]:
    """Return the directions of a layer.

    Raises:
        UnsupportedVariant: lengths of sequences, peepholes, a clip, another layout or other activations.
    """
    _check(node, gates)
    (steps, samples, features), hidden = node.input_shapes[0], node.input_shapes[2][-1]
    way = node.get("direction", "forward")
    return [
        Direction(
            tape=tape,
            node=node,
            index=index,
            gates=gates,
            is_reverse=way == "reverse" or index == 1,
            steps=steps,
            samples=samples,
            features=features,
            hidden=hidden,
        )
        for index in range(node.input_shapes[1][0])
    ]


_ACTIVATIONS = {4: ("Sigmoid", "Tanh", "Tanh"), 3: ("Sigmoid", "Tanh"), 1: ("Tanh",)}
"""The default ones, by number of gates."""


def _check(node: GradientNode, gates: int) -> None:
    asked = tuple(str(name).capitalize() for name in node.get("activations", ()))
    default = _ACTIVATIONS[gates] * node.input_shapes[1][0]
    lengths = node.constant(SEQUENCE_LENGTHS)
    refused = {
        "sequence_lens": lengths is not None and (lengths != node.input_shapes[0][0]).any(),
        "peepholes": node.has(PEEPHOLES),
        "clip": "clip" in node.attributes,
        "layout 1": node.get("layout", 0),
        "input_forget 1": node.get("input_forget", 0),
        f"activations {', '.join(asked)}": asked not in ((), default),
    }
    for what, is_used in refused.items():
        if is_used:
            raise UnsupportedVariant(what)


def joined(
    tape: Tape, node: GradientNode, layers: list[Direction], found: list[DirectionGradients]
) -> dict[int, str]:
    """Gradients of the node's inputs from those of its directions."""

    def together(values: list[str]) -> str:
        return values[0] if len(values) == 1 else tape.write("Concat", *values, axis=0)

    result: dict[int, str] = {}
    pairs = list(zip(layers, found, strict=True))
    if node.wants(0):
        parts = [tape.write("MatMul", one.input_rows, layer.input_weights()) for layer, one in pairs]
        total = parts[0] if len(parts) == 1 else tape.write("Add", *parts)
        result[0] = tape.reshape(total, node.input_shapes[0])
    if node.wants(1):
        parts = [tape.write("Gemm", one.input_rows, layer.inputs(), transA=1) for layer, one in pairs]
        result[1] = tape.reshape(together(parts), node.input_shapes[1])
    if node.wants(2):
        result[2] = tape.reshape(together([one.hidden_weights for one in found]), node.input_shapes[2])
    if node.wants(3):
        sums = [tape.sum(rows, [0]) for one in found for rows in (one.input_rows, one.hidden_rows)]
        result[3] = tape.reshape(together(sums), node.input_shapes[3])
    for index in (FIRST_HIDDEN, FIRST_CELL):
        if node.wants(index):
            result[index] = tape.reshape(
                together([one.states[index] for one in found]), node.input_shapes[index]
            )
    return result
