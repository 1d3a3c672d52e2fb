"""Write a small model of each kind that compressors tend to leave alone; ``bare.py`` then compresses them.

    python benchmarks/kinds.py FOLDER
    python benchmarks/bare.py FOLDER SETS PREPARED benchmarks/results/kinds.json --ways bare

Weights are random with a fixed seed and scaled so that activations neither vanish nor grow: the rows show
what is stored and whether outputs are kept, not accuracy. No name or layout is taken from a published model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
from kind_parts import FLOAT, INT, Net, backbone, candidates


def detector() -> Net:
    """A one-stage detector: its box head sums over a fixed kernel 0..15."""
    net = backbone(Net("detector", ["batch", 3, 64, 64]))
    net.add("Conv", "@", net.weight(64, 64, 1, 1, scale=0.4))
    net.add("Reshape", "@", net.constant(np.array([0, 4, 16, -1])))
    net.add("Transpose", perm=[0, 2, 1, 3])
    net.add("Softmax", axis=1)
    net.add("Conv", "@", net.constant(np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)))
    net.output()
    return net


def edges() -> Net:
    """Fixed Sobel and blur kernels in front of learned convolutions."""
    net = Net("edges", ["batch", 3, 64, 64])
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
    fixed = np.zeros((3, 3, 3, 3), np.float32)
    fixed[range(3), range(3)] = sobel
    net.add("Conv", "@", net.constant(fixed), pads=[1] * 4)
    backbone(net).output()
    return net


def speech_noise() -> Net:
    """A decoder of speech that adds random noise inside the graph."""
    net = Net("speech_noise", [1, 64, "frames"])
    noise = net.add("RandomNormalLike", "x", scale=0.3)
    net.add("Add", "x", noise)
    for width in (64, 96, 96):
        net.add("Conv", "@", net.weight(96, width, 5), pads=[2, 2])
        net.add("LeakyRelu", alpha=0.1)
    net.add("ConvTranspose", "@", net.weight(96, 32, 8, scale=0.06), strides=[4], pads=[2, 2])
    net.add("Tanh")
    net.output()
    return net


def logarithms() -> Net:
    """Log features, then a recurrent layer whose state is an input of one row for each sample."""
    net = Net("logarithms", ["batch", 20, 40])
    net.inputs.append(oh.make_tensor_value_info("h0", FLOAT, [1, "batch", 64]))
    net.add("Log")
    net.add("Transpose", perm=[1, 0, 2])
    weights = net.weight(1, 192, 40, scale=0.15), net.weight(1, 192, 64, scale=0.12)
    last = net.add("GRU", "@", *weights, "", "", "h0", outputs=2, hidden_size=64)
    net.output(last + "_1")
    net.last = net.add("Squeeze", last, net.constant(np.array([1])))
    net.linear(64, 80)
    net.output()
    return net


def counts() -> Net:
    """Probabilities that are counted in the graph: the output is how many pixels pass a threshold."""
    net = backbone(Net("counts", ["batch", 3, 64, 64]))
    net.conv(1, 64, 1)
    net.add("Sigmoid")
    net.add("Greater", "@", net.constant(np.float32(0.6)))
    net.add("Cast", to=FLOAT)
    net.add("ReduceSum", "@", net.constant(np.array([1, 2, 3])), keepdims=0)
    net.output()
    return net


def unsorted() -> Net:
    """Nodes in reverse order, as some converters write them."""
    net = backbone(Net("unsorted", ["batch", 3, 64, 64]))
    net.output()
    net.nodes.reverse()
    return net


def fused() -> Net:
    """Operators that ONNX Runtime's own optimiser writes."""
    net = Net("fused", ["batch", 16, 64])
    net.opsets["com.microsoft"] = 1
    net.add(
        "Attention", "@", net.weight(64, 192), net.weight(192, scale=0.1), domain="com.microsoft", num_heads=4
    )
    skip = net.add("Add", "x", "@")
    net.add("FusedMatMul", "@", net.weight(256, 64, scale=0.12), domain="com.microsoft", transB=1)
    net.add("BiasGelu", "@", net.weight(256, scale=0.1), domain="com.microsoft")
    net.linear(256, 64)
    ones, zeros = net.constant(np.ones(64, np.float32)), net.constant(np.zeros(64, np.float32))
    net.add("SkipLayerNormalization", "@", skip, ones, zeros, domain="com.microsoft", epsilon=1e-5)
    net.output()
    return net


