"""One small model for each standard operator whose version changes between opsets 7 and 26."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A node: operator, attributes, inputs in order (those that are constants by their place), outputs."""

    op_type: str
    inputs: tuple[np.ndarray | None, ...]
    attributes: dict[str, object]
    since: int = 7
    until: int = 26
    constants: tuple[int, ...] = ()
    outputs: int = 1
    result: tuple[int, int] = (1, 4)  # type and rank, where inference does not tell

    def model(self, opset: int) -> bytes:
        """The node alone, at that opset."""
        names = [f"i{at}" if array is not None else "" for at, array in enumerate(self.inputs)]
        outputs = [f"o{at}" for at in range(self.outputs)]
        node = helper.make_node(self.op_type, names, outputs, name="it", **self.attributes)
        infos, initializers = [], []
        for at, (name, array) in enumerate(zip(names, self.inputs, strict=True)):
            if array is None:
                continue
            if at in self.constants:
                initializers.append(numpy_helper.from_array(array, name))
                continue
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            infos.append(helper.make_tensor_value_info(name, kind, array.shape))
        empty = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph([node], "g", infos, empty, initializers)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
        inferred = onnx.shape_inference.infer_shapes(proto)
        kind, rank = self.result
        for output in inferred.graph.output:
            if not output.type.tensor_type.elem_type or not output.type.tensor_type.HasField("shape"):
                output.CopyFrom(helper.make_tensor_value_info(output.name, kind, [None] * rank))
        return inferred.SerializeToString()

    @property
    def feeds(self) -> Arrays:
        """What is fed."""
        return {
            f"i{at}": array
            for at, array in enumerate(self.inputs)
            if array is not None and at not in self.constants
        }


def f32(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


X2, X3, X4 = f32(3, 5), f32(2, 3, 4), f32(2, 4, 6, 5)
POSITIVE = np.abs(X3) + np.float32(0.1)

# fmt: off
_UNARY = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor",
    "HardSigmoid", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Round",
    "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "Elu",
    "ThresholdedRelu", "Celu", "HardSwish", "Mish", "Hardmax", "Softmax", "LogSoftmax", "Flatten",
    "LpNormalization", "Shape", "Size", "MeanVarianceNormalization", "Transpose", "NonZero", "Det",
]
# fmt: on
_SINCE = {
    "Acosh": 9,
    "Asinh": 9,
    "Atanh": 9,
    "Cosh": 9,
    "Sinh": 9,
    "Erf": 9,
    "IsInf": 10,
    "IsNaN": 9,
    "Round": 11,
    "Sign": 9,
    "ThresholdedRelu": 10,
    "Celu": 12,
    "HardSwish": 14,
    "Mish": 18,
    "MeanVarianceNormalization": 9,
    "NonZero": 9,
    "Det": 11,
}  # fmt: skip
_BINARY = ["Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min", "Mean", "Sum", "MatMul"]
_COMPARING = ["Equal", "Greater", "Less"]
_REDUCING = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


def cases() -> Iterator[Case]:
    """Every case."""
    yield from _elementwise()
    yield from _windows()
    yield from _rearranging()
    yield from _normalising()
    yield from _others()


