"""Weight sites: where weights stand in a graph, and how an encoded one is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference.ops.op_scatter_elements import scatter_elements
from onnx.reference.ops.op_scatternd import _scatter_nd_impl

from onnx_admm.errors import UsageError
from onnx_admm.model import ModelView
from onnx_admm.model.folding import decoder
from onnx_admm.model.folding.decoder import Decoder, Workspace
from onnx_admm.model.folding.evaluate import evaluate_node

Array = np.ndarray[Any, Any]


def model(text: str, opset: int = 17, ir_version: int = 10, **constants: Array) -> ModelView:
    """A model whose initializers are ``constants``."""
    proto = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return ModelView.from_bytes(proto.SerializeToString())


def f32(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def summary(view: ModelView) -> dict[str, tuple[Any, ...]]:
    return {s.name: (s.op_type, s.out_axis, s.in_axis, s.group, s.users, s.editable) for s in view.sites()}


# -- where they stand ------------------------------------------------------------------------


def test_axes_of_every_operator() -> None:
    view = model(
        """g (float[1,4,8,8] x, float[5,1,6] s) => (float y, float z, float r)
        {
            c = Conv <group = 2> (x, conv)
            t = ConvTranspose <group = 2> (c, deconv)
            f = Flatten (t)
            a = Gemm (f, plain)
            b = Gemm <transB = 1> (a, turned)
            y = MatMul (b, right)
            z = MatMul (left, y)
            r, h = GRU <hidden_size = 7> (s, gru_w, gru_r)
        }""",
        conv=f32(4, 2, 3, 3),
        deconv=f32(4, 3, 1, 1),
        plain=f32(216, 5),
        turned=f32(6, 5),
        right=f32(6, 2),
        left=f32(3, 1),
        gru_w=f32(1, 21, 6),
        gru_r=f32(1, 21, 7),
    )
    assert {name: axes[:4] for name, axes in summary(view).items()} == {
        "conv": ("Conv", 0, 1, 2),
        "deconv": ("ConvTranspose", 1, 0, 2),
        "plain": ("Gemm", 1, 0, 1),
        "turned": ("Gemm", 0, 1, 1),
        "right": ("MatMul", 1, 0, 1),
        "left": ("MatMul", 0, 1, 1),
        "gru_w": ("GRU", 1, 2, 1),
        "gru_r": ("GRU", 1, 2, 1),
    }


def test_tied_weights_appear_once_with_every_user() -> None:
    view = model(
        """g (float[N,4] x) => (float[N,4] y)
        { a = MatMul (x, w)  t = Transpose <perm = [1, 0]> (w)  b = MatMul (a, t)  y = MatMul (b, w) }""",
        w=f32(4, 4),
    )
    (site,) = view.sites()
    assert len(site.users) == 3
    view.replace("w", np.zeros((4, 4), np.float32))
    assert not view.read("w").any()


def test_weights_behind_a_reshape_and_in_a_constant_node() -> None:
    view = model(
        """g (float[N,4] x) => (float[N,2] y)
        <float[2,2,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
        {
            shape = Constant <value_ints = [4, 3]> ()
            m = Reshape (w, shape)
            a = MatMul (x, m)
            k = Constant <value = float[3,2] {1,2,3,4,5,6}> ()
            y = MatMul (a, k)
        }"""
    )
    assert summary(view)["w"][1:3] == (None, None)
    view.replace("w", f32(2, 2, 3))
    view.replace("k", f32(3, 2))
    again = ModelView.from_bytes(view.to_bytes())
    np.testing.assert_array_equal(again.read("w"), f32(2, 2, 3))
    np.testing.assert_array_equal(again.read("k"), f32(3, 2))
    assert [port.name for port in again.signature().inputs] == ["x"]


def test_weights_in_subgraphs_and_functions_are_named_by_their_place() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    g (float[N,2] x, bool c) => (float[N,2] y) <float[2,2] w = {1,2,3,4}>
    {
        a = own.project (x)
        [choice] y = If (c) <
            then_branch = yes () => (float[N,2] p) <float[2,2] v = {5,6,7,8}> { p = MatMul (a, v) },
            else_branch = no () => (float[N,2] q) { q = MatMul (a, w) }
        >
    }
    <domain: "own", opset_import: ["" : 17]>
    project (i) => (o) { k = Constant <value = float[2,2] {9,8,7,6}> () o = MatMul (i, k) }
    """
    view = ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString())
    names = {site.name: view.read(site)[0, 0] for site in view.sites()}
    assert names == {"choice.then_branch/v": 5, "choice.else_branch/w": 1, "project/k": 9}
    view.replace("project/k", np.zeros((2, 2), np.float32))
    view.replace("choice.then_branch/v", np.zeros((2, 2), np.float32))
    again = ModelView.from_bytes(view.to_bytes())
    assert not again.read("project/k").any()
    assert not again.read("choice.then_branch/v").any()


