"""Shapes and multiply-accumulates of layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_admm.errors import UsageError
from onnx_admm.model import LayerProfile, ModelView, layer_profiles
from onnx_admm.model.analysis.shapes import leave_out_implied_shapes, wrong_shapes


def model(body: str, opset: int = 17, **constants: np.ndarray) -> ModelView:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{body}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return ModelView.from_bytes(proto.SerializeToString())


def ones(*shape: int) -> np.ndarray:
    """Near one, all different."""
    return np.linspace(1.0, 2.0, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def row(view: ModelView, **bindings: int) -> LayerProfile:
    (profile,) = layer_profiles(view, bindings)
    return profile


# Expected figures counted by hand: output elements times the inputs of one of them.
CASES = {
    "Conv 1-D": ("c = Conv <strides = [2]> (x, w)", (1, 4, 9), (6, 4, 3), (1, 6, 4), 6 * 4 * (4 * 3)),
    "Conv 2-D grouped": ("c = Conv <group = 2> (x, w)", (1, 4, 5, 5), (6, 2, 3, 3), (1, 6, 3, 3), 54 * 18),
    "Conv 3-D": ("c = Conv (x, w)", (1, 2, 3, 3, 3), (5, 2, 2, 2, 2), (1, 5, 2, 2, 2), 40 * 16),
    "ConvTranspose grouped": (
        "c = ConvTranspose <group = 2, strides = [2, 2]> (x, w)",
        (1, 4, 3, 3),
        (4, 3, 2, 2),
        (1, 6, 6, 6),
        9 * 4 * 3 * 4,
    ),
    "Gemm": ("c = Gemm (x, w)", (7, 5), (5, 3), (7, 3), 7 * 3 * 5),
    "Gemm transB": ("c = Gemm <transB = 1> (x, w)", (7, 5), (3, 5), (7, 3), 7 * 3 * 5),
    "Gemm weight first": ("c = Gemm <transA = 1> (w, x)", (5, 2), (5, 3), (3, 2), 3 * 2 * 5),
    "MatMul": ("c = MatMul (x, w)", (2, 7, 5), (5, 3), (2, 7, 3), 2 * 7 * 3 * 5),
    "MatMul weight first": ("c = MatMul (w, x)", (2, 5, 7), (3, 5), (2, 3, 7), 2 * 3 * 7 * 5),
}


@pytest.mark.parametrize("case", CASES)
def test_macs_of_one_layer(case: str) -> None:
    node, data, weight, output, macs = CASES[case]
    view = model(
        f"g (float[{','.join(map(str, data))}] x) => (float y) {{ {node} y = Relu (c) }}", w=ones(*weight)
    )
    profile = row(view)
    assert (profile.output_shape, profile.macs) == (output, macs)
    assert (profile.parameters, profile.nonzeros, profile.bits) == (np.prod(weight), np.prod(weight), 32)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_macs_of_recurrent_layers_count_every_step(op: str, gates: int) -> None:
    view = model(
        f"""g (float[11,2,6] x) => (float y)
        {{ y, h = {op} <hidden_size = 5, direction = "bidirectional"> (x, w, r) }}""",
        w=ones(2, gates * 5, 6),
        r=ones(2, gates * 5, 5),
    )
    by_weight = {profile.weight: profile.macs for profile in layer_profiles(view)}
    assert by_weight == {"w": 22 * 2 * gates * 5 * 6, "r": 22 * 2 * gates * 5 * 5}


def test_a_symbolic_batch_counts_as_one_and_can_be_bound() -> None:
    view = model(
        "g (float[N,5] x, float[N,5] z) => (float[N,3] y) { s = Add (x, z) y = MatMul (s, w) }", w=ones(5, 3)
    )
    assert row(view).macs == 15
    assert row(view, N=4).macs == 60
    with pytest.raises(
        UsageError, match=r"batch: no input has that open axis; expected one of N, x\[0\], z\[0\]"
    ):
        layer_profiles(view, {"batch": 4})
    with pytest.raises(UsageError, match="positive extent; got 0"):
        layer_profiles(view, {"N": 0})


def test_other_open_extents_are_unknown_never_zero() -> None:
    view = model("g (float[N,T,5] x) => (float[N,T,3] y) { y = MatMul (x, w) }", w=ones(5, 3))
    assert (row(view).macs, row(view).output_shape) == (None, None)
    assert row(view, T=7).macs == 7 * 15
    assert layer_profiles(view, {"x[1]": 7})[0].macs == 7 * 15


def test_reshapes_by_computed_shapes_are_followed() -> None:
    view = model(
        """g (float[N,4,6] x) => (float y)
        {
            s = Shape (x)
            n = Gather (s, first)
            rest = Constant <value_ints = [-1]> ()
            at = Unsqueeze (n, axis)
            to = Concat <axis = 0> (at, rest)
            f = Reshape (x, to)
            y = MatMul (f, w)
        }""",
        first=np.array(0),
        axis=np.array([0]),
        w=ones(24, 3),
    )
    assert (row(view, N=2).output_shape, row(view, N=2).macs) == ((2, 3), 2 * 3 * 24)


def test_wrong_stored_shapes_are_not_believed() -> None:
    view = model(
        "g (float[1,5] x) => (float y) <float[1,99] a> { a = MatMul (x, w) y = Relu (a) }", w=ones(5, 3)
    )
    assert (row(view).output_shape, row(view).macs) == ((1, 3), 15)


def test_stored_shapes_that_contradict_the_graph_are_found() -> None:
    text = """g (float[N,4,h] x) => (float[N,6,k] y) {
        a = Relu (x)
        b = Conv (a, w)
        y = Relu (b)
    }"""
    view = model(text, w=ones(6, 4, 3))
    assert wrong_shapes(view) == {}
    proto = onnx.load_from_string(view.to_bytes())
    stored = {"a": ["N", 4, "h"], "b": ["N", 6, 1]}
    for name, shape in stored.items():
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, shape))
    assert wrong_shapes(ModelView.from_bytes(proto.SerializeToString())) == {"b": ((None, 6, 1), (1, 6, 638))}


def test_inference_leaves_the_model_alone(tiny_conv: ModelView) -> None:
    before = tiny_conv.to_bytes()
    assert [profile.macs for profile in layer_profiles(tiny_conv)] == [64 * 4 * 9, 16 * 6 * 36, 72]
    assert tiny_conv.to_bytes() == before


def test_reading_a_constant_node_does_not_name_its_tensor() -> None:
    constant = "Constant <value = float[2,2] {1,2,3,4}> ()"
    view = model(f"g (float[1,2] x) => (float[1,2] y) {{ w = {constant} y = MatMul (x, w) }}")
    before = view.to_bytes()
    assert [profile.macs for profile in layer_profiles(view)] == [4]
    assert view.to_bytes() == before


def test_stored_shapes_that_follow_are_left_out() -> None:
    """Only what inference finds again just so: no custom operator's output, nothing more exact or wrong."""
    text = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    g (float[N,4] x) => (float[N,3] y)
    <float[N,3] follows, float[7,3] wrong, float[N,3] custom, float[N,3] open>
    {
        follows = MatMul (x, w)
        wrong = Relu (follows)
        custom = own.Thing (wrong)
        open = Relu (custom)
        y = Relu (open)
    }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(ones(4, 3), "w"))
    view = ModelView.from_bytes(proto.SerializeToString())
    signature = view.signature()
    leave_out_implied_shapes(view)
    after = onnx.load_from_string(view.to_bytes())
    assert {info.name for info in after.graph.value_info} == {"wrong", "custom"}
    assert view.signature() == signature


