"""Accuracy of a model file in the onnxruntime of the Python that runs this; needs nothing of onnx-admm.

python benchmarks/deployed.py MODEL.onnx TEST.npz '{"scale": 0.0039, "mean": [0.0], "std": [1.0]}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(model: str, test: str, preprocessing: str) -> None:
    """Print accuracy, bytes and the runtime's version as JSON."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    arrays = np.load(test)
    name = session.get_inputs()[0].name
    inputs, labels = arrays[name], arrays["labels"]
    if inputs.dtype == np.uint8:
        how = json.loads(preprocessing)
        scale = np.float32(how.get("scale", 1.0))
        mean, std = (
            np.array(how.get(k, v), np.float32).reshape(-1, 1, 1) for k, v in (("mean", 0), ("std", 1))
        )
        inputs = (inputs.astype(np.float32) * scale - mean) / std
    right = 0
    for start in range(0, len(labels), 250):
        part = slice(start, start + 250)
        right += int((session.run(None, {name: inputs[part]})[0].argmax(axis=1) == labels[part]).sum())
    figures = {"accuracy": right / len(labels), "file_bytes": Path(model).stat().st_size}
    print(json.dumps({**figures, "onnxruntime": onnxruntime.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
