"""Train an AlexNet for CIFAR-10 from random weights, with the trainer of onnx-admm.

    python examples/train_alexnet.py TRAIN TEST OUT.onnx

TRAIN and TEST contain CIFAR-10 in a form that onnx-admm reads: zips or folders of ``class/name.png``, or
``.npz`` files with ``input`` (uint8, n x 3 x 32 x 32, RGB) and ``labels``. OUT.onnx receives the trained
model. The last line printed is the test accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from from_scratch import random_model, train

from onnx_admm.contracts import TrainingSettings
from onnx_admm.data import open_dataset
from onnx_admm.data.readers.preprocessing import Preprocessing
from onnx_admm.runtime.evaluation import evaluate

ALEXNET = """
    <ir_version: 8, opset_import: ["" : 13]>
    alexnet (float[N,3,32,32] input) => (float[N,10] scores)
    {
        a1 = Conv <strides = [2, 2], pads = [2, 2, 2, 2]> (input, conv1_weight, conv1_bias)
        r1 = Relu (a1)
        p1 = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (r1)
        a2 = Conv <pads = [2, 2, 2, 2]> (p1, conv2_weight, conv2_bias)
        r2 = Relu (a2)
        p2 = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (r2)
        a3 = Conv <pads = [1, 1, 1, 1]> (p2, conv3_weight, conv3_bias)
        r3 = Relu (a3)
        a4 = Conv <pads = [1, 1, 1, 1]> (r3, conv4_weight, conv4_bias)
        r4 = Relu (a4)
        a5 = Conv <pads = [1, 1, 1, 1]> (r4, conv5_weight, conv5_bias)
        r5 = Relu (a5)
        p5 = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (r5)
        flat = Flatten (p5)
        a6 = Gemm <transB = 1> (flat, fc6_weight, fc6_bias)
        r6 = Relu (a6)
        a7 = Gemm <transB = 1> (r6, fc7_weight, fc7_bias)
        r7 = Relu (a7)
        scores = Gemm <transB = 1> (r7, fc8_weight, fc8_bias)
    }
"""
WEIGHTS = {
    "conv1": (64, 3, 5, 5),
    "conv2": (192, 64, 5, 5),
    "conv3": (384, 192, 3, 3),
    "conv4": (256, 384, 3, 3),
    "conv5": (256, 256, 3, 3),
    "fc6": (256, 256),
    "fc7": (256, 256),
    "fc8": (10, 256),
}
"""Channels of the one-column AlexNet (Krizhevsky, arXiv 1404.5997), with small fully connected layers."""

PIXELS = Preprocessing(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))


def main() -> None:
    """Train and save the model, and print its test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="CIFAR-10, 50,000 samples")
    parser.add_argument("test", type=Path, help="CIFAR-10, 10,000 samples")
    parser.add_argument("out", type=Path, help="the model to write")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    model = random_model(ALEXNET, WEIGHTS, asked.seed)
    data = open_dataset(asked.train, model, preprocessing=PIXELS)
    settings = TrainingSettings(loss="cross_entropy", batch_size=64, augment=("crop:4", "flip"))
    model = train(model, data, settings, asked.epochs, asked.seed)
    size = model.save(asked.out)
    test = open_dataset(asked.test, model, preprocessing=PIXELS, part="test")
    accuracy = evaluate(model, test).accuracy
    print(f"{asked.out}: {size:,} bytes, {accuracy:.2%} of {len(test)} test images right")


if __name__ == "__main__":
    main()
