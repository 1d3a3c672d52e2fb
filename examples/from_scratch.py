"""Build models from text with random weights, and train them with the trainer of onnx-admm."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_admm.contracts import Dataset, ModelView, TrainingSettings
from onnx_admm.training.trainers import make_trainer


def random_model(text: str, weights: Mapping[str, tuple[int, ...]], seed: int) -> ModelView:
    """Return the model of a text, with random weights and biases of zero.

    Weights are drawn from N(0, 2 / fan-in).

    Args:
        text: a graph in ONNX's textual form; its layers read ``NAME_weight`` and ``NAME_bias``.
        weights: shape of the weight of each NAME, output channels first.
        seed: seed of the random weights.

    Source: He et al., arXiv 1502.01852.
    """
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(text)
    for layer, shape in weights.items():
        weight = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        bias = np.zeros(shape[0], np.float32)
        for name, array in ((f"{layer}_weight", weight), (f"{layer}_bias", bias)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ModelView.from_bytes(model.SerializeToString())


def train(
    model: ModelView, data: Dataset, settings: TrainingSettings, epochs: int, seed: int, peak: float = 1e-3
) -> ModelView:
    """Train a model and return the result; prints the loss of each epoch.

    Args:
        model: the model to train; it stays unchanged.
        data: samples with labels.
        settings: loss, batch size, augmentation and trainer.
        epochs: passes over the data.
        seed: seed of the order of the samples and of the augmentation.
        peak: learning rate of the first step; it falls linearly to zero.
    """
    with make_trainer(settings.trainer).open(model, model.sites(), data, settings, model) as run:
        for epoch in range(epochs):
            rates = [peak * (1 - step / epochs) for step in (epoch, epoch + 1)]
            loss = run.epoch(*rates, seed=seed + epoch)
            print(f"epoch {epoch + 1:2} of {epochs}: loss {loss:.4f}", flush=True)
        return run.export()
