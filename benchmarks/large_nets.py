"""Networks with the layers of AlexNet, VGG-16 and ResNet-50, and one of 2.5 GB, with random weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = (3, 224, 224)
"""Channels, height and width of an input."""

Floats = npt.NDArray[np.float32]
Draw = Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]]
"""A random weight of a shape, output channels first, and its bias."""


def gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Independent weights of deviation sqrt(2 / fan-in), and a bias of zeros."""
    weight = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    return weight, np.zeros(shape[0], np.float32)


class Net:
    """Nodes and random weights, put together layer by layer; ``last`` is the value to go on from."""

    def __init__(self, channels: int, draw: Draw) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last, self.channels = "x", channels
        self._draw, self._rng = draw, np.random.default_rng(0)

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node on ``last`` (or the inputs named) whose output is then ``last``."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs or [self.last], [name], **attributes))
        self.last = name
        return name

    def weighted(self, op_type: str, shape: tuple[int, ...], **attributes: Any) -> str:
        """A node with a random weight and bias."""
        name = f"w{len(self.weights)}"
        weight, bias = self._draw(self._rng, shape)
        self.weights.append(numpy_helper.from_array(weight, name))
        self.weights.append(numpy_helper.from_array(bias, f"{name}.bias"))
        self.channels = shape[0]
        return self.add(op_type, self.last, name, f"{name}.bias", **attributes)

    def conv(self, out: int, kernel: int, stride: int = 1, *, relu: bool = True) -> None:
        """A convolution that keeps the size, but for its stride."""
        pads = [kernel // 2] * 4
        self.weighted("Conv", (out, self.channels, kernel, kernel), strides=[stride] * 2, pads=pads)
        if relu:
            self.add("Relu")

    def pool(self, kernel: int, stride: int) -> None:
        """Max pooling."""
        self.add("MaxPool", kernel_shape=[kernel] * 2, strides=[stride] * 2)

    def dense(self, sizes: tuple[int, ...]) -> None:
        """Flatten, and fully connected layers with Relu between them."""
        self.add("Flatten")
        for number, (before, after) in enumerate(itertools.pairwise(sizes)):
            if number:
                self.add("Relu")
            self.weighted("Gemm", (after, before), transB=1)

    def save(self, path: Path) -> None:
        """Write it with an open batch."""
        shape = ["N", *IMAGE]
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, ["N", self.channels])],
            self.weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def alexnet(draw: Draw = gaussian) -> Net:
    """Krizhevsky, One weird trick, arXiv 1404.5997: 61 M weights."""
    net = Net(3, draw)
    net.conv(64, 11, 4)
    net.pool(3, 2)
    net.conv(192, 5)
    net.pool(3, 2)
    for channels in (384, 256, 256):
        net.conv(channels, 3)
    net.pool(3, 2)
    net.dense((256 * 6 * 6, 4096, 4096, 1000))
    return net


def vgg16(draw: Draw = gaussian) -> Net:
    """Simonyan and Zisserman, arXiv 1409.1556, configuration D: 138 M weights."""
    net = Net(3, draw)
    for channels, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            net.conv(channels, 3)
        net.pool(2, 2)
    net.dense((512 * 7 * 7, 4096, 4096, 1000))
    return net


def resnet50(draw: Draw = gaussian) -> Net:
    """He et al., arXiv 1512.03385, BatchNormalization folded: 25.6 M weights."""
    net = Net(3, draw)
    net.conv(64, 7, 2)
    net.pool(3, 2)
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            entry, channels = net.last, net.channels
            net.conv(width, 1)
            net.conv(width, 3, stride)
            net.conv(4 * width, 1, relu=False)
            branch = net.last
            if block == 0:
                net.last, net.channels = entry, channels
                net.conv(4 * width, 1, stride, relu=False)
                entry = net.last
            net.add("Add", entry, branch)
            net.add("Relu")
    net.add("GlobalAveragePool")
    net.dense((2048, 1000))
    return net


def save_huge(path: Path) -> None:
    """2.5 GB of MatMul and Gemm weights in a file beside the model, written one after the other."""
    nodes, weights, offset, last = list[onnx.NodeProto](), list[onnx.TensorProto](), 0, "x"
    rng = np.random.default_rng(0)
    with open(path.with_name(f"{path.name}.data"), "wb") as data:
        for number in range(19):
            shape = (4096, 8192)
            tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": f"{path.name}.data", "offset": offset, "length": 4 * shape[0] * shape[1]}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            weight = rng.standard_normal(shape, np.float32) * np.float32((2 / shape[0]) ** 0.5)
            offset += data.write(weight.tobytes())
            weights.append(tensor)
            kind = ("Gemm", {"transB": 1}) if number % 2 else ("MatMul", {})
            nodes.append(helper.make_node(kind[0], [last, tensor.name], [f"v{number}"], **kind[1]))
            last = f"v{number}"
    graph = helper.make_graph(
        nodes,
        "huge",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4096])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 8192])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


NETS: dict[str, Callable[[Path], None]] = {
    "alexnet": lambda path: alexnet().save(path),
    "vgg16": lambda path: vgg16().save(path),
    "resnet50": lambda path: resnet50().save(path),
    "huge": save_huge,
}