def test_operators_of_other_domains_and_small_or_integer_operands_are_no_sites() -> None:
    view = model(
        """g (float[N,4] x) => (float[N,4] y)
        { a = MatMul (x, v)  i = Cast <to = 1> (n)  b = Unsqueeze (a, axis)  y = Add (b, b) }""",
        v=f32(4),
        n=np.zeros((4, 4), np.int64),
        axis=np.array([1]),
    )
    assert view.sites() == ()


def test_an_embedding_is_a_site_and_a_codebook_is_not() -> None:
    view = model(
        """g (int64[N] i) => (float[N,2] y)
        { e = Gather (table, i)  w = Gather (book, codes)  y = MatMul (e, w) }""",
        table=f32(7, 2),
        book=f32(3, 2),
        codes=np.array([2, 0]),
    )
    assert {name: axes[-1] for name, axes in summary(view).items()} == {"table": True, "w": False}


# -- encoded weights -------------------------------------------------------------------------

DECODERS: Mapping[str, tuple[str, int, Mapping[str, Array], Array, int]] = {
    "int8 levels": (
        "w = DequantizeLinear <axis = 1> (q, s, z)",
        17,
        {
            "q": np.array([[-2, 3], [0, 127]], np.int8),
            "s": np.array([0.5, 2], np.float32),
            "z": np.zeros(2, np.int8),
        },
        np.array([[-1, 6], [0, 254]], np.float32),
        8,
    ),
    "codebook by a split byte": (
        """two = BitShift <direction = "RIGHT"> (packed, four)
        low = BitwiseAnd (packed, mask) both = Concat <axis = 0> (low, two)
        i = Cast <to = 7> (both) flat = Gather (book, i) w = Reshape (flat, shape)""",
        18,
        {
            "packed": np.array([0x21, 0x03], np.uint8),
            "four": np.array([4], np.uint8),
            "mask": np.array([15], np.uint8),
            "book": np.array([0, 1.5, -2.5, 4], np.float32),
            "shape": np.array([2, 2]),
        },
        np.array([[1.5, 4], [-2.5, 0]], np.float32),
        2,
    ),
    "gaps": (
        """at = CumSum (gaps, zero) none = ConstantOfShape (four)
        flat = ScatterElements (none, at, values) w = Reshape (flat, shape)""",
        17,
        {
            "gaps": np.array([1, 2], np.int64),
            "zero": np.array(0, np.int64),
            "four": np.array([4]),
            "values": np.array([7, -8], np.float32),
            "shape": np.array([2, 2]),
        },
        np.array([[0, 7], [0, -8]], np.float32),
        2,
    ),
}


def decoded_model(name: str) -> ModelView:
    decoder, opset, constants, _, _ = DECODERS[name]
    return model(f"g (float[N,2] x) => (float[N,2] y) {{ {decoder} y = MatMul (x, w) }}", opset, **constants)