def _elementwise() -> Iterator[Case]:
    for op_type in _UNARY:
        x = {"Acos": X3 / 4, "Asin": X3 / 4, "Atanh": X3 / 4, "Acosh": POSITIVE + 1, "Log": POSITIVE}.get(
            op_type, f32(2, 4, 4) if op_type == "Det" else X4 if "Mean" in op_type else X3
        )
        yield Case(op_type, (np.sqrt(POSITIVE) if op_type == "Sqrt" else x,), {}, _SINCE.get(op_type, 7))
    for op_type in _BINARY:
        other = f32(4, 3, seed=1) if op_type == "MatMul" else np.abs(f32(4, seed=1)) + 1
        yield Case(op_type, (POSITIVE, other.astype(np.float32)), {})
        if op_type in ("MatMul", "Max", "PRelu"):
            yield Case(op_type, (X3, f32(4, seed=2)), {})
    for op_type in _COMPARING:
        yield Case(op_type, (np.round(X3), np.round(f32(4, seed=1))), {}, 11 if op_type == "Equal" else 7)
    yield Case("GreaterOrEqual", (np.round(X3), np.round(f32(4, seed=1))), {}, 12)
    yield Case("LessOrEqual", (np.round(X3), np.round(f32(4, seed=1))), {}, 12)
    yield Case("Mod", (X3, POSITIVE), {"fmod": 1}, 10)
    yield Case("Where", (X3 > 0, X3, POSITIVE), {}, 9)
    yield Case("Clip", (X3,), {"min": -0.5, "max": 0.25}, until=10)
    yield Case("Clip", (X3,), {"max": 0.25}, until=10)
    yield Case("Clip", (X3,), {}, until=10)
    yield Case("Clip", (X3.astype(np.float64),), {"min": 0.125}, until=10)
    yield Case("Clip", (X3, np.float32(-0.5), np.float32(0.25)), {}, 11, constants=(1, 2))
    yield Case("Dropout", (X3,), {"ratio": 0.25}, until=11)
    yield Case("Dropout", (X3, np.float32(0.25)), {}, 12, constants=(1,))
    for to in (onnx.TensorProto.INT32, onnx.TensorProto.FLOAT16, onnx.TensorProto.BOOL):
        yield Case("Cast", (X3 * 3,), {"to": to})
    yield Case("CastLike", (X3 * 3, i64(1)), {}, 15)
    for axis in (0, 1, 2):
        for op_type in ("Softmax", "LogSoftmax", "Hardmax"):
            yield Case(op_type, (X3,), {"axis": axis})
            yield Case(op_type, (f32(3, 4, 1, 1),), {"axis": 1})
    yield Case("Softmax", (X3,), {"axis": -2}, 11)
    yield Case("Hardmax", (X4,), {"axis": -2}, 11)


