"""Kernels that a runtime makes of what is written: each hole that would leave a layer slow has a model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.kernels import is_integer_kernel, kernel_counts
from onnx_admm.model.integers.plan import TensorGrid
from onnx_admm.model.integers.prepare import is_integer, matmuls_to_gemms
from onnx_admm.model.integers.write import write_integers
from onnx_admm.model.rewrite.expose_values import expose_values
from onnx_admm.quantization.placing.placement import place, plan_of
from onnx_admm.quantization.units import Kind, find_units, roots_of
from onnx_admm.quantization.weights import integer_weight
from onnx_admm.runtime.sessions import open_session, optimised_model


def model(body: str, signature: str, constants: str, opset: int = 17) -> ModelView:
    return parse_text(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} <{constants}> {{ {body} }}'
    )


def integer(view: ModelView, float_nodes: tuple[str, ...] = ()) -> ModelView:
    """The model with every unit integer but those that give the named values; ranges from one run."""
    fork = view.fork()
    rng = np.random.default_rng(0)
    feeds = feeds_of(fork, rng)
    units, _ = find_units(fork)
    inputs = {port.name for port in fork.signature().inputs}
    names = {name for unit in units for name in (*unit.inputs, unit.output)} - inputs
    values = open_session(expose_values(fork, sorted(names)), threads=1).run(feeds) | feeds
    asked = [unit.node for unit in units if unit.kind is not Kind.PASSING and unit.output not in float_nodes]
    grids = {name: grid_of(array) for name, array in values.items() if array.dtype == np.float32}
    weights = {
        unit.node: integer_weight(unit.weight_name, unit.weight, unit.axis)[0]
        for unit in units
        if unit.weight is not None
    }
    ranks = {name: array.ndim for name, array in values.items()}
    plan = plan_of(place(units, asked), roots_of(units), grids, weights, ranks)
    assert plan is not None
    write_integers(fork, plan)
    return fork


def grid_of(array: np.ndarray) -> TensorGrid:
    low, high = min(0.0, float(array.min())), max(0.0, float(array.max()))
    scale = float(np.float32((high - low) / 255 or 1.0))
    return TensorGrid(scale, int(np.clip(round(-low / scale), 0, 255)))


def feeds_of(view: ModelView, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        port.name: rng.normal(size=[e if isinstance(e, int) else 2 for e in port.shape]).astype(np.float32)
        for port in view.signature().inputs
    }


def kernels(view: ModelView) -> dict[str, int]:
    return kernel_counts(optimised_model(view.to_bytes()))


def assert_close(view: ModelView, other: ModelView, least_db: float = 25.0) -> None:
    feeds = feeds_of(view, np.random.default_rng(0))
    expected, got = (open_session(each, threads=1).run(feeds) for each in (view, other))
    for name, array in expected.items():
        noise = float(np.sum((got[name] - array) ** 2))
        assert 10 * np.log10(float(np.sum(array**2)) / max(noise, 1e-20)) > least_db, name


CONVS = "float[16,16,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2"
IMAGE = "(float[1,16,8,8] x) => (float[1,16,8,8] y)"


def test_convolutions_in_a_chain_become_integer_kernels_and_their_relu_vanishes() -> None:
    view = model(
        """c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r1 = Relu (c1)
           c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2) y = Sigmoid (c2)""",
        IMAGE, CONVS,
    )  # fmt: skip
    written = integer(view)
    found = kernels(written)
    assert found["QLinearConv"] == 2
    assert "Relu" not in found
    assert "Conv" not in found
    assert_close(view, written)
    assert is_integer(written)
    assert not is_integer(view)


@pytest.mark.parametrize("behind", ["s = Sigmoid (c1) y = Mul (c1, s)", "y = HardSwish (c1)"])
def test_a_convolution_in_front_of_silu_or_hardswish_is_an_integer_kernel(behind: str) -> None:
    view = model(
        f"c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) {behind}", IMAGE, "float[16,16,3,3] w1, float[16] b1"
    )
    written = integer(view)
    assert kernels(written)["QLinearConv"] == 1
    assert_close(view, written)


def test_a_residual_addition_reads_integers_on_both_sides() -> None:
    view = model(
        """c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r1 = Relu (c1)
           c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2) s = Add (c2, r1) r2 = Relu (s) y = Sigmoid (r2)""",
        IMAGE, CONVS,
    )  # fmt: skip
    written = integer(view)
    found = kernels(written)
    assert (found["QLinearConv"], found["QLinearAdd"]) == (2, 1)
    assert "Add" not in found
    assert_close(view, written)


def test_integers_pass_through_a_pool_and_a_flatten() -> None:
    view = model(
        """c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r1 = Relu (c1)
           p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1) f = Flatten (p)
           y = Gemm <transB = 1> (f, w2, b2)""",
        "(float[1,16,8,8] x) => (float[1,10] y)",
        "float[16,16,3,3] w1, float[16] b1, float[10,256] w2, float[10] b2",
    )  # fmt: skip
    written = integer(view)
    found = kernels(written)
    assert found["QLinearConv"] == 1
    assert found["QGemm"] == 1
    assert found.get("QuantizeLinear", 0) == 1  # the input's alone
    assert "DequantizeLinear" not in found
    assert_close(view, written)


FLATTENED = """c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r1 = Relu (c1) f = Flatten (r1)
               y = Gemm <transB = 1> (f, w2, b2)"""


@pytest.mark.parametrize("batch", ["N", "2"])
def test_an_integer_model_with_a_flatten_takes_a_batch_of_any_size(batch: str) -> None:
    view = model(FLATTENED, f"(float[{batch},16,8,8] x) => (float[{batch},10] y)",
                 "float[16,16,3,3] w1, float[16] b1, float[10,1024] w2, float[10] b2")  # fmt: skip
    written = integer(view)
    operators = [node.op_type for node in written.nodes()]
    assert "Reshape" in operators
    assert "Flatten" not in operators
    for count in (0, 1, 3) if batch == "N" else (2,):
        feeds = {"x": np.ones((count, 16, 8, 8), np.float32)}
        assert open_session(written, threads=1).run(feeds)["y"].shape == (count, 10)


def test_a_flatten_to_columns_of_no_known_extent_stays() -> None:
    view = model(FLATTENED, "(float[N,16,H,W] x) => (float[N,10] y)",
                 "float[16,16,3,3] w1, float[16] b1, float[10,64] w2, float[10] b2")  # fmt: skip
    written = integer(view)
    assert "Flatten" in [node.op_type for node in written.nodes()]
    assert kernels(written)["QLinearConv"] == 1


def test_a_float_pool_in_front_of_integers_stays_in_front_of_their_quantisation() -> None:
    view = model(
        """c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r1 = Relu (c1)
           p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)
           c2 = Conv <pads = [1, 1, 1, 1]> (p, w2, b2) y = Sigmoid (c2)""",
        "(float[1,16,8,8] x) => (float[1,16,4,4] y)", CONVS,
    )  # fmt: skip
    written = integer(view, float_nodes=("r1",))
    proto = onnx.load_from_string(optimised_model(written.to_bytes()))
    (quantize,) = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    producers = {name: node for node in proto.graph.node for name in node.output}
    assert producers[quantize.input[0]].op_type == "LeakyRelu"
    assert kernels(written)["QLinearConv"] == 1
    assert_close(view, written)


ROWS, MATRICES = (
    "(float[1,64] x) => (float[1,32] y)",
    "float[64,48] w1, float[48] b1, float[48,32] w2, float[32] b2",
)


@pytest.mark.parametrize("turned", [0, 1])
def test_a_relu_behind_a_gemm_with_float_output_does_not_block_its_kernel(turned: int) -> None:
    shape = "float[48,64] w1" if turned else "float[64,48] w1"
    view = model(
        f"a = Gemm <transB = {turned}> (x, w1, b1) r = Relu (a) y = Gemm (r, w2, b2)", ROWS,
        f"{shape}, float[48] b1, float[48,32] w2, float[32] b2",
    )  # fmt: skip
    written = integer(view, float_nodes=("y",))
    found = kernels(written)
    assert found["QGemm"] == 1
    assert found["ThresholdedRelu"] == 1
    assert_close(view, written)


@pytest.mark.parametrize("product", ["MatMul (x, w1)", "Gemm (x, w1, b1)"])
@pytest.mark.parametrize(
    ("body", "second"),
    [
        ("z = {} c = Relu (z) y = MatMul (c, w2)", True),
        ("z = {} c = Relu (z) y = MatMul (c, w2)", False),
        ("m = {} c = Relu (m) z = Neg (m) y = MatMul (c, w2)", True),
    ],
    ids=["output", "output, float reader", "another reader"],
)
def test_a_relu_behind_floats_with_other_readers_does_not_block_the_kernel(
    product: str, body: str, second: bool
) -> None:
    view = model(
        body.format(product),
        "(float[4,64] x) => (float[4,32] y, float[4,48] z)",
        "float[64,48] w1, float[48] b1, float[48,32] w2",
    )
    written = integer(view, float_nodes=() if second else ("y",))
    found = kernels(written)
    assert found["ThresholdedRelu"] == 1
    assert sum(count for name, count in found.items() if is_integer_kernel(name)) >= 1 + second
    assert found.get("MatMul", 0) + found.get("Gemm", 0) == 1 - second
    assert_close(view, written)


def test_a_relu_between_integer_gemms_vanishes() -> None:
    view = model("a = Gemm (x, w1, b1) r = Relu (a) y = Gemm (r, w2, b2)", ROWS, MATRICES)
    found = kernels(integer(view))
    assert found["QGemm"] == 2
    assert not {"Relu", "ThresholdedRelu"} & found.keys()


@pytest.mark.parametrize("bias", ["float[48] b1", "float[1,48] b1"])
def test_a_matmul_with_a_bias_becomes_one_integer_gemm(bias: str) -> None:
    view = model("m = MatMul (x, w1) a = Add (m, b1) y = Sigmoid (a)", "(float[1,64] x) => (float[1,48] y)",
                 f"float[64,48] w1, {bias}")  # fmt: skip
    prepared = view.fork()
    assert matmuls_to_gemms(prepared, {"x": 2}) == 1
    assert_close(view, prepared, 100)
    written = integer(prepared)
    found = kernels(written)
    assert found["QGemm"] == 1
    assert not {"Add", "Gemm", "MatMul"} & found.keys()
    assert_close(view, written)


def test_a_matmul_of_higher_rank_keeps_its_addition_and_gives_floats() -> None:
    view = model(
        "m = MatMul (x, w1) a = Add (m, b1) y = Sigmoid (a)",
        "(float[1,6,64] x) => (float[1,6,48] y)",
        "float[64,48] w1, float[48] b1",
    )
    assert matmuls_to_gemms(view.fork(), {"x": 3}) == 0
    written = integer(view)
    found = kernels(written)
    assert found.get("MatMulIntegerToFloat", 0) == 1
    assert_close(view, written)


@pytest.mark.parametrize("width", [10, 11, 13, 16])
def test_any_number_of_outputs_is_computed_rightly(width: int) -> None:
    view = model("y = Gemm (x, w, b)", f"(float[3,40] x) => (float[3,{width}] y)",
                 f"float[40,{width}] w, float[{width}] b")  # fmt: skip
    written = integer(view)
    assert kernels(written)["QGemm"] == 1
    assert_close(view, written)


def test_a_clip_to_six_belongs_to_its_convolution() -> None:
    view = model(
        "c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r1 = Clip (c1, low, high) y = Sigmoid (r1)",
        IMAGE, "float[16,16,3,3] w1, float[16] b1, float low = {0}, float high = {6}",
    )  # fmt: skip
    written = integer(view)
    assert kernels(written)["QLinearConv"] == 1
    assert_close(view, written)


def test_equal_constants_are_stored_once_and_tied_weights_too() -> None:
    view = model("a = Gemm <transB = 1> (x, w, b) r = Relu (a) y = Gemm <transB = 1> (r, w, b)",
                 "(float[1,64] x) => (float[1,64] y)", "float[64,64] w, float[64] b")  # fmt: skip
    written = integer(view)
    stored = [name for name in written.graph_ir.graph.initializers if name.startswith("w_codes")]
    assert len(stored) == 1
    assert kernels(written)["QGemm"] == 2
    assert_close(view, written)


def test_weights_keep_their_names() -> None:
    view = model(
        "y = Gemm (x, w1, b1)", "(float[1,64] x) => (float[1,48] y)", "float[64,48] w1, float[48] b1"
    )
    assert [site.name for site in integer(view).sites()] == ["w1"]


@pytest.mark.parametrize("opset", [13, 15, 21])
def test_older_and_newer_opsets_get_the_same_kernels(opset: int) -> None:
    view = model(
        "c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r1 = Relu (c1) y = Sigmoid (r1)",
        IMAGE, "float[16,16,3,3] w1, float[16] b1", opset,
    )  # fmt: skip
    assert kernels(integer(view))["QLinearConv"] == 1


@pytest.mark.parametrize("name", ["QLinearConv", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
def test_integer_kernels_are_known_by_name(name: str) -> None:
    assert is_integer_kernel(name)
    assert not is_integer_kernel("FusedConv")
