"""The command fine-tunes with whatever ONNX Runtime is installed: no training package is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import conv_net
from sklearn.datasets import load_digits

from onnx_admm.contracts import TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.report import Report
from onnx_admm.training.trainers import make_trainer

pytestmark = pytest.mark.slow


def test_a_model_is_pruned_and_fine_tuned_by_the_command(tmp_path: Path) -> None:
    digits = load_digits()
    x, labels = (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
    net = parse_text(conv_net((8, 16), 10, ir_version=8, opset=13))
    data, settings = from_arrays({"x": x}, labels), TrainingSettings(loss="cross_entropy", threads=1)
    with make_trainer().open(net, net.sites(), data, settings, net) as run:
        for epoch in range(10):
            run.epoch(3e-3, 1e-3, seed=epoch)
        run.export().save(tmp_path / "digits.onnx")
    np.savez(tmp_path / "train.npz", x=x, labels=labels)
    program = Path(sys.executable).with_name("onnx-admm")
    words = "compress digits.onnx small.onnx --data train.npz --prune 4x --bits 6 --fine-tune --epochs 3"
    command = [program, *words.split(), "--threads", "1", "--report", "report.json", "--quiet"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report = Report.from_json((tmp_path / "report.json").read_text())
    assert "admm_prune" in [step.name for step in report.steps]
    assert report.accuracy_after is not None
    assert report.accuracy_after > 0.85
