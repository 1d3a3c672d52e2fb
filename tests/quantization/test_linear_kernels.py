"""Kernels that a runtime makes of dynamic and weight-only linear layers, and what they compute."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_admm.contracts import Array, ModelView
from onnx_admm.errors import UsageError
from onnx_admm.model.analysis.profiles import layer_profiles
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.model.integers.plan import IntegerWeight, LinearProduct
from onnx_admm.model.integers.write_linear import write_dynamic, write_weight_only
from onnx_admm.quantization.linear.forms import LinearForm, find_linear_layers, with_forms
from onnx_admm.quantization.saturation import largest_code
from onnx_admm.runtime.installed import installed_runtimes
from onnx_admm.runtime.sessions import open_session, optimised_model

BLOCK_KERNELS_SINCE = (1, 26)
"""Version of the runtime from which on it makes MatMulNBits of 8-bit weights."""


def has_block_kernels() -> bool:
    versions = [importlib.metadata.version(name) for name in installed_runtimes()]
    return any(tuple(map(int, version.split(".")[:2])) >= BLOCK_KERNELS_SINCE for version in versions)


def model(body: str, signature: str, constants: str, opset: int = 17) -> ModelView:
    return parse_text(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} <{constants}> {{ {body} }}'
    )


def formed(view: ModelView, form: LinearForm, largest: int = 127) -> ModelView:
    """The model with every linear layer in that form."""
    names = {site.name for site in view.sites()}
    layers, left = find_linear_layers(view, names, list(LinearForm), largest)
    assert layers
    assert not left
    return with_forms(view, layers, {layer.name: form for layer in layers})


def kernels(view: ModelView) -> dict[str, int]:
    return kernel_counts(optimised_model(view.to_bytes()))


def feeds_of(view: ModelView) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        port.name: rng.normal(size=[e if isinstance(e, int) else 3 for e in port.shape or ()]).astype("f")
        for port in view.signature().inputs
    }


def assert_close(view: ModelView, other: ModelView, least_db: float = 30.0) -> None:
    feeds = feeds_of(view)
    expected, got = (open_session(each, threads=1).run(feeds) for each in (view, other))
    for name, array in expected.items():
        noise = float(np.sum((got[name] - array) ** 2))
        assert 10 * np.log10(float(np.sum(array**2)) / max(noise, 1e-20)) > least_db, name


W, B = "float[64,48] w", "float[48] b"
LAYERS = {
    "gemm": ("y = Gemm (x, w, b)", "4,64", f"{W}, {B}"),
    "gemm transposed": ("y = Gemm <transB = 1> (x, w, b)", "4,64", f"float[48,64] w, {B}"),
    "gemm without bias": ("y = Gemm (x, w)", "4,64", W),
    "matmul": ("y = MatMul (x, w)", "4,64", W),
    "matmul of three axes and bias": ("m = MatMul (x, w) y = Add (m, b)", "2,4,64", f"{W}, {B}"),
    "relu": ("m = MatMul (x, w) a = Add (m, b) r = Relu (a) y = Neg (r)", "4,64", f"{W}, {B}"),
    "row as bias, clip": (
        "m = Gemm <transB = 1> (x, w, b) r = Clip (m, low, high) y = Neg (r)", "4,64",
        "float[48,64] w, float[1,48] b, float low = {0.0}, float high = {6.0}",
    ),
    "rows that no block divides": ("y = MatMul (x, w)", "4,200", "float[200,48] w"),
}  # fmt: skip


def layer(name: str) -> ModelView:
    body, shape, constants = LAYERS[name]
    outputs = ",".join([*shape.split(",")[:-1], "48"])
    return model(body, f"(float[{shape}] x) => (float[{outputs}] y)", constants)


@pytest.mark.parametrize("name", LAYERS)
def test_the_dynamic_form_is_one_kernel(name: str) -> None:
    view = layer(name)
    written = formed(view, LinearForm.DYNAMIC)
    found = kernels(written)
    assert found["DynamicQuantizeMatMul"] == 1
    assert not {"MatMulInteger", "Cast", "DynamicQuantizeLinear", "Gemm", "MatMul", "Add"} & found.keys()
    assert_close(view, written)
    assert written.opset == view.opset


@pytest.mark.parametrize("name", LAYERS)
def test_the_weight_only_form_is_one_kernel_where_the_runtime_has_it(name: str) -> None:
    view = layer(name)
    written = formed(view, LinearForm.WEIGHT_ONLY)
    assert_close(view, written)
    if has_block_kernels():
        found = kernels(written)
        assert found["MatMulNBits"] == 1
        assert not {"DequantizeLinear", "Gemm", "MatMul", "FusedGemm"} & found.keys()


def test_a_model_that_cannot_be_raised_has_one_scale_per_column() -> None:
    """What the runtime makes blocks of is the same; blocks of its default size are a little slower."""
    view = layer("gemm transposed")
    columns = view.fork()
    products = [product(view, "y", 0)]
    write_weight_only(columns, products)
    (node,) = (each for each in columns.nodes() if each.op_type == "DequantizeLinear")
    assert node.attribute("block_size", 0) == 0
    assert node.input(1).constant_shape == (48,)
    blocks = formed(view, LinearForm.WEIGHT_ONLY)
    (node,) = (each for each in blocks.nodes() if each.op_type == "DequantizeLinear")
    assert (blocks.opset, node.attribute("block_size"), node.attribute("axis")) == (21, 128, 0)
    feeds = feeds_of(view)
    first, second = (open_session(each, optimize=False).run(feeds)["y"] for each in (columns, blocks))
    assert np.allclose(first, second, rtol=1e-6, atol=1e-6)


def product(view: ModelView, output: str, axis: int) -> LinearProduct:
    weight = view.read("w")
    scales = (np.abs(weight).max(axis=1 - axis) / 127).astype(np.float32)
    codes = np.rint(weight / np.expand_dims(scales, 1 - axis)).astype(np.int8)
    return LinearProduct(output, "w", IntegerWeight(codes, scales, axis))


def test_layers_that_read_the_same_value_share_its_codes() -> None:
    view = model(
        "a = MatMul (x, u) b = MatMul (x, v) c = MatMul (x, w) s = Add (a, b) y = Add (s, c)",
        "(float[2,4,64] x) => (float[2,4,48] y)", "float[64,48] u, float[64,48] v, float[64,48] w",
    )  # fmt: skip
    written = formed(view, LinearForm.DYNAMIC)
    assert sum(node.op_type == "DynamicQuantizeLinear" for node in written.nodes()) == 1
    found = kernels(written)
    assert (found["DynamicQuantizeLinear"], found["MatMulIntegerToFloat"]) == (1, 3)
    assert_close(view, written)


SHARED = (
    "a = MatMul (x, w) r = Tanh (a) y = MatMul (r, w)",
    "(float[4,64] x) => (float[4,64] y)", "float[64,64] w",
)  # fmt: skip


def test_layers_that_share_a_weight_share_its_codes() -> None:
    view = model(*SHARED)
    written = formed(view, LinearForm.DYNAMIC)
    initializers = written.graph_ir.graph.initializers
    assert [name for name, value in initializers.items() if value.shape == (64, 64)] == ["w"]
    assert kernels(written)["DynamicQuantizeMatMul"] == 2
    assert_close(view, written)


def test_layers_that_share_a_weight_have_no_weight_only_form() -> None:
    (shared,), _ = find_linear_layers(model(*SHARED), {"w"}, list(LinearForm), 127)
    assert set(shared.products) == {LinearForm.DYNAMIC}
    assert "several products" in shared.why_not[LinearForm.WEIGHT_ONLY]


@pytest.mark.parametrize(
    ("body", "outputs"), [("y = MatMul (x, w) z = Gather (w, i)", ", float[2,64] z"),
                          ("y = MatMul (x, w)", ", float[64,64] w")],
)  # fmt: skip
def test_a_weight_with_other_readers_stays_float_with_a_reason(body: str, outputs: str) -> None:
    view = model(body, f"(float[4,64] x) => (float[4,64] y{outputs})", "float[64,64] w, int64[2] i = {1, 2}")
    found, left = find_linear_layers(view, {"w"}, list(LinearForm), 127)
    assert not found
    assert "stored twice" in left["w"]


def test_sums_beyond_int32_have_no_dynamic_form() -> None:
    rows = 2**31 // (127 * 255) + 1
    weight = np.random.default_rng(0).uniform(0.499, 0.5, (rows, 1)).astype(np.float32)
    view = parse_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1,{rows}] x) => (float[1,1] y)'
        "{ y = MatMul (x, w) }",
        constants={"w": weight},
    )
    (found,), _ = find_linear_layers(view, {"w"}, list(LinearForm), 127)
    assert set(found.products) == {LinearForm.WEIGHT_ONLY}
    (found,), _ = find_linear_layers(view, {"w"}, list(LinearForm), 64)
    assert set(found.products) == set(LinearForm)


def test_without_vnni_no_pair_of_products_exceeds_16_bits() -> None:
    view = layer("gemm")
    (full,), _ = find_linear_layers(view, {"w"}, list(LinearForm), largest_code(255))
    (safe,), _ = find_linear_layers(view, {"w"}, list(LinearForm), largest_code(127))
    codes = [each.products[LinearForm.DYNAMIC][0].weight.codes for each in (full, safe)]
    assert [int(np.abs(each.astype(int)).max()) for each in codes] == [127, 64]
    assert 2 * 255 * 64 < 2**15 < 2 * 255 * 127
    assert np.array_equal(safe.products[LinearForm.WEIGHT_ONLY][0].weight.codes, codes[0])


@pytest.mark.parametrize(("most", "keeps"), [(7, True), (64, True), (65, False)])
def test_a_grid_is_kept_unless_its_codes_would_saturate(most: int, keeps: bool) -> None:
    view = layer("gemm")
    codes = np.random.default_rng(1).integers(-most, most + 1, (64, 48))
    codes[0] = most
    grid = (codes * np.float32(0.0213)).astype(np.float32)
    view.replace("w", grid)
    (found,), _ = find_linear_layers(view, {"w"}, list(LinearForm), 64)
    assert (found.keeps_grid[LinearForm.DYNAMIC], found.keeps_grid[LinearForm.WEIGHT_ONLY]) == (keeps, True)
    (kept,) = found.products[LinearForm.WEIGHT_ONLY]
    assert np.array_equal(kept.weight.codes, codes)
    if keeps:
        assert np.array_equal(found.products[LinearForm.DYNAMIC][0].weight.codes, codes)
    written = with_forms(view, [found], {"w": LinearForm.WEIGHT_ONLY})
    assert np.array_equal(written.read("w"), grid)


def test_a_batch_of_no_samples_has_no_rows() -> None:
    for form in LinearForm:
        written = formed(model("y = Gemm (x, w, b)", "(float[N,64] x) => (float[N,48] y)", f"{W}, {B}"), form)
        result = open_session(written, threads=1).run({"x": np.zeros((0, 64), np.float32)})["y"]
        assert result.shape == (0, 48)


def test_a_node_that_is_no_product_is_refused() -> None:
    view = layer("relu")
    for output in ("r", "gone"):
        with pytest.raises(UsageError, match="no such product"):
            write_dynamic(view.fork(), [product(view, output, 1)])


# -- what the dynamic form computes ----------------------------------------------------------


def dynamic(x: Array, weight: IntegerWeight, bias: Array | None) -> Array:
    """The operators' definition, with sums in int64."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    if scale == 0:
        scale = np.float32(1)
    zero = np.clip(np.rint(np.float32(0) - np.float32(low) / scale), 0, 255)
    codes = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64)
    matrix = (weight.codes if weight.axis else weight.codes.T).astype(np.int64)
    sums = ((codes - int(zero)) @ matrix).astype(np.float32)
    result = sums * (scale * weight.scales)
    return result if bias is None else result + bias


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, IntegerWeight, Array | None]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, inner, columns = (draw(st.integers(1, most)) for most in (5, 70, 20))
    leading: Sequence[int] = draw(st.sampled_from([(), (2,), (2, 3)]))
    shift, spread = draw(st.sampled_from([-3.0, 0.0, 5.0])), draw(st.sampled_from([0.0, 1e-3, 1.0, 100.0]))
    x = (shift + spread * rng.normal(size=(*leading, rows, inner))).astype(np.float32)
    axis, has_bias = draw(st.booleans()) and not leading, draw(st.booleans()) and not leading
    axis = 0 if axis else 1
    largest = draw(st.sampled_from([64, 127]))
    shape = (columns, inner) if axis == 0 else (inner, columns)
    codes = rng.integers(-largest, largest + 1, shape).astype(np.int8)
    scales = rng.uniform(1e-3, 1e-1, draw(st.sampled_from([(), (columns,)]))).astype(np.float32)
    bias = rng.normal(size=columns).astype(np.float32) if has_bias else None
    return x, IntegerWeight(codes, scales, axis), bias


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_dynamic_form_computes_what_its_operators_say(
    case: tuple[Array, IntegerWeight, Array | None],
) -> None:
    x, weight, bias = case
    shape, ends = list(x.shape), weight.codes.shape[weight.axis]
    constants: Mapping[str, Array] = {"w": np.ones(weight.codes.shape, np.float32)}
    node = "MatMul (x, w)"
    if x.ndim == 2:
        constants = {**constants, **({} if bias is None else {"b": bias})}
        node = f"Gemm <transB = {1 - weight.axis}> (x, w{'' if bias is None else ', b'})"
    view = parse_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float{shape} x) => (float{[*shape[:-1], ends]} y)'
        f"{{ y = {node} }}",
        constants=constants,
    )
    write_dynamic(view, [LinearProduct("y", "w", weight, bias)])
    got = open_session(view, threads=1).run({"x": x})["y"]
    expected = dynamic(x, weight, bias)
    assert got.shape == expected.shape
    assert np.allclose(got, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))


# -- what the tool sees of it ----------------------------------------------------------------


@pytest.mark.parametrize("form", LinearForm)
def test_the_weights_of_a_form_are_counted_as_before(form: LinearForm) -> None:
    view = layer("gemm transposed")
    written = formed(view, form)
    (before,), (after,) = view.sites(), written.sites()
    assert (after.name, after.size, after.editable) == (before.name, before.size, False)
    (first,), (second,) = layer_profiles(view), layer_profiles(written)
    assert (second.macs, second.parameters) == (first.macs, first.parameters)