@pytest.mark.parametrize("name", DECODERS)
def test_an_encoded_weight_is_listed_and_read_dense(name: str) -> None:
    view = decoded_model(name)
    _, _, constants, expected, _ = DECODERS[name]
    (site,) = view.sites()
    assert (site.name, site.editable, site.shape, site.dtype) == ("w", False, (2, 2), "float32")
    assert (site.out_axis, site.in_axis) == (1, 0)
    np.testing.assert_array_equal(view.read(site), expected)
    decoded = view.decoded("w")
    assert (decoded.stored_bytes, decoded.shared_bytes) == (sum(a.nbytes for a in constants.values()), 0)
    with pytest.raises(UsageError, match="already encoded"):
        view.replace(site, expected)


def test_a_plain_weight_is_its_own_storage(tiny_mlp: ModelView) -> None:
    decoded = tiny_mlp.decoded("w1")
    assert (decoded.stored_bytes, decoded.shared_bytes, decoded.stored_bits) == (512, 0, 32)
    np.testing.assert_array_equal(decoded.array, tiny_mlp.read("w1"))


def test_one_decoder_that_feeds_several_layers_is_shared_and_run_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = model(
        """g (float[N,2] x) => (float[N,2] y)
        {
            i = Cast <to = 7> (codes)
            all = Gather (book, i)
            f1, f2 = Split (all, parts)
            w1 = Reshape (f1, shape)
            w2 = Reshape (f2, shape)
            w3 = Mul (w2, scale)
            a = MatMul (x, w1)
            y = MatMul (a, w3)
        }""",
        codes=np.array([0, 1, 2, 1, 2, 2, 0, 1], np.uint8),
        book=np.array([0, 1, -1], np.float32),
        parts=np.array([4, 4]),
        shape=np.array([2, 2]),
        scale=np.array([10], np.float32),
    )
    runs: list[str] = []

    def counted(node: ir.Node, *rest: Any) -> list[Array]:
        runs.append(node.op_type)
        return evaluate_node(node, *rest)

    monkeypatch.setattr(decoder, "evaluate_node", counted)
    np.testing.assert_array_equal(view.read("w1"), [[0, 1], [-1, 1]])
    np.testing.assert_array_equal(view.read("w3"), [[-10, -10], [0, 10]])
    assert sorted(runs) == ["Cast", "Gather", "Mul", "Reshape", "Reshape", "Split"]
    first, second = view.decoded("w1"), view.decoded("w3")
    assert first.stored_bytes == 0
    assert second.stored_bytes == 4  # its scale; codes, book, parts and shape serve both
    assert first.shared_bytes == second.shared_bytes == 8 + 12 + 16 + 16


def test_what_a_decoder_reads_may_change() -> None:
    view = decoded_model("int8 levels")
    assert view.read("w")[0, 0] == -1
    (node,) = view.nodes("DequantizeLinear")
    scale = node.input(1)
    assert scale is not None
    view.write(scale, np.array([2, 2], np.float32))
    assert view.read("w")[0, 0] == -4


def test_weights_computed_from_an_input_are_no_sites() -> None:
    view = model(
        "g (float[N,2] x, float[2] s) => (float[N,2] y) { w = Mul (k, s) y = MatMul (x, w) }", k=f32(2, 2)
    )
    assert view.sites() == ()


@pytest.mark.parametrize(
    "decoder",
    [
        "w = ConstantOfShape (huge)",
        "w = Expand (one, huge)",
        "w = Tile (one, huge)",
        "r = Range (zero, many, step) w = Unsqueeze (r, axis)",
        "a = Tile (one, wide) b = Transpose (a) w = Add (a, b)",
    ],
)
def test_a_decoder_that_asks_for_too_much_is_not_run(decoder: str) -> None:
    constants = {
        "huge": np.array([2**20, 2**20]),
        "wide": np.array([1, 2**16]),
        "one": np.ones((1, 1), np.float32),
        "zero": np.array(0, np.float32),
        "many": np.array(1e12, np.float32),
        "step": np.array(1, np.float32),
        "axis": np.array([1]),
    }
    view = model(f"g (float[N,A] x) => (float[N,B] y) {{ {decoder} y = MatMul (x, w) }}", **constants)
    assert view.sites() == ()


