"""Small valid files of every format that is parsed, made by code: what mutants are mutants of."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.pipeline import Pipeline

CONV = """
    <ir_version: 10, opset_import: ["" : 17]>
    conv (float[N,1,8,8] x) => (float[N,3] scores)
    <
        float[4,1,3,3] w1, float[4] b1, float[4] g, float[4] b, float[4] m, float[4] v,
        float[3,64] w2, float[3] b2
    >
    {
        c = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        n = BatchNormalization (c, g, b, m, v)
        r = Relu (n)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        f = Flatten (p)
        scores = Gemm <transB = 1> (f, w2, b2)
    }"""

MLP = """
    <ir_version: 8, opset_import: ["" : 13]>
    mlp (float[N,8] x) => (float[N,3] scores)
    <float[8,16] w1, float[16] b1, float[3,16] w2, float[3] b2>
    {
        m1 = MatMul (x, w1)
        a1 = Add (m1, b1)
        r1 = Relu (a1)
        scores = Gemm <transB = 1, alpha = 0.5> (r1, w2, b2)
    }"""

SHAPES = """
    <ir_version: 10, opset_import: ["" : 18]>
    shapes (float[N,4,6] x) => (float[N,24] y)
    <float[24,24] w, int64[2] to = {0, -1}, float[1] s = {2.0}, float[5,4] table>
    {
        f = Reshape (x, to)
        one = Constant <value = int64[2] {1, 3}> ()
        rows = Gather (table, one)
        flat = ReduceSum <keepdims = 0> (rows)
        e = Mul (s, flat)
        m = MatMul (f, w)
        y = Mul (m, e)
    }"""

BRANCHES = """
    <ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    branches (float[N,4] x, bool c) => (float[N,4] y)
    <float[4,4] w>
    {
        z = If (c) <
            then_branch = yes () => (float[N,4] t) <float[4,4] u> { t = MatMul (x, u) },
            else_branch = no () => (float[N,4] e) { e = own.twice (x) }
        >
        y = MatMul (z, w)
    }
    <domain: "own", opset_import: ["" : 17]>
    twice (a) => (b) { b = Add (a, a) }"""

LSTM = """
    <ir_version: 10, opset_import: ["" : 17]>
    lstm (float[5,1,3] x) => (float[5,1,1,4] y)
    <float[1,16,3] w, float[1,16,4] r, float[1,32] b>
    { y, h, c = LSTM <hidden_size = 4> (x, w, r, b) }"""


def _encoded(form: str) -> bytes:
    view = parse_text(MLP)
    made = Pipeline([ReconstructLayers(ratio=3.0, bits=4), Encode(format=form)]).run(view)  # type: ignore[arg-type]
    return made.model.to_bytes()


def _sparse() -> bytes:
    model = onnx.ModelProto.FromString(parse_text(MLP).to_bytes())
    dense = numpy_helper.to_array(model.graph.initializer[0]).copy()
    del model.graph.initializer[0]
    positions = np.arange(0, dense.size, 7, dtype=np.int64)
    values = numpy_helper.from_array(dense.reshape(-1)[positions], "w1")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(positions), list(dense.shape))
    )
    return model.SerializeToString()


def _classes() -> bytes:
    """A classifier as scikit-learn's exporter writes it: a map output, and names of classes."""
    scores = helper.make_node("MatMul", ["x", "w"], ["s"])
    maps = helper.make_node("ZipMap", ["s"], ["m"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    output = helper.make_value_info("m", helper.make_sequence_type_proto(kind))
    graph = helper.make_graph(
        [scores, maps],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [output],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, ir_version=8, opset_imports=imports).SerializeToString()


def _typed() -> bytes:
    """Constants of many types, in typed fields and as raw bytes, and metadata everywhere."""
    tensors = [
        helper.make_tensor("f16", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("b16", TensorProto.BFLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("i4", TensorProto.INT4, [3], [1, -2, 3]),
        helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"\xff"]),
        helper.make_tensor("flag", TensorProto.BOOL, [], [True]),
        helper.make_tensor("c", TensorProto.COMPLEX64, [1], [1 + 2j]),
        numpy_helper.from_array(np.ones((4, 4), np.float64), "w"),
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "n")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 4])],
        tensors,
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    for holder in (model, graph.node[0], model.graph.initializer[0]):
        holder.metadata_props.add(key="onnx_admm.passes", value="encode")
    return model.SerializeToString()


