"""onnxsim's public functions on one layer; run by a Python that has onnxsim, needs nothing of onnx-admm.

    python onnxsim_layer.py LAYER.npz OUT.npz

LAYER holds ``weights`` (rows, d) and ``gram`` (d, d). The layer becomes a model of one MatMul; its samples
are d rows that have these second moments exactly, which is all that the functions see of samples. OUT holds
the weights each function leaves as ``<setting>|<method>``, its processor seconds as ``<setting>|<method>|s``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxsim

Array = Any

SHARES = {"50 %": 0.5, "60 %": 0.6, "70 %": 0.7, "80 %": 0.8, "90 %": 0.9}
GROUP = 32
"""Inputs that share a scale in ``quantize_weight_only_int4``; fewer than these, or no multiple: no INT4."""


def model_of(weights: Array) -> onnx.ModelProto:
    """One MatMul, (n, d) to (n, rows)."""
    rows, inputs = weights.shape
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")],
        "layer",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", inputs])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", rows])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(weights.T), "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    return model


def rows_of(gram: Array) -> Array:
    """Samples (d, d) with ``X^T X / d`` as given."""
    energies, directions = np.linalg.eigh(gram)
    rows = np.sqrt(np.maximum(energies, 0.0) * len(gram))[:, None] * directions.T
    return rows.astype(np.float32)


def weights_of(model: onnx.ModelProto) -> Array:
    """What the MatMul multiplies by, (rows, d), dequantised where it is stored in groups."""
    (node,) = (node for node in model.graph.node if node.op_type == "MatMul")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    if node.input[1] in constants:
        return constants[node.input[1]].T
    (decoder,) = (each for each in model.graph.node if each.output[0] == node.input[1])
    codes, scales = (constants[name].astype(np.float64) for name in decoder.input[:2])
    axis = next((each.i for each in decoder.attribute if each.name == "axis"), 1)
    return (codes * np.repeat(scales, codes.shape[axis] // scales.shape[axis], axis=axis)).T


def trials(model: onnx.ModelProto, samples: Array) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """Each function with its setting."""
    data = [{"x": samples}]
    for setting, share in SHARES.items():
        yield from pruning(model, data, setting, {"sparsity": share})
    yield from pruning(model, data, "2:4", {"n": 2, "m": 4})
    if samples.shape[1] % GROUP == 0:
        coarse = onnxsim.quantize_weight_only_int4(model)
        yield f"4 bits|onnxsim gptq, groups of {GROUP}", lambda: onnxsim.apply_gptq(model, coarse, data)


def pruning(
    model: onnx.ModelProto, data: list[dict[str, Array]], setting: str, asked: dict[str, Any]
) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """The three that zero single weights."""
    yield f"{setting}|onnxsim magnitude", lambda: onnxsim.apply_magnitude_pruning(model, **asked)
    yield f"{setting}|onnxsim wanda", lambda: onnxsim.apply_wanda_pruning(model, data, **asked)
    yield f"{setting}|onnxsim sparsegpt", lambda: onnxsim.apply_sparsegpt_pruning(model, data, **asked)


def main(layer: str, out: str) -> None:
    """Run every function."""
    with np.load(layer) as archive:
        model, samples = model_of(archive["weights"]), rows_of(archive["gram"])
    found: dict[str, Array] = {"version": np.array(onnxsim.__version__)}
    for name, call in trials(model, samples):
        started = time.process_time()
        answer = call()
        found[f"{name}|s"] = np.array(time.process_time() - started)
        found[name] = weights_of(answer)
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
