"""Train LeNet-5 on scikit-learn's handwritten digits from random weights, with the trainer of onnx-admm.

    python examples/train_lenet.py FOLDER

FOLDER receives the trained model, ``lenet5.onnx``, and the samples, ``train.npz`` and ``test.npz``: arrays
``x`` (float32, n x 1 x 28 x 28, 0 to 1) and ``labels`` (int64, n).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from from_scratch import random_model, train
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from onnx_admm.contracts import TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.runtime.evaluation import evaluate

LENET5 = """
    <ir_version: 8, opset_import: ["" : 13]>
    lenet5 (float[N,1,28,28] x) => (float[N,10] scores)
    {
        a1 = Conv (x, conv1_weight, conv1_bias)
        p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a1)
        a2 = Conv (p1, conv2_weight, conv2_bias)
        p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a2)
        flat = Flatten (p2)
        a3 = Gemm <transB = 1> (flat, fc1_weight, fc1_bias)
        r3 = Relu (a3)
        scores = Gemm <transB = 1> (r3, fc2_weight, fc2_bias)
    }
"""
WEIGHTS = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the 1,797 images (n, 1, 28, 28), interpolated linearly from 8 x 8, and their labels (n,)."""
    found = load_digits()
    images = ndimage.zoom(found.images / 16, (1, 3.5, 3.5), order=1)[:, None]  # (n, 1, 28, 28)
    return images.astype(np.float32), found.target.astype(np.int64)


def main() -> None:
    """Train and save the model, and print its test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    x, labels = digits()
    x_train, x_test, labels_train, labels_test = train_test_split(
        x, labels, test_size=600, random_state=asked.seed, stratify=labels
    )
    settings = TrainingSettings(loss="cross_entropy", batch_size=32, augment=("shift:2",))
    data = from_arrays({"x": x_train}, labels_train)
    model = train(random_model(LENET5, WEIGHTS, asked.seed), data, settings, asked.epochs, asked.seed)
    asked.folder.mkdir(parents=True, exist_ok=True)
    np.savez(asked.folder / "train.npz", x=x_train, labels=labels_train)
    np.savez(asked.folder / "test.npz", x=x_test, labels=labels_test)
    size = model.save(asked.folder / "lenet5.onnx")
    accuracy = evaluate(model, from_arrays({"x": x_test}, labels_test)).accuracy
    print(
        f"{asked.folder / 'lenet5.onnx'}: {size:,} bytes, {accuracy:.2%} of {len(x_test)} test digits right"
    )


if __name__ == "__main__":
    main()
