"""Encode: every form decodes to the very weights, folds at load, and says what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CONV_NET, MLP, KeepForDeployment, conv_net
from encoded_models import encode, feeds, folded_operators, run
from quantised_models import quantised

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.minify import Minify

WIDE_NET = conv_net((4, 64), 3)
OF_OPSET_7 = """
    <ir_version: 3, opset_import: ["" : 7]>
    of_opset_7 (float[1,3,16,16] x, float[64,3,3,3] w) => (float[1,64,14,14] y)
    <float[64,3,3,3] w>
    {
        scaled = ImageScaler <bias = [1.0, 2.0, 3.0], scale = 0.5> (x)
        y = Conv (scaled, w)
    }"""
"""ImageScaler left the standard after opset 7: the model stays where it is."""
DECODING = {"TopK", "CumSum", "ScatterElements", "Mod", "Div", "Gather", "Split", "Cast", "Pad", "Mul"}


# -- weights ---------------------------------------------------------------------------------


def test_each_layer_takes_its_own_scale() -> None:
    dense = quantised(parse_text(CONV_NET), 0.4)
    for site, scale in zip(dense.sites(), (0.5, 3.0, 0.375), strict=True):
        dense.replace(site, np.sign(dense.read(site)) * scale)
    packed, report = encode(dense, format="packed")
    assert dense.sites()
    for site in dense.sites():
        assert np.array_equal(packed.read(site.name), dense.read(site))
    assert len(report.edits) >= 3


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_come_back_in_their_type(dtype: type) -> None:
    proto = onnx.load_from_string(quantised(parse_text(MLP)).to_bytes())
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(dtype), tensor.name)
        )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = kind
    dense = ModelView.from_bytes(proto.SerializeToString())
    packed, report = encode(dense, format="packed")
    assert report.changed
    assert dense.sites()
    for site in dense.sites():
        assert packed.read(site.name).dtype == dtype
        assert np.array_equal(packed.read(site.name), dense.read(site))


def test_where_the_opset_cannot_be_raised_decoders_are_those_it_has() -> None:
    dense = quantised(parse_text(OF_OPSET_7), 0.1)
    packed, report = encode(dense, format="packed")
    assert packed.opset == 7
    assert report.figures["oldest_opset"] == 7
    assert {edit.what for edit in report.edits} == {"bytes"}
    assert len(packed.to_bytes()) < len(dense.to_bytes()) / 3
    samples = {"x": np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    for optimize in (True, False):
        expected = run(dense, samples, optimize=optimize)
        np.testing.assert_array_equal(run(packed, samples, optimize=optimize), expected)


def test_four_sizes_are_kept_apart() -> None:
    dense = quantised(parse_text(CONV_NET), 0.25)
    packed, report = encode(dense, format="packed")
    figures = report.figures
    nonzeros = sum(int(np.count_nonzero(dense.read(site))) for site in dense.sites())
    assert sum(row["nonzeros"] for row in figures["layers"]) == nonzeros
    assert 0 < figures["data_bytes"] < figures["data_and_index_bytes"] < figures["decode_bytes"]
    assert figures["decode_bytes"] < len(packed.to_bytes())


# -- the pass --------------------------------------------------------------------------------


@pytest.mark.parametrize(("density", "levels"), [(0.1, 1), (0.45, 1), (0.95, 1), (0.3, 4), (1.0, 100)])
def test_packed_runs_equal_folds_and_survives_a_reload(
    density: float, levels: int, tmp_path: Path, keep_for_deployment: KeepForDeployment
) -> None:
    dense = quantised(parse_text(CONV_NET), density, levels)
    packed, report = encode(dense, format="packed")
    path = tmp_path / "packed.onnx"
    assert packed.save(path) < len(dense.to_bytes())
    assert report.changed
    samples = feeds(dense)
    expected = run(dense, samples)
    for optimize in (True, False):
        np.testing.assert_allclose(run(path, samples, optimize=optimize), expected, rtol=1e-5, atol=1e-6)
    assert not folded_operators(path, tmp_path) & DECODING
    keep_for_deployment(path, samples, {"scores": expected})


@pytest.mark.parametrize(("name", "stored"), [("packed", []), ("dense", ["h"])])
def test_shapes_that_follow_are_not_stored_beside_decoders(name: str, stored: list[str]) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,64] x) => (float[N,64] y) <float[64,64] w> { h = MatMul (x, w) y = Relu (h) }"""
    proto = onnx.load_from_string(quantised(parse_text(text)).to_bytes())
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 1, ["N", 64]))
    encoded, _ = encode(ModelView.from_bytes(proto.SerializeToString()), format=name)
    proto = onnx.load_from_string(encoded.to_bytes())
    assert [info.name for info in proto.graph.value_info if info.name in ("h", "y")] == stored