def _windows() -> Iterator[Case]:
    w, b = f32(6, 4, 3, 3, seed=1), f32(6, seed=2)
    yield Case("Conv", (X4, w, b), {"pads": [1, 0, 1, 2], "strides": [2, 1]})
    yield Case("Conv", (X4, f32(4, 2, 3, 3), None), {"group": 2, "auto_pad": "SAME_LOWER"})
    yield Case("ConvTranspose", (X4, f32(4, 3, 3, 3), f32(3)), {"strides": [2, 1], "output_padding": [1, 0]})
    for op_type in ("MaxPool", "AveragePool"):
        yield Case(op_type, (X4,), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]})
        yield Case(op_type, (X4,), {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER"})
        yield Case(op_type, (X4,), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 10)
        yield Case(
            op_type,
            (X4,),
            {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
            10,
        )
    yield Case("AveragePool", (X4,), {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1})
    yield Case(
        "AveragePool",
        (X4,),
        {
            "kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1,
            "count_include_pad": 1,
        },
        10,
    )  # fmt: skip
    yield Case("MaxPool", (X4,), {"kernel_shape": [2, 2], "storage_order": 1}, 8, outputs=2)
    yield Case("MaxPool", (X4,), {"kernel_shape": [2, 2], "dilations": [2, 1]}, 10)
    yield Case("LpPool", (X4,), {"kernel_shape": [3, 2], "p": 1})
    for op_type in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield Case(op_type, (X4,), {})
    yield Case("LRN", (X4,), {"size": 3, "alpha": 0.1, "bias": 2.0})
    for mode in ("nearest", "linear"):
        for scales in ((1, 1, 2, 3), (1, 1, 1.5, 1.7), (1, 1, 1, 1)):
            array = np.array(scales, np.float32)
            yield Case("Upsample", (X4,), {"mode": mode, "scales": list(map(float, scales))}, until=8)
            yield Case("Upsample", (X4, array), {"mode": mode}, 9, 9, constants=(1,))
            yield Case("Upsample", (X4, array), {"mode": mode}, 9, 9)
        for scales in (
            (1, 1, 2, 1.5),
            (1, 1, 0.5, 0.6),
            (1, 1, 0.34, 0.75),
            (1, 1, 1.7, 0.7),
            (1, 1, 0.7, 3),
        ):
            array = np.array(scales, np.float32)
            yield Case("Resize", (X4, array), {"mode": mode}, 10, 10, constants=(1,))
    roi = np.zeros(0, np.float32)
    for way in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        for mode in ("nearest", "linear", "cubic"):
            attributes = {"mode": mode, "coordinate_transformation_mode": way}
            scales = np.array([1, 1, 1.5, 0.7], np.float32)
            yield Case("Resize", (X4, roi, scales), attributes, 11, constants=(1, 2))
            sizes = i64(2, 4, 9, 3)
            yield Case("Resize", (X4, roi, roi, sizes), attributes, 11, constants=(1, 2, 3))
    boxes = np.array([[0, 0, 3, 4], [1, 1, 4.5, 3]], np.float32)
    yield Case(
        "RoiAlign",
        (X4, boxes, i64(0, 1)),
        {"output_height": 2, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.8},
        10,
    )
    grid = np.random.default_rng(3).uniform(-1.1, 1.1, (2, 3, 3, 2)).astype(np.float32)
    for attributes in ({}, {"mode": "bicubic"}, {"mode": "nearest", "padding_mode": "border"}):
        yield Case("GridSample", (X4, grid), attributes, 16, 19)


def _rearranging() -> Iterator[Case]:
    yield Case("Squeeze", (f32(1, 3, 1),), {"axes": [0, 2]}, until=12)
    yield Case("Squeeze", (f32(1, 3, 1),), {}, until=12)
    yield Case("Squeeze", (f32(1, 3, 1),), {"axes": [-1]}, 11, 12)
    yield Case("Squeeze", (f32(1, 3, 1), i64(0)), {}, 13, constants=(1,))
    yield Case("Unsqueeze", (X3,), {"axes": [0, 2]}, until=12)
    yield Case("Unsqueeze", (X3, i64(0, 2)), {}, 13, constants=(1,))
    yield Case("Split", (X2,), {"axis": 1, "split": [2, 3]}, until=12, outputs=2)
    yield Case("Split", (X4,), {"axis": 2}, until=12, outputs=3)
    yield Case("Split", (X4,), {"axis": 2}, 13, 17, outputs=2)
    yield Case("Split", (X2, i64(2, 3)), {"axis": 1}, 13, constants=(1,), outputs=2)
    yield Case("Slice", (X3,), {"starts": [0, 1], "ends": [2, -1], "axes": [1, 2]}, until=9)
    yield Case("Slice", (X3,), {"starts": [0, 1], "ends": [2, 1000]}, until=9)
    yield Case("Slice", (X3, i64(3), i64(0), i64(2), i64(-2)), {}, 10, constants=(1, 2, 3, 4))
    for mode, value in (("constant", 0.0), ("constant", 1.5), ("reflect", 0.0), ("edge", 0.0)):
        yield Case("Pad", (X3,), {"pads": [0, 1, 2, 1, 0, 1], "mode": mode, "value": value}, until=10)
        yield Case("Pad", (X3, i64(0, 1, 2, 1, 0, 1)), {"mode": mode}, 11, constants=(1,))
    yield Case("TopK", (X2,), {"k": 2}, until=9, outputs=2)
    yield Case("TopK", (X2, i64(3)), {"axis": 0}, 10, constants=(1,), outputs=2)
    yield Case("TopK", (X2, i64(3)), {"largest": 0}, 11, constants=(1,), outputs=2)
    yield Case("Gather", (X3, i64(0, 2, 1)), {"axis": 1})
    yield Case("GatherElements", (X2, np.array([[0, 1, 2, 0, 1]])), {}, 11)
    yield Case("GatherND", (X3, np.array([[0, 1], [1, 2]])), {}, 11)
    yield Case("Scatter", (X2, np.array([[2, 0, 1, 2, 0]]), f32(1, 5, seed=5)), {}, 9, 10)
    yield Case("ScatterElements", (X2, np.array([[2, 0, 1, 2, 0]]), f32(1, 5, seed=5)), {"axis": 0}, 11)
    yield Case("ScatterND", (X2, np.array([[2], [0]]), f32(2, 5, seed=5)), {}, 11)
    yield Case("Concat", (X3, POSITIVE), {"axis": 1})
    yield Case("Reshape", (X3, i64(0, -1)), {}, constants=(1,))
    yield Case("Expand", (f32(3, 1), i64(2, 1, 4)), {}, 8, constants=(1,))
    yield Case("Tile", (X2, i64(2, 1)), {}, constants=(1,))
    yield Case("DepthToSpace", (f32(1, 8, 2, 3),), {"blocksize": 2})
    yield Case("DepthToSpace", (f32(1, 8, 2, 3),), {"blocksize": 2, "mode": "CRD"}, 11)
    yield Case("SpaceToDepth", (f32(1, 2, 4, 6),), {"blocksize": 2})
    yield Case("Transpose", (X3,), {"perm": [1, 2, 0]})
    yield Case("Flatten", (X4,), {"axis": 2})
    yield Case("Compress", (X2, np.array([True, False, True])), {"axis": 0}, 9, result=(1, 2))
    yield Case("OneHot", (i64(0, 2, 1), i64(4), np.array([0, 1], np.float32)), {}, 9, constants=(1,))
    yield Case("ReverseSequence", (X3, i64(1, 2, 2)), {"time_axis": 0, "batch_axis": 1}, 10)
    yield Case("CumSum", (X2, np.int64(1)), {"reverse": 1}, 11, constants=(1,))
    yield Case("EyeLike", (X2,), {"k": 1}, 9)
    yield Case("ConstantOfShape", (i64(2, 3),), {}, 9)
    yield Case("Unique", (np.round(X2).reshape(-1),), {"sorted": 1}, 11)
    yield Case("Shape", (X3,), {"start": 1}, 15)


def _normalising() -> Iterator[Case]:
    scale, shift, mean, spread = (np.abs(f32(4, seed=seed)) + np.float32(0.5) for seed in range(4))
    yield Case("BatchNormalization", (X4, scale, shift, mean, spread), {"epsilon": 0.01, "momentum": 0.8})
    yield Case("BatchNormalization", (X4, scale, shift, mean, spread), {"spatial": 1}, until=8)
    yield Case("InstanceNormalization", (X4, scale, shift), {})
    for kind in _REDUCING:
        for attributes in ({"axes": [1]}, {"axes": [0, 2], "keepdims": 0}, {}):
            until = 12 if kind == "Sum" else 17
            yield Case(f"Reduce{kind}", (POSITIVE,), attributes, until=until)
        yield Case(f"Reduce{kind}", (POSITIVE, i64(1)), {}, 13 if kind == "Sum" else 18, constants=(1,))
    for op_type in ("ArgMax", "ArgMin"):
        yield Case(op_type, (np.round(X3),), {"axis": 1, "keepdims": 0})


def _others() -> Iterator[Case]:
    yield Case("Gemm", (X2, f32(5, 4), f32(4)), {"alpha": 0.5, "beta": 2.0})
    yield Case("Gemm", (X2, f32(4, 5), f32(3, 1)), {"transB": 1}, constants=(1, 2))
    for layers, op_type in ((4, "LSTM"), (3, "GRU"), (1, "RNN")):
        w, r = f32(1, 5 * layers, 4, seed=1), f32(1, 5 * layers, 5, seed=2)
        yield Case(op_type, (f32(3, 2, 4), w, r, f32(1, 10 * layers)), {"hidden_size": 5}, outputs=2)
    reset = {"hidden_size": 5, "linear_before_reset": 1}
    yield Case("GRU", (f32(3, 2, 4), f32(1, 15, 4), f32(1, 15, 5)), reset)
    codes = np.array([[0, 3, 7], [200, 4, 255]], np.uint8)
    yield Case("DequantizeLinear", (codes, np.float32(0.5), np.uint8(3)), {}, 10, constants=(1, 2))
    yield Case("QuantizeLinear", (X2 * 40, np.float32(0.5), np.uint8(128)), {}, 10, constants=(1, 2))
    per_axis = (f32(3) ** 2 + np.float32(0.1), np.zeros(3, np.int8))
    yield Case("DequantizeLinear", (codes.view(np.int8), *per_axis), {"axis": 1}, 13, constants=(1, 2))
    yield Case("QuantizeLinear", (X2.T * 4, *per_axis), {"axis": 1}, 13, constants=(1, 2))
    scores, boxes = np.abs(f32(1, 2, 5)), np.sort(np.abs(f32(1, 5, 4)), axis=2)
    limits = (i64(3), np.array([0.4], np.float32), np.array([0.1], np.float32))
    yield Case("NonMaxSuppression", (boxes, scores, *limits), {}, 10, constants=(2, 3, 4), result=(7, 2))
    yield Case("Einsum", (X2, f32(5, 4)), {"equation": "ij,jk->ik"}, 12)
    for attributes in ({"axis": 1}, {"axis": 1, "onesided": 1}, {}):
        yield Case("DFT", (f32(2, 6, 4, 1),), attributes, 17, 19)
    yield Case("BitShift", (codes, np.full((2, 3), 2, np.uint8)), {"direction": "RIGHT"}, 11)
