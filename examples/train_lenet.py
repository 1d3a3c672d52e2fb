"""Trains LeNet-5 on scikit-learn's handwritten digits, from scratch, through onnx-admm's own trainer.

``python examples/train_lenet.py FOLDER`` writes ``lenet5.onnx``, ``train.npz`` and ``test.npz`` there:
the trained model, and arrays ``x`` (float32, n x 1 x 28 x 28, 0..1) and ``labels`` (int64, n).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from onnx_admm.contracts import ModelView, TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.training.session import OrtTrainer

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


def random_lenet(seed: int) -> ModelView:
    """LeNet-5 with weights drawn from N(0, 2 / fan-in) and biases of zero (He et al., arXiv 1502.01852)."""
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(LENET5)
    for layer, shape in WEIGHTS.items():
        weight = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        bias = np.zeros(shape[0], np.float32)
        for name, array in ((f"{layer}_weight", weight), (f"{layer}_bias", bias)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ModelView.from_bytes(model.SerializeToString())


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 images, 8x8 brought to 28x28 by linear interpolation, and their labels."""
    found = load_digits()
    images = ndimage.zoom(found.images / 16, (1, 3.5, 3.5), order=1)[:, None]  # (n, 1, 28, 28)
    return images.astype(np.float32), found.target.astype(np.int64)


def train(model: ModelView, x: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> ModelView:
    """The model after ``epochs`` passes over the data, learning rate falling linearly to zero."""
    settings = TrainingSettings(loss="cross_entropy", batch_size=32, augment=("shift:2",))
    run = OrtTrainer().open(model, model.sites(), from_arrays({"x": x}, labels), settings, model)
    with run:
        for epoch in range(epochs):
            rates = [1e-3 * (1 - step / epochs) for step in (epoch, epoch + 1)]
            loss = run.epoch(*rates, seed=seed + epoch)
            print(f"epoch {epoch + 1:2} of {epochs}: loss {loss:.4f}")
        return run.export()


def main() -> None:
    """Train, save, and say how well it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    x, labels = digits()
    x_train, x_test, labels_train, labels_test = train_test_split(
        x, labels, test_size=600, random_state=asked.seed, stratify=labels
    )
    model = train(random_lenet(asked.seed), x_train, labels_train, asked.epochs, asked.seed)
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
