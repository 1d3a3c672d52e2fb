"""Shape inference node by node: what it finds, and how little is serialised for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_admm.model import ModelView, infer_shapes


def view_of(text: str, **constants: np.ndarray) -> ModelView:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return ModelView.from_bytes(proto.SerializeToString())


def shapes_of(view: ModelView) -> dict[str, tuple[int | None, ...]]:
    return {value.name: shape for value, shape in infer_shapes(view).items()}


def chain_of_reshapes(length: int) -> ModelView:
    """Each Reshape takes its extents from the shape of the one before, as exporters write it."""
    steps = [
        f"""s{i} = Shape (x{i}) a{i} = Gather <axis = 0> (s{i}, second) b{i} = Unsqueeze (a{i}, zero)
        t{i} = Concat <axis = 0> (one, b{i}, minus) r{i} = Reshape (x{i}, t{i}) x{i + 1} = Relu (r{i})"""
        for i in range(length)
    ]
    return view_of(
        f"""<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,3,8] x0) => (float y) {{ {" ".join(steps)} y = Relu (x{length}) }}""",
        second=np.array(1),
        zero=np.array([0]),
        one=np.array([1]),
        minus=np.array([-1]),
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often ONNX infers whole models and nodes, and how often a whole model is serialised."""
    counts = {"models": 0, "nodes": 0, "serialised": 0}

    def counted(module: Any, name: str, what: str) -> None:
        original = getattr(module, name)

        def count(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, count)

    counted(onnx.shape_inference, "infer_shapes", "models")
    counted(onnx.shape_inference, "infer_node_outputs", "nodes")
    counted(ir.serde, "serialize_model", "serialised")
    counted(ir.serde, "serialize_graph_into", "serialised")
    return counts


@pytest.mark.parametrize("length", [2, 20])
def test_each_node_of_a_chain_of_computed_shapes_is_inferred_once(length: int, calls: dict[str, int]) -> None:
    view = chain_of_reshapes(length)
    assert calls["serialised"] == 0
    calls["models"] = 0  # the checker's, at load
    assert shapes_of(view)["y"] == (1, 3, 8)
    assert calls["models"] == calls["serialised"] == 0
    assert calls["nodes"] <= 6 * length + 1


def test_branches_see_what_is_outside_and_give_their_shapes_on(calls: dict[str, int]) -> None:
    view = view_of(
        """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,3,8] x, bool c) => (float y)
        {
            r = Relu (x)
            z = If (c) <
                then_branch = h () => (float[A,B] a)
                    { s = Shape <end = 2> (r) p = ReduceProd <keepdims = 1> (s)
                      m = Constant <value_ints = [-1]> () t = Concat <axis = 0> (p, m)
                      q = Reshape (r, t) u = Shape (q) a = Reshape (q, u) },
                else_branch = k () => (float[A,B] b) { b = Flatten <axis = 2> (r) }
            >
            y = MatMul (z, w)
        }""",
        w=np.ones((8, 5), np.float32),
    )
    calls["models"] = 0
    found = shapes_of(view)
    assert (found["q"], found["a"], found["z"], found["y"]) == ((3, 8), (3, 8), (3, 8), (3, 5))
    assert calls["models"] <= 3  # of the If alone: once to begin, and again after what was computed inside


def test_loops_and_calls_of_functions_are_inferred_with_what_is_inside() -> None:
    view = view_of(
        """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[N,6] x, int64 n, bool c) => (float y)
        {
            f = own.twice (x)
            last, all = Loop (n, c, f) <body = b (int64 i, bool go, float[N,6] state)
                => (bool on, float[N,6] next, float[N,6] row)
                { on = Identity (go) next = Add (state, f) row = Relu (f) }>
            y = Flatten (f)
        }
        <domain: "own", opset_import: ["" : 17]>
        twice (a) => (b) { b = Concat <axis = 1> (a, a) }"""
    )
    found = shapes_of(view)
    assert (found["f"], found["y"], found["row"]) == ((1, 12), (1, 12), (1, 12))
    assert found["all"] == (None, 1, 12)


def test_an_operator_without_inference_of_its_own_is_inferred_by_its_body() -> None:
    view = view_of(
        """<ir_version: 10, opset_import: ["" : 12]>
        g (float[N,3,4] x) => (float y) { m = GreaterOrEqual (x, x) f = Cast <to = 1> (m) y = Flatten (f) }"""
    )
    assert (shapes_of(view)["m"], shapes_of(view)["y"]) == ((1, 3, 4), (1, 12))


def test_one_node_that_cannot_be_inferred_stops_no_other() -> None:
    view = view_of(
        """<ir_version: 10, opset_import: ["" : 17, "other" : 1]>
        g (float[N,4] x) => (float y, float z)
        { u = other.Thing (x) y = Relu (u) z = Concat <axis = 1> (x, x) }"""
    )
    found = shapes_of(view)
    assert "u" not in found
    assert found["z"] == (1, 8)


def test_a_window_larger_than_its_input_has_no_extent() -> None:
    """Onnx's inference of Slice ends the process on a negative one."""
    view = view_of(
        """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,8,2] x, float[8,8,7] k) => (float[N,8,p] y)
        {
            zero = Constant <value_ints = [0]> () end = Constant <value_ints = [-1]> ()
            two = Constant <value_ints = [2]> ()
            c = Conv (x, k) y = Slice (c, zero, end, two)
        }"""
    )
    found = shapes_of(view)
    assert found["c"] == (1, 8, None)
    assert found["y"] == (1, 8, None)
