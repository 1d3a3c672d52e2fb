"""The few general edits of a graph: bypass, replace, add a constant, strip what is unused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_admm.errors import UsageError
from onnx_admm.model import ModelView
from onnx_admm.model.edit import raise_ir_version
from onnx_admm.runtime.sessions import open_session


def parsed(text: str) -> ModelView:
    return ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString())


def run(view: ModelView, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    return open_session(view.to_bytes(), threads=1).run(feeds)


X = np.array([[-1.0, 2.0]], np.float32)
HEAD = '<ir_version: 10, opset_import: ["" : 17]>'


def test_bypassing_the_node_of_an_output_keeps_the_outputs_name() -> None:
    view = parsed(f"{HEAD} g (float[N,2] x) => (float[N,2] y) {{ a = Neg (x) y = Relu (a) }}")
    before = view.signature()
    (relu,) = view.nodes("Relu")
    source = relu.input(0)
    assert source is not None
    view.bypass(relu, source)
    assert view.signature() == before
    np.testing.assert_array_equal(run(view, x=X)["y"], -X)


def test_bypassing_between_an_input_and_an_output_leaves_an_identity() -> None:
    view = parsed(f"{HEAD} g (float[N,2] x) => (float[N,2] y) {{ y = Relu (x) }}")
    (relu,) = view.nodes("Relu")
    view.bypass(relu, relu.inputs[0])  # type: ignore[arg-type]
    assert [node.op_type for node in view.nodes()] == ["Identity"]
    np.testing.assert_array_equal(run(view, x=X)["y"], X)


def test_bypassing_reaches_readers_in_subgraphs() -> None:
    view = parsed(
        f"""{HEAD} g (float[N,2] x, bool c) => (float[N,2] y)
        {{
            a = Neg (x)
            b = Relu (a)
            y = If (c) <then_branch = yes () => (float[N,2] p) {{ p = Identity (b) }},
                        else_branch = no () => (float[N,2] q) {{ q = Abs (b) }}>
        }}"""
    )
    (relu,) = view.nodes("Relu")
    view.bypass(relu, relu.inputs[0])  # type: ignore[arg-type]
    np.testing.assert_array_equal(run(view, x=X, c=np.array(True))["y"], -X)


def test_replacing_a_node_and_adding_its_constant() -> None:
    view = parsed(f"{HEAD} g (float[N,2] x) => (float[N,2] y) <float[2] k = {{7, 7}}> {{ y = Relu (x) }}")
    (relu,) = view.nodes("Relu")
    added = view.replace_node(relu, "Add", [relu.inputs[0]])  # type: ignore[list-item]
    assert view.add_constant(added, 1, np.array([10, 20], np.float32), "k").name == "k_1"
    np.testing.assert_array_equal(run(view, x=X)["y"], X + np.array([10, 20]))


def test_a_constant_inside_a_function_becomes_a_node() -> None:
    view = parsed(
        """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[N,2] x) => (float[N,2] y) { y = own.f (x) }
        <domain: "own", opset_import: ["" : 17]> f (i) => (o) { o = Clip (i) }"""
    )
    (clip,) = view.nodes("Clip")
    view.add_constant(clip, 1, np.array(0, np.float32), "low")
    np.testing.assert_array_equal(run(view, x=X)["y"], np.maximum(X, 0))


def test_before_ir_version_4_a_constant_is_an_input_too() -> None:
    view = parsed(
        """<ir_version: 3, opset_import: ["" : 8]>
        g (float[N,2] x, float[2] k) => (float[N,2] y) <float[2] k = {7, 7}> { y = Add (x, k) }"""
    )
    before = view.signature()
    view.add_constant(view.nodes()[0], 1, np.array([10, 20], np.float32), "k")
    assert view.signature() == before
    assert [value.name for value in onnx.load_from_string(view.to_bytes()).graph.input] == ["x", "k", "k_1"]
    np.testing.assert_array_equal(run(view, x=X)["y"], X + np.array([10, 20]))


def test_before_ir_version_4_a_constant_inside_a_branch_is_a_node() -> None:
    view = parsed(
        """<ir_version: 3, opset_import: ["" : 8]>
        g (float[N,2] x, bool c) => (float[N,2] y)
        {
            y = If (c) <then_branch = yes () => (float[N,2] p) { p = Add (x, x) },
                        else_branch = no () => (float[N,2] q) { q = Abs (x) }>
        }"""
    )
    (add,) = view.nodes("Add")
    view.add_constant(add, 1, np.array([10, 20], np.float32), "k")
    np.testing.assert_array_equal(run(view, x=X, c=np.array(True))["y"], X + np.array([10, 20]))


def test_inputs_that_had_to_be_inputs_are_constants_from_ir_version_4_on() -> None:
    view = parsed(
        """<ir_version: 3, opset_import: ["" : 8]>
        g (float[N,2] x, float[2] k) => (float[N,2] y) <float[2] k = {7, 7}> { y = Add (x, k) }"""
    )
    before = view.signature()
    raise_ir_version(view.graph_ir, 3)
    assert [value.name for value in onnx.load_from_string(view.to_bytes()).graph.input] == ["x", "k"]
    raise_ir_version(view.graph_ir, 4)
    assert view.ir_version == 4
    assert [value.name for value in onnx.load_from_string(view.to_bytes()).graph.input] == ["x"]
    assert view.signature() == before
    raise_ir_version(view.graph_ir, 3)
    assert view.ir_version == 4


def test_inputs_that_may_be_overridden_stay() -> None:
    view = parsed(
        f"{HEAD} g (float[N,2] x, float[2] k) => (float[N,2] y) <float[2] k = {{7, 7}}> {{ y = Add (x, k) }}"
    )
    raise_ir_version(view.graph_ir, 11)
    assert [value.name for value in onnx.load_from_string(view.to_bytes()).graph.input] == ["x", "k"]


def test_only_constants_can_be_written() -> None:
    view = parsed(f"{HEAD} g (float[N,2] x) => (float[N,2] y) {{ y = Relu (x) }}")
    with pytest.raises(UsageError, match="x: not a constant"):
        view.write(view.nodes()[0].inputs[0], X)  # type: ignore[arg-type]


def test_stripping_removes_what_nothing_reads_and_keeps_the_signature() -> None:
    view = parsed(
        f"""{HEAD} g (float[N,2] x, float[2] spare, float[2] used) => (float[N,2] y, float[2] w)
        <float[2] spare = {{1, 2}}, float[2] used = {{1, 2}}, float[2] w = {{3, 4}}, float[2] lost = {{5, 6}}>
        {{ dead = Add (x, lost)  y = Add (x, used) }}"""
    )
    before = view.signature()
    assert view.strip_unused()
    assert not view.strip_unused()
    assert view.signature() == before
    proto = onnx.load_from_string(view.to_bytes())
    assert {tensor.name for tensor in proto.graph.initializer} == {"spare", "used", "w"}
    assert [value.name for value in proto.graph.input] == ["x", "spare", "used"]
    assert len(proto.graph.node) == 1


def test_handles_tell_what_a_node_is() -> None:
    view = parsed(
        f"""{HEAD} g (float[N,2] x) => (float[N,2] y) <float[1] low = {{0}}>
        {{ [clip] a = Clip (x, , )  [leak] y = LeakyRelu <alpha = 0.5> (a) }}"""
    )
    clip, leak = view.nodes()
    assert (clip.name, clip.op_type, clip.input(1), clip.input(9)) == ("clip", "Clip", None, None)
    assert (leak.attribute("alpha"), leak.attribute("none", 3)) == (0.5, 3)
    value = clip.outputs[0]
    assert (value.name, value.is_output, value.constant(), value.uses()) == ("a", False, None, (leak,))
    assert value.producer() == clip
    assert leak.outputs[0].is_output


def test_what_only_a_removed_branch_read_goes_with_it() -> None:
    view = parsed(f"""{HEAD} g (float[N,2] x) => (float[N,2] y)
    <float[2,2] w = {{1, 2, 3, 4}}, bool yes = {{1}}>
    {{
        inner = Neg (x)
        unread = If (yes) <
            then_branch = then () => (float[N,2] t) {{ t = MatMul (inner, w) }},
            else_branch = other () => (float[N,2] o) {{ o = Mul (inner, inner) }}
        >
        y = Relu (x)
    }}""")
    assert view.strip_unused()
    assert [node.op_type for node in view.nodes()] == ["Relu"]
    assert not onnx.ModelProto.FromString(view.to_bytes()).graph.initializer