def test_decoding_remembers_until_something_changes() -> None:
    view = decoded_model("gaps")
    value = view.found_sites()["w"].value
    decoder = Decoder()
    first = decoder.decode(value, 17, Workspace())
    assert decoder.decode(value, 17, Workspace()) is first


@given(
    shape=st.sampled_from([(4, 6), (24,), (2, 3, 4)]),
    axis=st.integers(-1, 0),
    seed=st.integers(0, 1000),
)
def test_fast_scatters_agree_with_the_reference(shape: tuple[int, ...], axis: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=shape).astype(np.float32)
    rows = shape[axis] // 2
    order = np.argsort(rng.random(shape), axis=axis)
    indices = np.take(order, range(rows), axis=axis).astype(np.int64)
    updates = rng.normal(size=indices.shape).astype(np.float32)
    values = [ir.Value(name=n) for n in "diu"]
    by_element = ir.node("ScatterElements", values, {"axis": axis}, outputs=[ir.Value(name="o")])
    (got,) = evaluate_node(by_element, [data, indices, updates], 18, 10**6)
    np.testing.assert_array_equal(got, scatter_elements(data, indices, updates, axis=axis))

    places = np.stack(np.unravel_index(rng.choice(data.size, 5, replace=False), shape), -1)
    updates = rng.normal(size=5).astype(np.float32)
    by_place = ir.node("ScatterND", values, outputs=[ir.Value(name="o")])
    (got,) = evaluate_node(by_place, [data, places, updates], 18, 10**6)
    np.testing.assert_array_equal(got, _scatter_nd_impl(data, places, updates))


# -- keys ------------------------------------------------------------------------------------

SAME_NAMES = """
<ir_version: 10, opset_import: ["" : 17, "a" : 1, "b" : 1]>
g (float[N,2] x, bool k) => (float[N,2] y)
<float[2,2] slashed = {1, 2, 3, 4}>
{
    h = MatMul (x, slashed)
    p = a.block (h)
    q = b.block (p)
    [choice] r = If (k) <
        then_branch = yes () => (float[N,2] u) <float[2,2] w = {5, 6, 7, 8}> { u = MatMul (q, w) },
        else_branch = no () => (float[N,2] v) { v = Identity (q) }
    >
    [choice] y = If (k) <
        then_branch = yes2 () => (float[N,2] u2) <float[2,2] w = {9, 10, 11, 12}> { u2 = MatMul (r, w) },
        else_branch = no2 () => (float[N,2] v2) { v2 = Identity (r) }
    >
}
<domain: "a", opset_import: ["" : 17]> block (x) => (y)
{ w = Constant <value = float[2,2] {13, 14, 15, 16}> () y = MatMul (x, w) }
<domain: "b", opset_import: ["" : 17]> block (x) => (y)
{ w = Constant <value = float[2,2] {17, 18, 19, 20}> () y = MatMul (x, w) }
"""


def test_keys_are_unique_whatever_is_called_alike() -> None:
    proto = onnx.parser.parse_model(SAME_NAMES)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = "choice.then_branch/w"
    view = ModelView.from_bytes(proto.SerializeToString())
    keys = [
        "choice.then_branch/w",
        "choice.then_branch/w#2",
        "choice.then_branch#2/w",
        "a::block/w",
        "b::block/w",
    ]
    assert {site.name: view.read(site)[0, 0] for site in view.sites()} == dict(
        zip(keys, (1, 5, 9, 13, 17), strict=True)
    )
    assert len(view.sites()) == 5
    assert view.function_scopes() == {"a::block", "b::block"}
    for number, key in enumerate(keys):
        view.replace(key, np.full((2, 2), number, np.float32))
    again = ModelView.from_bytes(view.to_bytes())
    assert [again.read(key)[0, 0] for key in keys] == [0, 1, 2, 3, 4]
