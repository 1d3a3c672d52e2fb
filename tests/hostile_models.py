"""Small model files that ask for much time or memory, each built by a function of one size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F = TensorProto.FLOAT
Nodes = Sequence[onnx.NodeProto]


def model(
    nodes: Iterable[onnx.NodeProto],
    arrays: Mapping[str, Any] | None = None,
    *,
    inputs: Mapping[str, Sequence[int | str | None]] | None = None,
    outputs: Mapping[str, Sequence[int | str | None]] | None = None,
    opset: int = 13,
    functions: Sequence[onnx.FunctionProto] = (),
    others: Sequence[tuple[str, int]] = (),
) -> onnx.ModelProto:
    """A model with one float input ``x [1, 4]`` and one float output ``y [1, n]`` unless said otherwise."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, F, s) for n, s in (inputs or {"x": [1, 4]}).items()],
        [helper.make_tensor_value_info(n, F, s) for n, s in (outputs or {"y": [1, "n"]}).items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (arrays or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*other) for other in others)]
    return helper.make_model(graph, ir_version=8, opset_imports=imports, functions=list(functions))


def _read_by_matmul(name: str) -> list[onnx.NodeProto]:
    return [helper.make_node("MatMul", ["x", name], ["y"])]


def doubling_adds(count: int) -> onnx.ModelProto:
    """``count`` chained ``Add(a, a)`` of a constant [4, 4]: 2 ** count paths lead to it."""
    nodes = [helper.make_node("Add", [f"a{i}", f"a{i}"], [f"a{i + 1}"]) for i in range(count)]
    return model([*nodes, *_read_by_matmul(f"a{count}")], {"a0": np.eye(4, dtype=np.float32)})


def chained_muls(count: int) -> onnx.ModelProto:
    """A weight behind ``count`` chained ``Mul(a, 1)``."""
    nodes = [helper.make_node("Mul", [f"a{i}", "one"], [f"a{i + 1}"]) for i in range(count)]
    arrays = {"a0": np.eye(4, dtype=np.float32), "one": np.float32(1)}
    return model([*nodes, *_read_by_matmul(f"a{count}")], arrays)


def expand_and_negate(count: int, side: int = 4096) -> onnx.ModelProto:
    """One scalar expanded to ``side x side``, negated ``count`` times, each result the weight of a MatMul."""
    nodes = [helper.make_node("Expand", ["one", "shape"], ["a0"])]
    nodes += [helper.make_node("Neg", [f"a{i}"], [f"a{i + 1}"]) for i in range(count)]
    nodes += [helper.make_node("MatMul", [f"x{i}", f"a{i + 1}"], [f"x{i + 1}"]) for i in range(count)]
    arrays = {"one": np.float32(1), "shape": np.array([side, side])}
    return model(nodes, arrays, inputs={"x0": [1, side]}, outputs={f"x{count}": [1, side]})


def constants_of_shape(count: int, side: int = 4000) -> onnx.ModelProto:
    """``count`` weights of ``side x side``, each by a ConstantOfShape."""
    nodes = []
    for i in range(count):
        nodes.append(helper.make_node("ConstantOfShape", ["shape"], [f"w{i}"]))
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    return model(
        nodes,
        {"shape": np.array([side, side])},
        inputs={"x0": [1, side]},
        outputs={f"x{count}": [1, side]},
    )


def sparse_weights(count: int, side: int = 4000) -> onnx.ModelProto:
    """``count`` sparse initializers of ``side x side`` with one nonzero each."""
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    built = model(nodes, inputs={"x0": [1, side]}, outputs={f"x{count}": [1, side]})
    for i in range(count):
        values = numpy_helper.from_array(np.ones(1, np.float32), f"w{i}")
        indices = numpy_helper.from_array(np.array([3]), f"w{i}_indices")
        built.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [side, side]))
    return built


def old_pad(padding: int = 17_000) -> onnx.ModelProto:
    """Pad of opset 10, its sizes in an attribute: a scalar weight grows to ``padding`` squared."""
    nodes = [helper.make_node("Pad", ["w"], ["p"], pads=[0, 0, padding, padding]), *_read_by_matmul("p")]
    return model(nodes, {"w": np.ones((1, 1), np.float32)}, opset=10)


def weight_without_elements(extent: int = 2**40) -> onnx.ModelProto:
    """A weight of shape [0, extent]."""
    built = model(_read_by_matmul("w"), inputs={"x": [1, 0]})
    built.graph.initializer.append(TensorProto(name="w", data_type=F, dims=[0, extent]))
    return built