@cache
def models() -> tuple[bytes, ...]:
    """Return models: layers of all kinds, subgraphs, functions, maps, sparse and encoded weights."""
    texts = [parse_text(text).to_bytes() for text in (CONV, MLP, SHAPES, BRANCHES, LSTM)]
    return (*texts, *map(_encoded, ("packed", "qdq", "sparse")), _sparse(), _classes(), _typed())


def data_model() -> ModelView:
    """Return the model that data files are opened for: images of 8 x 8 in one input."""
    return _data_model()


@cache
def _data_model() -> ModelView:
    return parse_text(CONV)


def _npz(save: Callable[..., None]) -> bytes:
    stream = io.BytesIO()
    images = np.random.default_rng(0).normal(size=(6, 1, 8, 8)).astype(np.float32)
    save(stream, x=images, labels=np.arange(6) % 3)
    return stream.getvalue()


@cache
def npz_files() -> tuple[bytes, ...]:
    """Return data as ``.npz``, stored and compressed."""
    return _npz(np.savez), _npz(np.savez_compressed)


@cache
def idx_files() -> tuple[bytes, ...]:
    """Return idx images, plain and gzipped."""
    plain = b"\0\0\x08\x03" + struct.pack(">3L", 5, 8, 8) + bytes(range(64)) * 5
    return plain, gzip.compress(plain, mtime=0)


@cache
def image_zips() -> tuple[bytes, ...]:
    """Return zips of two classes of images, one for each format that is read."""
    from PIL import Image

    found = []
    for kind in ("PNG", "JPEG", "BMP", "WEBP"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("a/0", "b/1"):
                image = io.BytesIO()
                Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(image, kind)
                archive.writestr(f"{name}.{kind.lower()}", image.getvalue())
        found.append(stream.getvalue())
    return tuple(found)


@cache
def tensors() -> tuple[bytes, ...]:
    """Return ``input_0.pb`` files."""
    return (numpy_helper.from_array(np.ones((1, 1, 8, 8), np.float32), "x").SerializeToString(),)


RECIPES = (
    b"""fine_tune = false
cost_model = "roofline:raspberry-pi-4,uncertainty=0.3"
[bind]
N = 1
[preprocessing]
scale = 0.0039
mean = [0.5]
std = [0.25]
size = [8, 8]
[training]
batch_size = 8
loss = "mse"
augment = ["shift:1", "flip"]
[[pass]]
name = "admm_prune"
ratio = 3.0
epochs = 1
[[pass]]
name = "encode"
format = "packed"
bias_bits = 8
""",
    b"""[[pass]]
name = "reconstruct_layers"
layers = { "w1" = 0.5, "*" = 0.25 }
bits = 4
samples = 16
[[pass]]
name = "meet_budget"
budget = ["size=10x"]
bits = [2, 3, 4]
[[pass]]
name = "admm_quantize"
fractions = [0.5, 1.0]
bits = 4
""",
)

PREPROCESSING = (
    b'scale = 0.004\nmean = [0.5]\nstd = [0.2]\nchannels = "L"\nlayout = "NCHW"\nsize = [8, 8]\n',
)

DESCRIPTIONS = (b'path = "data.npz"\npart = "train"\nscale = 1.0\nmean = [0.0]\n',)

PROFILES = (
    b"""device = "board"
bandwidth_gb_s = 4.0
overhead_us = 3.0
peak_gmac_s = { float32 = 8.0, int8 = 16.0 }
weight_bits = [8, 16, 32]
energy_pj_mac = { float32 = 4.6 }
energy_pj_byte = 100.0
uncertainty = 0.5
[[sparse]]
structure = "2:4"
operators = ["Gemm"]
speedup = [[0.5, 1.5], [0.1, 2.4]]
index_bits = 2.0
""",
)

TIMINGS = (
    json.dumps(
        {"environment": "here", "timings": {"switch": [1e-6, 1e-7], "a kernel": [2e-5, 0.0]}}
    ).encode(),
)
