"""Gradients of generated graphs: operators in any order, values read several times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from gradient_cases import Case, check, node
from hypothesis import given, settings
from hypothesis import strategies as st

Value = tuple[str, tuple[int, ...]]


class Growing:
    """A graph that grows node by node from the values it has."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.values: list[Value] = [("x", (2, 4, 6, 6))]
        self.nodes: list[onnx.NodeProto] = []
        self.shapes = {"x": (2, 4, 6, 6)}
        self.constants: dict[str, np.ndarray] = {}

    def add(self, operator: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(operator, inputs, [name], **attributes))
        self.values.append((name, shape))

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.shapes)}"
        self.shapes[name] = shape
        return name

    def ints(self, *values: int) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(values, np.int64)
        return name

    def pick(self, *ranks: int) -> Value:
        found = [value for value in self.values if not ranks or len(value[1]) in ranks]
        return found[int(self.rng.integers(len(found)))]


def activation(graph: Growing) -> None:
    name, shape = graph.pick()
    operator = str(graph.rng.choice(["Sigmoid", "Tanh", "Softplus", "HardSwish", "Softmax", "Mish"]))
    graph.add(operator, [name], shape)


def pair(graph: Growing) -> None:
    name, shape = graph.pick()
    others = [other for other, its in graph.values if its == shape]
    operator = str(graph.rng.choice(["Add", "Sub", "Mul"]))
    graph.add(operator, [name, others[int(graph.rng.integers(len(others)))]], shape)


def convolve(graph: Growing) -> None:
    name, (n, channels, height, width) = graph.pick(4)
    if min(height, width) < 3:
        return
    filters = int(graph.rng.integers(2, 5))
    stride = int(graph.rng.integers(1, 3))
    weights = [graph.weight(filters, channels, 3, 3), graph.weight(filters)]
    shape = (n, filters, (height - 1) // stride + 1, (width - 1) // stride + 1)
    graph.add("Conv", [name, *weights], shape, pads=[1] * 4, strides=[stride, stride])


def pool(graph: Growing) -> None:
    name, (n, channels, height, width) = graph.pick(4)
    if min(height, width) < 2:
        return
    operator = str(graph.rng.choice(["MaxPool", "AveragePool"]))
    shape = (n, channels, height // 2, width // 2)
    graph.add(operator, [name], shape, kernel_shape=[2, 2], strides=[2, 2])


def multiply(graph: Growing) -> None:
    name, shape = graph.pick()
    columns = int(graph.rng.integers(2, 5))
    graph.add("MatMul", [name, graph.weight(shape[-1], columns)], (*shape[:-1], columns))


def turn(graph: Growing) -> None:
    name, shape = graph.pick()
    order = graph.rng.permutation(len(shape)).tolist()
    graph.add("Transpose", [name], tuple(shape[axis] for axis in order), perm=order)


def cut(graph: Growing) -> None:
    name, shape = graph.pick()
    axis = int(graph.rng.integers(len(shape)))
    if shape[axis] < 2:
        return
    start, step = int(graph.rng.integers(0, shape[axis] - 1)), int(graph.rng.integers(1, 3))
    kept = tuple(-(-(extent - start) // step) if at == axis else extent for at, extent in enumerate(shape))
    operands = [graph.ints(value) for value in (start, 1000, axis, step)]
    graph.add("Slice", [name, *operands], kept)


def join(graph: Growing) -> None:
    name, shape = graph.pick()
    axis = int(graph.rng.integers(len(shape)))
    doubled = tuple(2 * extent if at == axis else extent for at, extent in enumerate(shape))
    if np.prod(doubled) < 2000:
        graph.add("Concat", [name, name], doubled, axis=axis)


def average(graph: Growing) -> None:
    name, shape = graph.pick()
    axis = int(graph.rng.integers(len(shape)))
    kept = tuple(1 if at == axis else extent for at, extent in enumerate(shape))
    graph.add("ReduceMean", [name, graph.ints(axis)], kept, keepdims=1)


def flatten(graph: Growing) -> None:
    name, shape = graph.pick()
    graph.add("Flatten", [name], (shape[0], int(np.prod(shape[1:]))))


def normalise(graph: Growing) -> None:
    name, shape = graph.pick()
    if shape[-1] > 2:
        scales = [graph.weight(shape[-1]), graph.weight(shape[-1])]
        graph.add("LayerNormalization", [name, *scales], shape)


GROW: tuple[Callable[[Growing], None], ...] = (
    activation, pair, convolve, pool, multiply, turn, cut, join, average, flatten, normalise,
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 9))
def test_gradients_of_generated_graphs_are_slopes(seed: int, count: int) -> None:
    graph = Growing(seed)
    while len(graph.nodes) < count:
        GROW[int(graph.rng.integers(len(GROW)))](graph)
    graph.nodes[-1].output[0] = "y"
    used = {name for made in graph.nodes for name in made.input}
    shapes = {name: shape for name, shape in graph.shapes.items() if name in reaching(graph.nodes) & used}
    if not shapes:
        return
    fixed = {
        name: np.random.default_rng(seed).normal(size=shape)
        for name, shape in graph.shapes.items()
        if name not in shapes
    }
    check(Case("generated", graph.nodes, shapes, graph.constants | fixed), seed=seed, rounded=1e-3)


def reaching(nodes: list[onnx.NodeProto]) -> set[str]:
    """Values that y depends on."""
    found = {"y"}
    for made in reversed(nodes):
        if made.output[0] in found:
            found.update(made.input)
    return found