def fused_conv() -> Net:
    """FusedConv, as in models saved after optimisation."""
    net = Net("fused_conv", ["batch", 3, 64, 64])
    net.opsets["com.microsoft"] = 1
    for to, of in ((48, 3), (64, 48), (64, 64)):
        net.add(
            "FusedConv", "@", net.weight(to, of, 3, 3), net.weight(to, scale=0.1),
            domain="com.microsoft", activation="Relu", pads=[1] * 4, strides=[2, 2],
        )  # fmt: skip
    net.output()
    return net


def traced() -> Net:
    """An exporter's stack trace on every node."""
    net = backbone(Net("traced", ["batch", 3, 64, 64]), 32)
    net.output()
    for node in net.nodes:
        node.doc_string = f'File "model.py", line 12, in forward\n    x = self.block(x)  # {node.name}\n' * 90
    return net


def branches() -> Net:
    """Equal weights in both branches of an If."""
    net = Net("branches", ["batch", 128])
    net.inputs.append(oh.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
    weight = net.rng.normal(0, 0.1, (128, 256)).astype(np.float32)

    def branch(op: str) -> onnx.GraphProto:
        nodes = [
            oh.make_node("MatMul", ["x", f"{op}_w"], [f"{op}_y"]),
            oh.make_node(op, [f"{op}_y"], [f"{op}_z"]),
        ]
        output = oh.make_tensor_value_info(f"{op}_z", FLOAT, None)
        return oh.make_graph(nodes, op, [], [output], [nh.from_array(weight, f"{op}_w")])

    net.last = net.add("If", "flag", then_branch=branch("Relu"), else_branch=branch("Tanh"))
    net.linear(256, 64)
    net.output()
    return net


def loop_state() -> Net:
    """A weight that a Loop carries as state."""
    net = Net("loop_state", ["batch", 96])
    body = oh.make_graph(
        [
            oh.make_node("MatMul", ["state", "w"], ["product"]),
            oh.make_node("Tanh", ["product"], ["state_out"]),
            oh.make_node("Identity", ["w"], ["w_out"]),
            oh.make_node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [
            oh.make_tensor_value_info("i", INT, []),
            oh.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("state", FLOAT, ["batch", 96]),
            oh.make_tensor_value_info("w", FLOAT, [96, 96]),
        ],
        [
            oh.make_tensor_value_info("go_out", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("state_out", FLOAT, ["batch", 96]),
            oh.make_tensor_value_info("w_out", FLOAT, [96, 96]),
        ],
    )
    turns, go = net.constant(np.array(3)), net.constant(np.array(True))
    net.add("Loop", turns, go, "x", net.weight(96, 96), outputs=2, body=body)
    net.linear(96, 64)
    net.output()
    return net


def tied_head() -> Net:
    """A language model whose head is its table of embeddings, transposed."""
    net = Net("tied_head", ["batch", 12], INT)
    table = net.weight(600, 64, scale=1.0)
    net.add("Gather", table, "x")
    net.linear(64, 128)
    net.add("Relu")
    net.linear(128, 64)
    hidden = net.last
    turned = net.add("Transpose", table, perm=[1, 0])
    net.add("MatMul", hidden, turned)
    net.output()
    return net


def untied_head() -> Net:
    """The same, with the transposed table stored a second time."""
    net = Net("untied_head", ["batch", 12], INT)
    table = net.weight(600, 64, scale=1.0)
    head = net.constant(nh.to_array(net.weights[0]).T.copy())
    net.add("Gather", table, "x")
    net.linear(64, 64)
    net.add("MatMul", "@", head)
    net.output()
    return net


def mobile() -> Net:
    """Depthwise and pointwise convolutions."""
    net = Net("mobile", ["batch", 3, 64, 64])
    net.conv(32, 3, stride=2)
    for of, to in ((32, 64), (64, 96), (96, 128), (128, 128), (128, 128)):
        net.conv(of, of, group=of, stride=1 + (of != to))
        net.conv(to, of, 1)
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.linear(128, 100)
    net.add("Softmax")
    net.output()
    return net


def decayed() -> Net:
    """Channels that weight decay has driven below 1e-30."""
    net = backbone(Net("decayed", ["batch", 3, 64, 64]))
    for tensor in net.weights:
        array = nh.to_array(tensor).copy()
        if array.ndim == 4 and array.shape[1] > 3:
            array[::7] *= np.float32(1e-33)
            tensor.CopyFrom(nh.from_array(array, tensor.name))
    net.output()
    return net


def filters() -> Net:
    """A fixed Fourier transform in front of learned layers."""
    net = Net("filters", ["batch", 1, 4096])
    time, frequency = np.arange(256), np.arange(129)
    angle = 2 * np.pi * np.outer(frequency, time) / 256
    basis = np.concatenate([np.cos(angle), -np.sin(angle)]) * np.hanning(256)
    net.add("Conv", "@", net.constant(basis[:, None].astype(np.float32)), strides=[128])
    net.add("Abs")
    for of, to in ((258, 64), (64, 64)):
        net.add("Conv", "@", net.weight(to, of, 3), pads=[1, 1])
        net.add("Relu")
    net.output()
    return net


def queries() -> Net:
    """A detector whose TopK chooses the boxes with the best scores."""
    net = Net("queries", ["batch", 3, 64, 64])
    scores, boxes = candidates(net)
    net.add("Reshape", scores, net.constant(np.array([0, -1])))
    best = net.add("TopK", "@", net.constant(np.array([20])), outputs=2, axis=1)
    net.output(best)
    net.add("Div", best + "_1", net.constant(np.array(4)))
    net.add("Unsqueeze", "@", net.constant(np.array([2])))
    net.add("Expand", "@", net.constant(np.array([1, 1, 4])))
    net.add("GatherElements", boxes, "@", axis=1)
    net.output()
    return net


def suppressed() -> Net:
    """A detector with NonMaxSuppression in its graph."""
    net = Net("suppressed", [1, 3, 64, 64])
    scores, boxes = candidates(net)
    net.add("Transpose", scores, perm=[0, 2, 1])
    limits = (np.array([20]), np.array([0.5], np.float32), np.array([0.3], np.float32))
    net.add("NonMaxSuppression", boxes, "@", *map(net.constant, limits))
    net.add("Gather", "@", net.constant(np.array([0, 2])), axis=1)
    net.add("GatherND", boxes, "@")
    net.output()
    return net


def cached() -> Net:
    """A step of a decoder: one head of attention over the keys and values of earlier steps."""
    net = Net("cached", ["batch", "sequence"], INT)
    past: list[str | int | None] = ["batch", 1, "past_sequence_length", 64]
    for each in ("key", "value"):
        net.inputs.append(oh.make_tensor_value_info(f"past_key_values.0.{each}", FLOAT, past))
    hidden = net.add("Gather", net.weight(500, 64, scale=1.0), "x")
    joined = []
    for each in ("query", "key", "value"):
        net.add("MatMul", hidden, net.weight(64, 64))
        split = net.add("Unsqueeze", "@", net.constant(np.array([1])))
        if each != "query":
            split = net.add("Concat", f"past_key_values.0.{each}", split, axis=2)
            net.output(split)
        joined.append(split)
    turned = net.add("Transpose", joined[1], perm=[0, 1, 3, 2])
    net.add("MatMul", joined[0], turned)
    net.add("Mul", "@", net.constant(np.float32(0.125)))
    net.add("Softmax", axis=-1)
    net.add("MatMul", "@", joined[2])
    net.add("Squeeze", "@", net.constant(np.array([1])))
    net.add("Add", "@", hidden)
    net.linear(64, 256)
    net.add("Relu")
    net.linear(256, 500)
    net.output()
    return net


def landmarks() -> Net:
    """A regressor with many outputs, which is no classifier."""
    net = backbone(Net("landmarks", ["batch", 3, 64, 64]), 48)
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.linear(48, 256)
    net.add("Relu")
    net.linear(256, 63)
    net.output()
    return net


def recurrent() -> Net:
    """A bidirectional LSTM with a classifier."""
    net = Net("recurrent", ["batch", 24, 40])
    net.add("Transpose", perm=[1, 0, 2])
    weights = net.weight(2, 256, 40, scale=0.15), net.weight(2, 256, 64, scale=0.12)
    net.add("LSTM", "@", *weights, hidden_size=64, direction="bidirectional")
    net.add("Transpose", perm=[0, 2, 1, 3])
    net.add("Reshape", "@", net.constant(np.array([0, 0, 128])))
    net.linear(128, 97)
    net.add("LogSoftmax", axis=2)
    net.output()
    return net


KINDS: tuple[Callable[[], Net], ...] = (
    branches, cached, counts, decayed, detector, edges, filters, fused, fused_conv, landmarks, logarithms,
    loop_state, mobile, queries, recurrent, speech_noise, suppressed, tied_head, traced, unsorted,
    untied_head,
)  # fmt: skip


def main() -> None:
    """Write every kind."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        onnx.save(kind().model(), folder / f"{kind.__name__}.onnx")


if __name__ == "__main__":
    main()
