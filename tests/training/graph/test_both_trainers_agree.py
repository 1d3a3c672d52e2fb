"""Both trainers make the same steps: gradients and optimizer agree, weight by weight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_models import needs_training_build

from onnx_admm.contracts import Dataset, ModelView, Trainer, TrainingSettings
from onnx_admm.data import Preprocessing, from_arrays, open_dataset
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.training.graph.trainer import GraphTrainer
from onnx_admm.training.session import OrtTrainer

pytestmark = needs_training_build

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'

# Without BatchNormalization, whose statistics onnxruntime-training does not keep, and without an AveragePool,
# whose gradient ends its process.
CONVOLUTIONS = """g (float[N,3,10,10] x) => (float[N,4] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,4,3,3] w2, float[8,8,1,1] w3, float[8,4] w4, float[4] b4>
    {
        c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1], group = 2> (r1, w2)
        l2 = LeakyRelu <alpha = 0.1> (c2)
        c3 = Conv (l2, w3)
        a3 = Add (c3, r1)
        q3 = GlobalAveragePool (a3)
        f3 = Flatten (q3)
        y = Gemm (f3, w4, b4)
    }"""
ATTENTION = """g (int64[N,6] x) => (float[N,5] y)
    <float[11,8] table, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8] scale, float[8] shift,
     float[8,5] head, float root = {0.35355339}>
    {
        e = Gather (table, x)
        n, mean, deviation = LayerNormalization (e, scale, shift)
        q = MatMul (n, wq)
        k = MatMul (n, wk)
        v = MatMul (n, wv)
        kt = Transpose <perm = [0, 2, 1]> (k)
        qk = MatMul (q, kt)
        s = Mul (qk, root)
        p = Softmax <axis = -1> (s)
        o = MatMul (p, v)
        h = Add (o, e)
        z = ReduceMean <axes = [1], keepdims = 0> (h)
        t = Tanh (z)
        y = MatMul (t, head)
    }"""


def images() -> Dataset:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 3, 10, 10)).astype(np.float32)
    return from_arrays({"x": x}, rng.integers(0, 4, 64))


def tokens() -> Dataset:
    rng = np.random.default_rng(1)
    return from_arrays({"x": rng.integers(0, 11, (64, 6))}, rng.integers(0, 5, 64))


def trained(
    trainer: Trainer, model: ModelView, data: Dataset, settings: TrainingSettings
) -> dict[str, np.ndarray]:
    with trainer.open(model, model.sites(), data, settings, model) as run:
        targets = {site.name: np.zeros(site.shape, np.float32) for site in model.sites()}
        run.set_proximal_term(targets, dict.fromkeys(targets, 1e-3))
        run.epoch(1e-3, 1e-4, seed=0)
        return dict(run.tensors())


def furthest(model: ModelView, data: Dataset, settings: TrainingSettings) -> float:
    """The largest difference of a weight, relative to the largest of its tensor."""
    ours, theirs = (trained(one, model, data, settings) for one in (GraphTrainer(), OrtTrainer()))
    assert ours.keys() == theirs.keys()
    moved = {
        name: np.abs(array - model.read(name)).max() for name, array in ours.items() if name in sites(model)
    }
    assert all(moved.values())
    return max(float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max()) for name in ours)


def sites(model: ModelView) -> set[str]:
    return {site.name for site in model.sites()}


@pytest.mark.parametrize("loss", ["cross_entropy", "blend"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("text", "data"), [(CONVOLUTIONS, images()), (ATTENTION, tokens())], ids=["images", "tokens"]
)
def test_steps_are_the_same(text: str, data: Dataset, weight_decay: float, loss: str) -> None:
    settings = TrainingSettings(loss=loss, batch_size=16, threads=1, weight_decay=weight_decay)
    assert furthest(parse_text(f"{HEADER} {text}", 0), data, settings) < 1e-5


def test_clipped_steps_are_the_same() -> None:
    settings = TrainingSettings(loss="cross_entropy", batch_size=16, threads=1, max_gradient_norm=1e-3)
    model = parse_text(f"{HEADER} {CONVOLUTIONS}", 0)
    assert furthest(model, images(), settings) < 1e-5
    clipped, free = (
        trained(GraphTrainer(), model, images(), each)
        for each in (settings, replace(settings, max_gradient_norm=None))
    )
    assert any(np.abs(clipped[name] - free[name]).max() > 1e-5 for name in free)


REAL = {
    "lenet5-mnist": ("mnist", Preprocessing(scale=1 / 255)),
    "resnet8-cifar10": (
        "cifar10/cifar10-train.zip",
        Preprocessing(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)),
    ),
}


@pytest.mark.parametrize("name", list(REAL))
def test_steps_on_real_models_are_the_same(shared: Path, name: str) -> None:
    """Images have constant parts, where every element of a window is the largest."""
    model = ModelView.load(shared / "models" / f"{name}.onnx")
    place, preprocessing = REAL[name]
    data = open_dataset(shared / "datasets" / place, model, preprocessing=preprocessing)
    some = data.select(np.random.default_rng(0).permutation(len(data))[:320])
    settings = TrainingSettings(loss="auto", batch_size=64, threads=1)
    assert furthest(model, some, settings) < 1e-5
