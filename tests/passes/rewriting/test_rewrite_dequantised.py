"""RewriteForRuntime on dequantised weights and activations: every form of scales keeps every number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.rewrite_for_runtime import RewriteForRuntime
from onnx_admm.runtime.sessions import open_session

RNG = np.random.default_rng(0)
ROWS, COLUMNS = 64, 12


def net(ports: str, body: str, constants: Mapping[str, Any], opset: int = 21) -> ModelView:
    before, _, after = ports.partition("=>")
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> net ({before}) => ({after}) {{ {body} }}'
    return parse_text(text, constants=constants)


def changed(view: ModelView, rule: str, tolerance: float = 2e-6) -> ModelView:
    """The model after one rewrite, which must change it and keep its outputs."""
    after = view.fork()
    assert RewriteForRuntime(rules=(rule,)).run(after, PassContext(reference=view)).changed
    feeds = {
        port.name: RNG.normal(
            0, 1, [extent if isinstance(extent, int) else 3 for extent in port.shape or ()]
        ).astype(np.float32)
        for port in view.signature().inputs
    }
    expected = open_session(view, threads=1, optimize=False).run(feeds)
    got = open_session(after, threads=1, optimize=False).run(feeds)
    for name, array in expected.items():
        assert np.abs(array - got[name]).max() <= tolerance * np.abs(array).max(), name
    again = after.fork()
    assert not RewriteForRuntime(rules=(rule,)).run(again, PassContext(reference=view)).changed
    return after


def scales(*shape: int) -> Any:
    return RNG.uniform(0.01, 0.03, shape).astype(np.float32)


def points(dtype: Any, *shape: int) -> Any:
    low, high = (0, 16) if dtype == np.uint8 else (-3, 4)
    return RNG.integers(low, high, shape).astype(dtype)


FORMS = {
    "one scale": ({}, (), ()),
    "columns": ({"axis": 0}, (COLUMNS,), (COLUMNS,)),
    "rows": ({"axis": 1}, (ROWS,), (ROWS,)),
    "negative axis": ({"axis": -2}, (COLUMNS,), (COLUMNS,)),
    "blocks": ({"axis": 1, "block_size": 16}, (COLUMNS, ROWS // 16), (COLUMNS, ROWS // 16)),
    "no zero point": ({"axis": 0}, (COLUMNS,), None),
}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, ml_dtypes.int4])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_transposed_weights(form: tuple[dict[str, int], Any, Any], dtype: Any) -> None:
    attributes, scale, point = form
    told = ", ".join(f"{key} = {value}" for key, value in attributes.items())
    constants: dict[str, Any] = {
        "codes": RNG.integers(0, 7, (COLUMNS, ROWS)).astype(dtype),
        "scale": scales(*scale),
        "bias": np.linspace(-1, 1, COLUMNS, dtype=np.float32),
    }
    zero = "" if point is None else ", zero"
    constants |= {} if point is None else {"zero": points(dtype, *point)}
    told = f"<{told}> " if told else ""
    body = f"d = DequantizeLinear {told}(codes, scale{zero}) y = Gemm <transB = 1> (x, d, bias)"
    after = changed(net(f"float[N,{ROWS}] x => float[N,{COLUMNS}] y", body, constants), "transposed_weight")
    (gemm,) = after.nodes("Gemm")
    assert gemm.attribute("transB", 0) == 0


@pytest.mark.parametrize("body", ["y = Gemm (x, d, bias)", "m = MatMul (x, d) y = Add (bias, m)"])
def test_biases_of_one_row_become_vectors(body: str) -> None:
    constants = {
        "codes": RNG.integers(-7, 7, (ROWS, COLUMNS)).astype(np.int8),
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "bias": np.linspace(-1, 1, COLUMNS, dtype=np.float32).reshape(1, COLUMNS),
    }
    text = f"d = DequantizeLinear (codes, scale, zero) {body}"
    after = changed(net(f"float[N,{ROWS}] x => float[N,{COLUMNS}] y", text, constants), "row_bias")
    shapes = [v.constant_shape for node in after.nodes() for v in node.inputs if v is not None]
    assert (COLUMNS,) in shapes
    assert (1, COLUMNS) not in shapes


@pytest.mark.parametrize(
    ("ports", "columns"),
    [(f"float[{ROWS}] x => float[1,{COLUMNS}] y", (COLUMNS,)), (f"float[N,{ROWS}] x => float[1,N] y", ())],
)
def test_a_row_that_gives_a_vector_its_second_axis_stays(ports: str, columns: tuple[int, ...]) -> None:
    constants = {
        "codes": RNG.integers(-7, 7, (ROWS, *columns)).astype(np.int8),
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "bias": np.ones((1, *(columns or (1,))), np.float32),
    }
    body = "d = DequantizeLinear (codes, scale, zero) m = MatMul (x, d) y = Add (m, bias)"
    pass_, view = RewriteForRuntime(rules=("row_bias",)), net(ports, body, constants)
    assert not pass_.run(view.fork(), PassContext(reference=view)).changed


def test_a_weight_that_two_layers_read_is_not_transposed() -> None:
    constants = {"codes": np.ones((8, 8), np.int8), "scale": np.float32(0.1), "zero": np.int8(0)}
    body = (
        "d = DequantizeLinear (codes, scale, zero) h = Gemm <transB = 1> (x, d) y = Gemm <transB = 1> (h, d)"
    )
    view = net("float[N,8] x => float[N,8] y", body, constants)
    pass_ = RewriteForRuntime(rules=("transposed_weight",))
    assert not pass_.run(view.fork(), PassContext(reference=view)).changed


@pytest.mark.parametrize("channels", [None, 0])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_weights_of_convolutions_are_computed_at_load(channels: int | None, dtype: Any) -> None:
    shape = () if channels is None else (4,)
    attribute = "" if channels is None else "<axis = 0> "
    constants = {
        "codes": RNG.integers(0, 7, (4, 3, 3, 3)).astype(dtype),
        "scale": scales(*shape),
        "zero": points(dtype, *shape),
    }
    body = f"d = DequantizeLinear {attribute}(codes, scale, zero) y = Conv (x, d)"
    after = changed(net("float[N,3,8,8] x => float[N,4,6,6] y", body, constants), "unfused_weight")
    assert not after.nodes("DequantizeLinear")


@pytest.mark.parametrize("shape", [(), (COLUMNS,)])
@pytest.mark.parametrize("has_point", [True, False])
def test_uint8_weights(shape: tuple[int, ...], has_point: bool) -> None:
    constants = {"codes": RNG.integers(0, 255, (ROWS, COLUMNS)).astype(np.uint8), "scale": scales(*shape)}
    constants |= {"zero": RNG.integers(0, 255, shape).astype(np.uint8)} if has_point else {}
    zero = ", zero" if has_point else ""
    body = f"d = DequantizeLinear (codes, scale{zero}) y = MatMul (x, d)"
    after = changed(net(f"float[N,{ROWS}] x => float[N,{COLUMNS}] y", body, constants), "uint8_weights")
    assert {node.input(0).dtype for node in after.nodes("DequantizeLinear")} == {"int8"}  # type: ignore[union-attr]


QUANTISED = "q = QuantizeLinear (x, one, none) a = DequantizeLinear (q, one, none) "


@pytest.mark.parametrize("channels", [None, 1])
@pytest.mark.parametrize("body", ["m = MatMul (a, d) y = Add (m, bias)", "y = Gemm (a, d, bias)"])
def test_float_biases(channels: int | None, body: str) -> None:
    shape = () if channels is None else (COLUMNS,)
    constants = {
        "codes": RNG.integers(-60, 60, (ROWS, COLUMNS)).astype(np.int8),
        "scale": scales(*shape), "zero": np.zeros(shape, np.int8), "one": np.float32(0.002),
        "none": np.uint8(128), "bias": np.linspace(-1, 1, COLUMNS, dtype=np.float32),
    }  # fmt: skip
    text = QUANTISED + "d = DequantizeLinear (codes, scale, zero) " + body
    view = net(f"float[N,{ROWS}] x => float[N,{COLUMNS}] y", text, constants)
    after = changed(view, "float_bias", tolerance=1e-4)
    (gemm,) = after.nodes("Gemm")
    bias = gemm.input(2)
    assert bias is not None
    assert bias.producer() is not None


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_bias_scales_of_channels(factor: float) -> None:
    weight = scales(COLUMNS)
    fine = (0.002 * weight * factor).astype(np.float32)
    constants = {
        "codes": RNG.integers(-60, 60, (ROWS, COLUMNS)).astype(np.int8),
        "scale": weight, "zero": np.zeros(COLUMNS, np.int8), "one": np.float32(0.002), "none": np.uint8(128),
        "whole": np.rint(np.linspace(-1, 1, COLUMNS) / fine).astype(np.int32), "fine": fine,
        "naught": np.zeros(COLUMNS, np.int32),
    }  # fmt: skip
    text = (
        f"{QUANTISED} d = DequantizeLinear (codes, scale, zero)"
        " b = DequantizeLinear <axis = 0> (whole, fine, naught) y = Gemm (a, d, b)"
    )
    view = net(f"float[N,{ROWS}] x => float[N,{COLUMNS}] y", text, constants)
    changed(view, "bias_scale", tolerance=1e-4)


@pytest.mark.parametrize(
    "views",
    [
        "v = Flatten (a)",
        "t = Transpose <perm = [0, 2, 1]> (a) v = Flatten (t)",
        "p = MaxPool <kernel_shape = [1]> (a) v = Flatten (p)",
    ],
)
def test_views_behind_dequantise(views: str) -> None:
    constants = {
        "codes": RNG.integers(-60, 60, (ROWS, COLUMNS)).astype(np.int8),
        "scale": np.float32(0.02), "zero": np.int8(0), "one": np.float32(0.02), "none": np.uint8(120),
    }  # fmt: skip
    text = f"{QUANTISED} {views} d = DequantizeLinear (codes, scale, zero) y = Gemm (v, d)"
    after = changed(
        net(f"float[N,4,16] x => float[N,{COLUMNS}] y", text, constants), "view_behind_dequantise"
    )
    (gemm,) = after.nodes("Gemm")
    data = gemm.input(0)
    assert data is not None
    assert data.producer() is not None
    assert data.producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]


def test_int8_activations_become_uint8_everywhere() -> None:
    body = (
        "q = QuantizeLinear (x, one, none) a = DequantizeLinear (q, one, none) c = Relu (a)"
        " p = QuantizeLinear (c, two, low) b = DequantizeLinear (p, two, low) s = Add (a, b)"
        " r = QuantizeLinear (s, one, none) y = DequantizeLinear (r, one, none)"
    )
    constants = {
        "one": np.float32(0.02), "none": np.int8(5), "two": np.float32(0.01), "low": np.int8(-128)
    }  # fmt: skip
    after = changed(net("float[N,16] x => float[N,16] y", body, constants), "int8_activations")
    kinds = {
        node.input(2).dtype  # type: ignore[union-attr]
        for op_type in ("QuantizeLinear", "DequantizeLinear")
        for node in after.nodes(op_type)
    }
    assert kinds == {"uint8"}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("r = Relu (h)", ["ThresholdedRelu"]), ("r = Clip (h, low, high)", ["Max", "Min"]),
     ("r = Clip (h, , high)", ["Min"]), ("r = Clip (h, low)", ["ThresholdedRelu"])],
)  # fmt: skip
def test_limits_behind_weights(limit: str, expected: list[str]) -> None:
    constants: dict[str, Any] = {
        "codes": RNG.integers(-60, 60, (ROWS, COLUMNS)).astype(np.int8),
        "scale": np.float32(0.02), "zero": np.int8(0),
    }  # fmt: skip
    constants |= {"low": np.float32(0)} if "low" in limit else {}
    constants |= {"high": np.float32(1)} if "high" in limit else {}
    body = f"d = DequantizeLinear (codes, scale, zero) h = MatMul (x, d) {limit} y = Sigmoid (r)"
    after = changed(net(f"float[N,{ROWS}] x => float[N,{COLUMNS}] y", body, constants), "relu_after_weight")
    kinds = [node.op_type for node in after.nodes() if node.op_type in ("ThresholdedRelu", "Max", "Min")]
    assert kinds == expected


def test_limits_behind_a_float16_layer_are_float16() -> None:
    constants = {
        "codes": RNG.integers(-60, 60, (ROWS, COLUMNS)).astype(np.int8), "scale": np.float16(0.02),
        "zero": np.int8(0), "low": np.float16(-0.1), "high": np.float16(0.5),
    }  # fmt: skip
    body = (
        "h = Cast <to = 10> (x) d = DequantizeLinear (codes, scale, zero) p = MatMul (h, d)"
        " r = Clip (p, low, high) y = Cast <to = 1> (r)"
    )
    after = changed(net(f"float[N,{ROWS}] x => float[N,{COLUMNS}] y", body, constants), "relu_after_weight")
    bounds = [node.input(1) for node in after.nodes() if node.op_type in ("Max", "Min")]
    assert [None if bound is None else bound.dtype for bound in bounds] == ["float16", "float16"]


@pytest.mark.parametrize("has_point", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_of_512(axis: int, has_point: bool) -> None:
    codes, few = ((1024, COLUMNS), (2, COLUMNS)) if axis == 0 else ((COLUMNS, 1024), (COLUMNS, 2))
    constants = {"codes": RNG.integers(-8, 8, codes).astype(ml_dtypes.int4), "scale": scales(*few)}
    constants |= {"zero": points(ml_dtypes.int4, *few)} if has_point else {}
    zero = ", zero" if has_point else ""
    transposed = "" if axis == 0 else "<transB = 1> "
    body = (
        f"d = DequantizeLinear <axis = {axis}, block_size = 512> (codes, scale{zero})"
        f" y = Gemm {transposed}(x, d)"
    )
    changed(net(f"float[N,1024] x => float[N,{COLUMNS}] y", body, constants), "blocks_of_512")