def weight_of_many_axes(axes: int = 64, extent: int = 1) -> onnx.ModelProto:
    """A weight of one element and very many axes (or of none, where ``extent`` is 0)."""
    built = model(_read_by_matmul("w"))
    raw = b"\0" * 4 if extent else b""
    built.graph.initializer.append(TensorProto(name="w", data_type=F, dims=[extent] * axes, raw_data=raw))
    return built


def nested_functions(depth: int, calls: int = 4) -> onnx.ModelProto:
    """Functions that each call the next one ``calls`` times: ``calls ** depth`` operators in all."""
    functions = []
    for level in range(depth):
        body, op = [], (f"f{level + 1}", "own") if level + 1 < depth else ("Neg", "")
        for i in range(calls):
            body.append(helper.make_node(op[0], [f"t{i}" if i else "a"], [f"t{i + 1}"], domain=op[1]))
        body.append(helper.make_node("Identity", [f"t{calls}"], ["b"]))
        imports = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["b"], body, imports))
    nodes = [helper.make_node("f0", ["x"], ["y"], domain="own")]
    return model(nodes, functions=functions, others=[("own", 1)], outputs={"y": [1, 4]})


def many_nodes(count: int) -> onnx.ModelProto:
    """``count`` Relus in a row, and one MatMul."""
    nodes = [helper.make_node("Relu", [f"r{i}" if i else "x"], [f"r{i + 1}"], f"n{i}") for i in range(count)]
    nodes.append(helper.make_node("MatMul", [f"r{count}", "w"], ["y"]))
    return model(nodes, {"w": np.eye(4, dtype=np.float32)}, outputs={"y": [1, 4]})


def many_initializers(count: int) -> onnx.ModelProto:
    """``count`` initializers of one element that nothing reads, and one MatMul."""
    built = model(_read_by_matmul("w"), {"w": np.eye(4, dtype=np.float32)}, outputs={"y": [1, 4]})
    one = TensorProto(data_type=F, dims=[1], raw_data=np.float32(1).tobytes())
    for i in range(count):
        one.name = f"i{i}"
        built.graph.initializer.append(one)
    return built


def many_weights(count: int) -> onnx.ModelProto:
    """``count`` MatMuls in a row, each with a weight [4, 4] of its own."""
    nodes = [
        helper.make_node("MatMul", [f"r{i}" if i else "x", f"w{i}"], [f"r{i + 1}"]) for i in range(count)
    ]
    arrays = {f"w{i}": np.eye(4, dtype=np.float32) for i in range(count)}
    return model(nodes, arrays, outputs={f"r{count}": [1, 4]})


def endless_loop(turns: int = 2**62) -> onnx.ModelProto:
    """A Loop that adds 1 to its input ``turns`` times, and one MatMul."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Add", ["v", "one"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", F, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", F, [1, 4]),
        ],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Loop", ["turns", "go", "m"], ["y"], body=body),
    ]
    arrays = {
        "w": np.eye(4, dtype=np.float32),
        "one": np.float32(1),
        "turns": np.int64(turns),
        "go": np.bool_(True),
    }
    return model(nodes, arrays, outputs={"y": [1, 4]})


def nested_ifs(depth: int) -> onnx.ModelProto:
    """If in If in If, ``depth`` deep."""
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], [f"z{depth}"])],
        "leaf",
        [],
        [helper.make_tensor_value_info(f"z{depth}", F, [1, 4])],
    )
    for level in reversed(range(depth)):
        other = helper.make_graph(
            [helper.make_node("Abs", ["x"], [f"e{level}"])],
            f"else{level}",
            [],
            [helper.make_tensor_value_info(f"e{level}", F, [1, 4])],
        )
        node = helper.make_node("If", ["go"], [f"z{level}"], then_branch=inner, else_branch=other)
        outputs = [helper.make_tensor_value_info(f"z{level}", F, [1, 4])]
        inner = helper.make_graph([node], f"then{level}", [], outputs)
    nodes = [*inner.node, helper.make_node("MatMul", ["z0", "w"], ["y"])]
    arrays = {"w": np.eye(4, dtype=np.float32), "go": np.bool_(True)}
    return model(nodes, arrays, outputs={"y": [1, 4]})


def open_convolution() -> onnx.ModelProto:
    """A Conv of which every axis is open, the channels too; its weight says 3."""
    weight = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "k"], ["y"], pads=[1, 1, 1, 1])]
    shape = {"x": ["b", "c", "h", "w"]}
    return model(nodes, {"k": weight}, inputs=shape, outputs={"y": ["b", 8, "p", "q"]})
