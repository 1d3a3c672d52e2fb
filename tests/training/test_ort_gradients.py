"""onnxruntime-training: operators brought into a form that it has a gradient for, and those without one."""

from __future__ import annotations

import numpy as np
import pytest
from training_models import mlp, open_run

from onnx_admm.data import from_arrays
from onnx_admm.errors import TrainingError
from onnx_admm.model.analysis.text import parse_text


def test_an_operator_whose_gradient_has_no_kernel_is_named_with_its_node() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,2,4,4] y)
        <float[2,1,3,3] w, float[4] scales = {1.0, 1.0, 2.0, 2.0}, float[1,2,3,3] v>
        {
            a = Conv (x, w)
            r = Resize <mode = "nearest"> (a, , scales)
            y = Relu (r)
        }""")
    data = from_arrays({"x": np.ones((2, 1, 4, 4), np.float32)}, None)
    with pytest.raises(TrainingError, match="node r: the training runtime has no gradient for Resize"):
        open_run(model, data, loss="mse")


@pytest.mark.parametrize("activation", ["Sum (a, b1)", "LayerNormalization (a, b1)"])
def test_operators_are_brought_into_a_form_with_a_gradient(activation: str) -> None:
    model = mlp(activation=activation)
    with open_run(model) as run:
        assert run.epoch(1e-2, 1e-2, seed=1) < run.epoch(0.0, 0.0, seed=0) * 2
        assert not np.array_equal(run.weights()["w1"], model.read("w1"))


def test_an_operator_without_a_gradient_is_named_with_its_node() -> None:
    with pytest.raises(TrainingError, match=r"node r: the training runtime has no gradient for Selu"):
        open_run(mlp(activation="Selu (a)"))
