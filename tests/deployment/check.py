"""Runs every kept end-to-end output in a current ONNX Runtime and compares it with what was expected.

``python check.py FOLDER``, in an environment whose runtime is not the training one. Each case (see
``keep_for_deployment`` in conftest.py) runs with graph optimisation on and off.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from onnx_admm.local_files.named_arrays import read_npz

OPTIMISATION = {
    "on": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def run(case: Path, optimisation: str) -> dict[str, np.ndarray]:
    """Outputs by name of the case's model on its inputs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = OPTIMISATION[optimisation]
    options.log_severity_level = 3
    # Without it, weights behind DequantizeLinear also quantise the activations they meet.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    session = onnxruntime.InferenceSession(case / "model.onnx", options, providers=["CPUExecutionProvider"])
    feeds = read_npz(case / "inputs.npz")
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, feeds), strict=True))


def complaints(case: Path, optimisation: str) -> list[str]:
    """What is wrong with a case, as sentences; empty when nothing is."""
    outputs = run(case, optimisation)
    tolerance = float((case / "tolerance").read_text())
    found = []
    expected = read_npz(case / "expected.npz")
    if not expected:
        found.append("nothing is expected of it")
    for name, want in expected.items():
        if name not in outputs:
            found.append(f"no output {name}: it has {', '.join(outputs)}")
            continue
        have = outputs[name]
        if want.shape != have.shape or want.dtype != have.dtype:
            found.append(f"{name} is {have.dtype}{have.shape}, expected {want.dtype}{want.shape}")
            continue
        error = np.abs(have.astype(np.float64) - want.astype(np.float64)).max(initial=0)
        allowed = tolerance * max(np.abs(want.astype(np.float64)).max(initial=0), 1e-6)
        if not error <= allowed:  # so that NaN fails
            found.append(f"{name} is off by {error:.3g}, allowed {allowed:.3g}")
    return found


def main(folder: Path) -> None:
    """Check every case of a folder; exit with a sentence when one fails or there is none."""
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    if "onnxruntime-training-cpu" in installed:
        sys.exit("this environment holds the training runtime: the check needs the one people deploy to")
    cases = sorted(path.parent for path in folder.glob("*/model.onnx"))
    if not cases:
        sys.exit(f"no end-to-end output was kept in {folder}: nothing was checked")
    failed = 0
    for case in cases:
        for optimisation in OPTIMISATION:
            for sentence in complaints(case, optimisation):
                sys.stdout.write(f"{case.name}, optimisation {optimisation}: {sentence}\n")
                failed += 1
    if failed:
        sys.exit(f"{failed} comparisons failed in ONNX Runtime {onnxruntime.__version__}")
    sys.stdout.write(
        f"{len(cases)} end-to-end outputs run and agree in ONNX Runtime {onnxruntime.__version__}, "
        "graph optimisation on and off\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python check.py FOLDER")
    main(Path(sys.argv[1]))