def test_an_old_model_is_raised_only_as_far_as_needed() -> None:
    dense = quantised(parse_text(CONV_NET.replace('"" : 17', '"" : 9')), 0.2)
    packed, report = encode(dense, format="packed")
    assert packed.opset == report.figures["oldest_opset"] == 10  # digits need Mod; gaps would need opset 11
    samples = feeds(dense)
    np.testing.assert_allclose(run(packed, samples), run(dense, samples), rtol=1e-5, atol=1e-6)
    bytewise, report = encode(quantised(dense, 1.0, 120), format="packed")
    assert bytewise.opset == 9
    assert report.figures["oldest_opset"] <= 9


def test_unquantised_weights_stay_and_say_why() -> None:
    dense = parse_text(CONV_NET.replace("float[6,4,3,3] w2", "float[6,4,9,9] w2").replace("[3,24]", "[3,6]"))
    _, report = encode(dense, format="packed")
    assert any(skip.layer == "w2" and "quantise it first" in skip.why for skip in report.skipped)


def test_biases_are_rounded_only_when_asked_for() -> None:
    dense = quantised(parse_text(MLP.replace("16", "160")), 0.3)
    samples = feeds(dense)
    expected = run(dense, samples)
    exact, _ = encode(dense, format="packed")
    rounded, report = encode(dense, format="packed", bias_bits=8)
    np.testing.assert_allclose(run(exact, samples), expected, rtol=1e-5, atol=1e-6)
    error = np.abs(run(rounded, samples) - expected).max()
    assert 1e-5 < error < 0.02
    assert len(rounded.to_bytes()) < len(exact.to_bytes())
    assert [row["coding"] for row in report.figures["biases"]] == ["bytes", "float32"]  # 3 numbers stay


def test_float8_biases_are_the_smallest_and_fold(
    tmp_path: Path, keep_for_deployment: KeepForDeployment
) -> None:
    dense = quantised(parse_text(WIDE_NET), 0.2)
    sizes = {}
    kinds = {"int8": {"bias_bits": 8}, "float8": {"bias_bits": 8, "float8_biases": True}}
    for kind, settings in (kinds | {"float16": {"bias_bits": 16}}).items():
        sizes[kind] = len(encode(dense, format="packed", **settings)[0].to_bytes())
    assert sizes["float8"] < sizes["int8"] < sizes["float16"]
    packed, report = encode(dense, format="packed", bias_bits=8, float8_biases=True)
    assert packed.opset == report.figures["oldest_opset"] == 19
    path, samples = tmp_path / "float8.onnx", feeds(dense)
    packed.save(path)
    expected = run(dense, samples)
    np.testing.assert_allclose(run(path, samples), expected, atol=0.05 * np.abs(expected).max())
    assert not folded_operators(path, tmp_path) & DECODING
    keep_for_deployment(path, samples, {"scores": run(path, samples)})


def test_a_zero_bias_is_left_out() -> None:
    dense = quantised(parse_text(CONV_NET), 0.3)
    dense.write_back({"b2": np.zeros(6, np.float32)})
    samples = feeds(dense)
    expected = run(dense, samples)
    packed, _ = encode(dense, format="packed")
    assert packed.nodes("Conv")[1].input(2) is None
    np.testing.assert_allclose(run(packed, samples), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["packed", "qdq", "sparse", "auto"])
def test_a_second_run_changes_nothing(name: str) -> None:
    once, report = encode(quantised(parse_text(CONV_NET), 0.2), format=name)
    assert report.changed
    _, report = encode(once, format=name)
    assert not report.changed


def test_tied_weights_are_stored_once() -> None:
    text = MLP.replace("float[3,16] w2", "float[16,16] w2").replace(
        "transB = 1> (r1, w2", "transB = 1> (g, w2"
    )
    text = text.replace("scores = Gemm", "g = Gemm (r1, w2)\n        scores = Gemm").replace(
        "[N,3]", "[N,16]"
    )
    dense = quantised(parse_text(text.replace("float[3] b2", "float[16] b2")), 0.3)
    packed, _ = encode(dense, format="packed")
    assert len(packed.site("w2").users) == 2
    assert np.array_equal(packed.read("w2"), dense.read("w2"))


# -- the standard's own forms ----------------------------------------------------------------


@pytest.mark.parametrize(("opset", "bits"), [(17, 8), (17, 4), (21, 4)])
def test_qdq_always_writes_a_zero_point(
    opset: int, bits: int, tmp_path: Path, keep_for_deployment: KeepForDeployment
) -> None:
    view = parse_text(CONV_NET.replace('"" : 17', f'"" : {opset}'))
    dense = quantised(view, 0.8, {8: 90, 4: 5}[bits])
    _scale_rows(dense)
    view, report = encode(dense, format="qdq")
    nodes = view.nodes("DequantizeLinear")
    assert len(nodes) == 3
    assert all(len(node.inputs) == 3 for node in nodes)
    assert {row["coding"] for row in report.figures["layers"]} == {f"DequantizeLinear int{bits}"}
    path, samples = tmp_path / "qdq.onnx", feeds(dense)
    view.save(path)
    expected = run(dense, samples)
    np.testing.assert_allclose(run(path, samples), expected, rtol=1e-4, atol=1e-4)
    keep_for_deployment(path, samples, {"scores": expected}, tolerance=2e-2)


