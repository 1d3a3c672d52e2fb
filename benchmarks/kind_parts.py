"""What the models of ``kinds.py`` are made of: a graph under construction, and parts that several have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh

FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


class Net:
    """A graph under construction: nodes, weights and the value that the next layer reads."""

    def __init__(self, name: str, shape: Sequence[int | str], dtype: int = FLOAT) -> None:
        self.rng = np.random.default_rng(0)
        self.name, self.last = name, "x"
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs = [oh.make_tensor_value_info("x", dtype, list(shape))]
        self.outputs: list[onnx.ValueInfoProto] = []
        self.opsets = {"": 17}
        self.count = 0

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """A normal random weight; by default it keeps the variance of what it multiplies."""
        fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        spread = (1.5 / fan_in) ** 0.5 if scale is None else scale
        return self.constant(self.rng.normal(0.0, spread, shape).astype(np.float32))

    def constant(self, array: Any) -> str:
        """A stored array."""
        name = f"w{len(self.weights)}"
        self.weights.append(nh.from_array(np.asarray(array), name))
        return name

    def add(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> str:
        """A node on the last value, which ``@`` stands for among inputs; its first output."""
        names = [self.last if name == "@" else name for name in inputs or ("@",)]
        self.count += 1
        outs = [f"v{self.count}_{i}" if i else f"v{self.count}" for i in range(outputs)]
        self.nodes.append(oh.make_node(op, names, outs, f"n{self.count}", domain=domain, **attributes))
        self.last = outs[0]
        return self.last

    def conv(self, to: int, of: int, kernel: int = 3, *, group: int = 1, stride: int = 1) -> str:
        """A convolution with bias and Relu."""
        weight = self.weight(to, of // group, kernel, kernel)
        bias = self.weight(to, scale=0.1)
        self.add("Conv", "@", weight, bias, group=group, strides=[stride] * 2, pads=[kernel // 2] * 4)
        return self.add("Relu")

    def linear(self, of: int, to: int) -> str:
        """A product with a bias."""
        self.add("MatMul", "@", self.weight(of, to))
        return self.add("Add", "@", self.weight(to, scale=0.1))

    def output(self, value: str | None = None, dtype: int = FLOAT) -> None:
        """Make a value an output."""
        self.outputs.append(oh.make_tensor_value_info(value or self.last, dtype, None))

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        graph = oh.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        opsets = [oh.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        model = oh.make_model(graph, opset_imports=opsets, ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def backbone(net: Net, width: int = 64) -> Net:
    """Four convolutions that halve an image twice."""
    net.conv(width // 2, 3, stride=2)
    net.conv(width, width // 2, stride=2)
    net.conv(width, width)
    net.conv(width, width)
    return net


def candidates(net: Net, width: int = 64) -> tuple[str, str]:
    """Scores (batch, places, 4 classes) and boxes (batch, places, 4) of every place of an image."""
    features = backbone(net, width).last
    found = []
    for scale in (2.0, 1.0):
        net.add("Conv", features, net.weight(4, width, 1, 1, scale=scale / width**0.5))
        net.add("Reshape", "@", net.constant(np.array([0, 4, -1])))
        found.append(net.add("Transpose", perm=[0, 2, 1]))
    return net.add("Sigmoid", found[0]), found[1]
