"""Models from text, with random weights, trained from scratch through onnx-admm's own trainer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_admm.contracts import Dataset, ModelView, TrainingSettings
from onnx_admm.training.trainers import make_trainer


def random_model(text: str, weights: Mapping[str, tuple[int, ...]], seed: int) -> ModelView:
    """The model of ``text`` (ONNX's textual form), its layers' weights and biases filled in.

    Args:
        text: a graph whose layers take ``NAME_weight`` and ``NAME_bias``.
        weights: of each NAME, the weight's shape, output channels first.
        seed: of the draw: weights from N(0, 2 / fan-in), biases of zero (He et al., arXiv 1502.01852).
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
    """The model after ``epochs`` passes over the data; the learning rate falls from ``peak`` to zero."""
    with make_trainer(settings.trainer).open(model, model.sites(), data, settings, model) as run:
        for epoch in range(epochs):
            rates = [peak * (1 - step / epochs) for step in (epoch, epoch + 1)]
            loss = run.epoch(*rates, seed=seed + epoch)
            print(f"epoch {epoch + 1:2} of {epochs}: loss {loss:.4f}", flush=True)
        return run.export()
