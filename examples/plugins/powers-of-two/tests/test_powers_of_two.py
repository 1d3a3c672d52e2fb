"""The pass keeps its contract, and its weights are powers of two."""

from __future__ import annotations

import numpy as np
from powers_of_two import PowersOfTwo

from onnx_admm.contracts import PassContext
from onnx_admm.testing import check_pass, model_family


def test_it_keeps_the_contract() -> None:
    outcomes = check_pass(PowersOfTwo())
    assert outcomes["conv_net"] == "changed"
    assert outcomes["no_weights"] == "unchanged"


def test_weights_become_the_nearest_power_of_two() -> None:
    model = model_family()["conv_net"]
    weights = model.read("w1")
    weights.flat[:5] = [1.0, 0.74, 0.76, -0.3, 0.001]
    weights.flat[5:] = 0.0
    model.replace("w1", weights)
    PowersOfTwo(octaves=3, include=("w1",)).run(model, PassContext(reference=model.fork()))
    np.testing.assert_array_equal(model.read("w1").flat[:6], [1.0, 0.5, 1.0, -0.25, 0.0, 0.0])