def test_a_tied_weight_counts_once_and_multiplies_each_time() -> None:
    view = model(
        "g (float[1,4] x) => (float[1,4] y) { a = MatMul (x, w) y = MatMul (a, w) }", w=np.eye(4, dtype="f")
    )
    rows = layer_profiles(view)
    assert [(r.parameters, r.nonzeros, r.macs) for r in rows] == [(16, 4, 16), (0, 0, 16)]


def test_weights_in_branches_have_figures() -> None:
    view = model(
        """g (float[N,2] x, bool c) => (float[N,2] y)
        {
            y = If (c) <
                then_branch = yes () => (float[N,2] p) { p = MatMul (x, w) },
                else_branch = no () => (float[N,2] q)
                    { v = Constant <value = float[2,2] {1,2,3,4}> () q = MatMul (x, v) }
            >
        }""",
        w=ones(2, 2),
    )
    assert [r.macs for r in layer_profiles(view, {"N": 3})] == [12, 12]


def test_bits_of_encoded_weights_are_those_stored() -> None:
    dequantised = "w = DequantizeLinear (q, s, z)"
    looked_up = "i = Cast <to = 7> (codes) w = Gather (book, i)"
    ends = "=> (float y) { %s y = MatMul (x, w) }"
    int8 = model(
        f"g (float[1,20] x) {ends % dequantised}",
        q=np.arange(-100, 100, dtype=np.int8).reshape(20, 10),
        s=np.array(0.5, np.float32),
        z=np.array(0, np.int8),
    )
    codes = model(
        f"g (float[1,2] x) {ends % looked_up}",
        codes=np.array([[0, 1, 2], [3, 4, 0]], np.uint8),
        book=np.array([0, 1, 2, 3, 4], np.float32),
    )
    assert (row(int8).bits, row(codes).bits) == (8, 3)
    assert row(codes).nonzeros == 4