def _scale_rows(view: ModelView) -> None:
    for site in view.sites():
        rows = 0.25 + np.arange(site.shape[0]).reshape(-1, *(1,) * (len(site.shape) - 1)) / 8
        view.replace(site, view.read(site) * 8 * rows)


def test_sparse_is_written_sparse_and_read_dense(
    tmp_path: Path, keep_for_deployment: KeepForDeployment
) -> None:
    dense = quantised(parse_text(CONV_NET), 0.05)
    view, report = encode(dense, format="sparse")
    assert report.changed
    path, samples = tmp_path / "sparse.onnx", feeds(dense)
    view.save(path)
    graph = onnx.load(path).graph
    assert len(graph.sparse_initializer) == len(report.edits) > 0
    assert np.array_equal(run(path, samples), run(dense, samples))
    assert np.array_equal(ModelView.load(path).read("w2"), dense.read("w2"))
    keep_for_deployment(path, samples, {"scores": run(dense, samples)})


def test_dense_makes_a_sparse_file_dense_again() -> None:
    dense = quantised(parse_text(CONV_NET), 0.05)
    sparse = ModelView.from_bytes(encode(dense, format="sparse")[0].to_bytes())
    view, report = encode(sparse, format="dense")
    assert report.changed
    assert not onnx.load_from_string(view.to_bytes()).graph.sparse_initializer
    assert onnx.load_from_string(sparse.to_bytes()).graph.sparse_initializer
    assert {row["coding"] for row in report.figures["layers"]} == {"float32"}
    assert dense.sites()
    for site in dense.sites():
        assert np.array_equal(view.read(site.name), dense.read(site))
    assert not encode(view, format="dense")[1].changed


# -- LeNet-5 ---------------------------------------------------------------------------------


def test_lenet_with_3000_kept_ternary_weights_is_a_file_of_2500_bytes(shared: Path, tmp_path: Path) -> None:
    view = ModelView.load(shared / "models" / "lenet5-mnist.onnx")
    proto = onnx.load_from_string(view.to_bytes())
    sizes = {"c1.w": (8, 1, 5, 5), "c2.w": (16, 8, 5, 5), "f1.w": (256, 24), "f2.w": (24, 10)}
    sizes |= {"c1.b": (8,), "c2.b": (16,), "f1.b": (24,)}
    for tensor in proto.graph.initializer:
        if tensor.name in sizes:
            array = onnx.numpy_helper.to_array(tensor)[tuple(slice(n) for n in sizes[tensor.name])]
            if tensor.name.endswith("w"):
                threshold = np.quantile(np.abs(array), 0.7)
                array = (np.sign(array) * (np.abs(array) > threshold) * 0.125).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    del proto.graph.value_info[:]
    dense = ModelView.from_bytes(proto.SerializeToString())
    small, report = encode(dense, format="packed", bias_bits=8, float8_biases=True)
    Minify(strip_metadata=True).run(small, PassContext(reference=dense))
    file_bytes = small.save(tmp_path / "small.onnx")
    assert file_bytes <= 2500
    assert file_bytes - report.figures["data_and_index_bytes"] <= 1000
    assert not folded_operators(tmp_path / "small.onnx", tmp_path) & DECODING


def old_sparse(body: str, width: str, opset: int = 9) -> ModelView:
    """A model of an old opset with a sparse weight, whose digits are decoded by operators of opset 10."""
    text = f"""<ir_version: 4, opset_import: ["" : {opset}]>
    old (float[n,8] x) => (float[n,{width}] y) <float[8,64] w> {{ {body} }}"""
    view = parse_text(text, constants={"s": np.ones(64, np.float32)} if "(t, s" in body else None)
    array = np.zeros((8, 64), np.float32)
    array.reshape(-1)[np.random.default_rng(0).choice(512, 60, replace=False)] = 0.5
    view.replace("w", array)
    return view


def test_a_symbolic_size_of_an_output_does_not_keep_newer_decoders_away() -> None:
    reports = [encode(old_sparse("y = MatMul (x, w)", width), format="packed") for width in ("64", "h2")]
    (fixed, first), (symbolic, second) = reports
    assert fixed.opset == symbolic.opset == 10
    assert first.figures["decode_bytes"] == second.figures["decode_bytes"]
    assert symbolic.signature().outputs[0].shape == ("n", "h2")


def test_a_model_whose_opset_cannot_be_raised_says_so() -> None:
    body = "t = MatMul (x, w) y = BatchNormalization <spatial = 0> (t, s, s, s, s)"
    view = old_sparse(body, "64", opset=8)
    packed, report = encode(view, format="packed")
    assert packed.opset == 8
    assert any("the opset stays 8" in skip.why and "spatial = 0" in skip.why for skip in report.skipped)
