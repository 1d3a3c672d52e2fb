"""Integer weights as floats on their grid, and back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import CONV_NET
from integer_nets import integer_net
from onnx import numpy_helper

from onnx_admm.contracts import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.conditions import Conditions, FixedByRecipe
from onnx_admm.model.integers.float_weights import with_float_weights


def constants(model: ModelView) -> dict[str, np.ndarray]:
    """Initializers by the input of the DequantizeLinear that reads them, or by name."""
    proto = onnx.load_from_string(model.to_bytes())
    stored = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    return {
        f"{node.output[0]} {place}": stored[name]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear"
        for place, name in enumerate(node.input)
        if name in stored
    }


def test_untrained_weights_are_the_same_codes_again() -> None:
    model = integer_net()
    found = with_float_weights(model)
    assert found is not None
    assert set(found.sites) == {"w1", "w2"}
    assert set(found.steps) == {"b1"}
    assert all(site.editable and site.dtype == "float32" for site in found.sites.values())
    back = found.to_integers()
    before, after = constants(model), constants(back)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype, name
        assert np.array_equal(array, after[name]), name
    assert [node.op_type for node in back.nodes()] == [node.op_type for node in model.nodes()]


def test_trained_weights_get_the_nearest_codes_of_their_grid() -> None:
    model = integer_net()
    found = with_float_weights(model)
    assert found is not None
    rng = np.random.default_rng(1)
    moved = {name: model.read(name) + rng.normal(0, 0.1, site.shape) for name, site in found.sites.items()}
    moved = {name: array.astype(np.float32) for name, array in moved.items()}
    bias = np.linspace(-1, 1, 8, dtype=np.float32)
    found.view.write_back({**moved, "b1": bias})
    after, before = constants(found.to_integers()), constants(model)
    scale = before["w1 1"].reshape(8, 1, 1, 1)
    expected = np.clip(np.rint(moved["w1"] / scale.astype(np.float64)), -128, 127)
    assert np.array_equal(after["w1 0"], expected)
    expected = np.clip(np.rint(moved["w2"] / np.float64(before["w2 1"])) + 127, 0, 255)
    assert np.array_equal(after["w2 0"], expected)
    assert np.array_equal(after["b1 0"], np.rint(bias / before["b1 1"].astype(np.float64)))
    assert not np.array_equal(after["w1 0"], before["w1 0"])


def test_a_float_model_has_none() -> None:
    assert with_float_weights(parse_text(CONV_NET)) is None


@pytest.mark.parametrize("seed", range(3))
def test_the_model_stays_as_it_is(seed: int) -> None:
    model = integer_net(seed)
    before = model.to_bytes()
    with_float_weights(model)
    assert model.to_bytes() == before


def text_of(nodes: str, outputs: str = "float[N,4] y") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => ({outputs}) {{ {nodes} }}"""


CODES = {
    "c": np.arange(-8, 8, dtype=np.int8).reshape(4, 4),
    "s": np.array(0.1, np.float32),
    "z": np.array(0, np.int8),
    "bc": np.array([1, 2, 3, 4], np.int32),
    "bs": np.array(0.01, np.float32),
    "bz": np.array(0, np.int32),
}


@pytest.mark.parametrize(
    "nodes",
    [
        "w = DequantizeLinear (c, s, z) v = DequantizeLinear (c, s, z) h = MatMul (x, w) y = MatMul (h, v)",
        "w = DequantizeLinear (c, s, z) k = Cast <to = 1> (c) h = MatMul (x, w) y = MatMul (h, k)",
    ],
    ids=["two weights", "another reader"],
)
def test_codes_that_something_else_reads_stay(nodes: str) -> None:
    """Trained, they would be stored twice."""
    assert with_float_weights(parse_text(text_of(nodes), constants=CODES)) is None


def test_a_bias_that_is_an_output_or_read_in_a_branch_survives() -> None:
    nodes = "w = DequantizeLinear (c, s, z) b = DequantizeLinear (bc, bs, bz) y = Gemm (x, w, b)"
    model = parse_text(text_of(nodes, "float[N,4] y, float[4] b"), constants=CODES)
    found = with_float_weights(model)
    assert found is not None
    assert found.steps == {}
    assert found.to_integers().signature() == model.signature()
    nodes = """w = DequantizeLinear (c, s, z) b = DequantizeLinear (bc, bs, bz)
        h = MatMul (x, w) k = ReduceMax <keepdims = 0> (h) q = Cast <to = 9> (k)
        y = If (q) <then_branch = t () => (float[N,4] o) { o = Gemm (x, w, b) },
                    else_branch = e () => (float[N,4] p) { p = MatMul (x, w) }>"""
    model = parse_text(text_of(nodes), constants=CODES)
    found = with_float_weights(model)
    assert found is not None
    assert found.to_integers().signature() == model.signature()


def test_layers_that_a_recipe_fixes_stay() -> None:
    model = integer_net()
    model.conditions = Conditions(fixed={"w2": FixedByRecipe("the recipe asks for float")})
    found = with_float_weights(model)
    assert found is not None
    assert set(found.sites) == {"w1"}


def test_a_scale_of_zero_stands_for_zeros() -> None:
    nodes = "w = DequantizeLinear (c, s, z) y = MatMul (x, w)"
    scales = {"s": np.array([0.1, 0, 0.1, 0.1], np.float32), "z": np.zeros(4, np.int8)}
    found = with_float_weights(parse_text(text_of(nodes), constants={**CODES, **scales}))
    assert found is not None
    with np.errstate(all="raise"):
        back = found.to_integers()
    assert not back.read("w")[:, 1].any()
