"""The example trainers run from the checkout, on data of their form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from onnx_admm.contracts import ModelView

ALEXNET_WEIGHTS = 2_583_744


def test_alexnet_trains_on_a_handful_of_images(repository: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        images = rng.integers(0, 256, (64, 3, 32, 32), np.uint8)
        np.savez(tmp_path / f"{part}.npz", input=images, labels=np.arange(64) % 10)
    script = repository / "examples/train_alexnet.py"
    arguments = [tmp_path / "train.npz", tmp_path / "test.npz", tmp_path / "alexnet.onnx", "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "of 64 test images right" in done.stdout
    model = ModelView.load(tmp_path / "alexnet.onnx")
    assert [site.shape[0] for site in model.sites()][:5] == [64, 192, 384, 256, 256]
    assert sum(site.size for site in model.sites()) == ALEXNET_WEIGHTS
