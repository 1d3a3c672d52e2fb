"""Small graphs whose gradients are held against central differences of the graph itself in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_admm.model.differentiation.prepare import static_graph
from onnx_admm.model.differentiation.write_graph import write_graph
from onnx_admm.training.gradients.backward import is_known
from onnx_admm.training.gradients.compose import gradient_graph, gradient_name, seed_name
from onnx_admm.training.graph.runtime import newest_opset

Arrays = dict[str, np.ndarray]
_EXACT, _ROUNDED = 1e-6, 1e-4
"""What gradients and differences may part by, in float64 and in float32."""

Shape = tuple[int, ...]

node = helper.make_node


@dataclass(frozen=True)
class Case:
    """A graph with one output ``y``, and what is differentiated.

    Attributes:
        name: of the test.
        nodes: of the graph.
        shapes: of the inputs, all of which are differentiated.
        constants: initializers; floats are cast to the dtype of the run.
        values: what the inputs hold: ``normal``, ``positive``, or ``spread`` (apart by more than a step).
        opset: of the graph.
        exact: whether the reference evaluator runs the gradients in float64.
        written_out: operators whose rule is left aside, so that their function body is differentiated.
        forward: computes y in float64, where the reference evaluator does not.
    """

    name: str
    nodes: Sequence[onnx.NodeProto]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    values: str = "normal"
    opset: int = 18
    exact: bool = True
    written_out: tuple[str, ...] = ()
    forward: Callable[[Arrays], np.ndarray] | None = None


def single(operator: str, shape: Shape = (3, 7), name: str = "", **others: Any) -> Case:
    """A case of one operator with one input; further keywords of `Case`, and attributes of the node."""
    kept = {key: others.pop(key) for key in list(others) if key in Case.__dataclass_fields__}
    label = name or " ".join([operator, *(f"{key}={value}" for key, value in others.items())])
    return Case(label, [node(operator, ["x"], ["y"], **others)], {"x": shape}, **kept)


def feeds_of(case: Case, rng: np.random.Generator) -> Arrays:
    """Values of the inputs, float64."""

    def values(shape: Shape) -> np.ndarray:
        size = int(np.prod(shape))
        if case.values == "spread":
            return ((rng.permutation(size) - size // 2 + 0.5) * 0.05).reshape(shape)
        return rng.normal(size=shape) * 0.7 + (3.5 if case.values == "positive" else 0.0)

    return {name: values(shape) for name, shape in case.shapes.items()}


def model_of(case: Case, dtype: type) -> onnx.ModelProto:
    """The graph in one floating-point type."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants = {
        name: array.astype(dtype) if array.dtype.kind == "f" and array.dtype != np.float16 else array
        for name, array in case.constants.items()
    }
    graph = helper.make_graph(
        list(case.nodes),
        "case",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in case.shapes.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", case.opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def by_reference(model: bytes, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[Any]:
    """Run in numpy, in the dtype of the graph."""
    return list(ReferenceEvaluator(onnx.load_from_string(model)).run(list(outputs), dict(feeds)))


def by_runtime(model: bytes, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[Any]:
    """Run in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs), {port.name: feeds[port.name] for port in session.get_inputs()}))


Run = Callable[[bytes, Mapping[str, np.ndarray], Sequence[str]], list[Any]]


def gradients(case: Case, feeds: Arrays, seed: np.ndarray, dtype: type, run: Run) -> Arrays:
    """d sum(seed y) / d input, computed in a floating-point type by an evaluator."""
    cast = {name: array.astype(dtype) for name, array in feeds.items()}

    def has_rule(domain: str, operator: str) -> bool:
        return operator not in case.written_out and is_known(domain, operator)

    read = static_graph(model_of(case, dtype), cast, run, has_rule)
    graph = gradient_graph(read, list(cast))
    found = run(write_graph(graph), {**cast, seed_name("y"): seed.astype(dtype)}, graph.outputs)
    by_name = dict(zip(graph.outputs, found, strict=True))
    return {name: by_name[gradient_name(name)] for name in cast if gradient_name(name) in by_name}


def check(case: Case, *, seed: int = 0, rounded: float = _ROUNDED) -> None:
    """Hold the gradients of a case against central differences, input by input.

    In float64 by the reference evaluator where it can, and in float32 by ONNX Runtime.

    Args:
        case: what is differentiated.
        seed: of the values.
        rounded: what rounding to float32 may change of the gradients.
    """
    rng = np.random.default_rng(seed)
    feeds = feeds_of(case, rng)
    model = model_of(case, np.float64).SerializeToString()
    run = case.forward or (lambda given: by_reference(model, given, ["y"])[0])
    weights = rng.normal(size=run(feeds).shape)
    found = []
    if case.opset <= newest_opset():
        found.append((rounded, gradients(case, feeds, weights, np.float32, by_runtime)))
    if case.exact:
        found.append((_EXACT, gradients(case, feeds, weights, np.float64, by_reference)))
    for name, shape in case.shapes.items():
        direction, step = rng.normal(size=shape), 1e-5
        up, down = (run({**feeds, name: feeds[name] + sign * step * direction}) for sign in (1, -1))
        slope = float(((up - down) * weights).sum() / (2 * step))
        for tolerance, given in found:
            assert given[name].shape == shape, name
            said = given[name].astype(np.float64) * direction
            size = np.abs(said).sum() + 0.01 * np.abs(weights).sum()  # a gradient of zero is rounding alone
            assert abs(said.sum() - slope) <= tolerance * size, (name, tolerance)
