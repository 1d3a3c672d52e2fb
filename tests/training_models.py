"""A small network in text, data that it can learn, and a run that trains it."""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import Dataset, ModelView, Trainer, TrainingRun, TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.training.session import OrtTrainer

make_trainer: type[Trainer] = OrtTrainer
"""What ``open_run`` opens; tests set it."""

MLP = """
    <ir_version: 10, opset_import: ["" : {opset}]>
    mlp (float[N,6] x) => ({output})
    <float[6,12] w1, float[12] b1, float[12,3] w2, float[3] b2>
    {{
        a = Gemm (x, w1, b1)
        r = {activation}
        logits = Gemm (r, w2, b2)
        {head}
    }}"""


def mlp(
    opset: int = 17, head: str = "", output: str = "float[N,3] logits", activation: str = "Relu (a)"
) -> ModelView:
    return parse_text(MLP.format(opset=opset, head=head, output=output, activation=activation))


def samples(labelled: bool = True, n: int = 96) -> Dataset:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    labels = np.argmax(x[:, :3], axis=1).astype(np.int64)
    return from_arrays({"x": x}, labels if labelled else None)


def open_run(model: ModelView, data: Dataset | None = None, **settings: object) -> TrainingRun:
    chosen = TrainingSettings(**{"batch_size": 32, "loss": "cross_entropy", **settings})  # type: ignore[arg-type]
    return make_trainer().open(model, model.sites(), data or samples(), chosen, model)
