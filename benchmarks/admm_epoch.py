"""What an ADMM epoch costs beside a plain one: the same model, batches and optimizer, interleaved.

    python benchmarks/admm_epoch.py MODEL TRAIN.npz OUT.json [--batch 64] [--steps 100] [--rounds 7]

The plain run is what a user of onnxruntime-training would write: its own artifacts with its own
cross-entropy, nothing of onnx-admm in the graph. Must: an ADMM epoch at most 1.15x a plain one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from onnx_admm.contracts import TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.model import ModelView
from onnx_admm.model.rewrite.lower_ir_version import lower_ir_version
from onnx_admm.runtime.sessions import runtime_versions
from onnx_admm.training.bindings import TrainingSession
from onnx_admm.training.building import training_package
from onnx_admm.training.session import OrtTrainer


class PlainRun:
    """Cross-entropy training by onnxruntime-training alone."""

    def __init__(self, model: Path, folder: Path) -> None:
        artifacts, _ = training_package()
        proto = onnx.load_from_string(lower_ir_version(str(model), 10))
        artifacts.generate_artifacts(
            proto,
            requires_grad=[tensor.name for tensor in proto.graph.initializer],
            loss=artifacts.LossType.CrossEntropyLoss,
            optimizer=artifacts.OptimType.AdamW,
            artifact_directory=str(folder),
        )
        for name in ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx"):
            (folder / name).write_bytes(lower_ir_version(str(folder / name), 10))
        self._session = TrainingSession(folder, threads=1)

    def epoch(self, data: Any, batch: int, seed: int) -> None:
        """One pass over the data."""
        for part in data.batches(batch, seed=seed):
            arrays = (next(iter(part.feeds.values())), part.labels)
            self._session.add_gradients(dict(zip(self._session.input_names, arrays, strict=True)))
            self._session.step(1e-4)


def main() -> None:
    """Time both, in turn, and write medians and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "train", "out"):
        parser.add_argument(name, type=Path)
    for name, default in (("--batch", 64), ("--steps", 100), ("--rounds", 7)):
        parser.add_argument(name, type=int, default=default)
    arguments = parser.parse_args()
    model = ModelView.load(arguments.model)
    arrays = np.load(arguments.train)
    name, count = model.signature().inputs[0].name, arguments.batch * arguments.steps
    data = from_arrays({name: arrays[name][:count].astype(np.float32) / 255}, arrays["labels"][:count])
    settings = TrainingSettings(loss="cross_entropy", batch_size=arguments.batch, threads=1)
    seconds: dict[str, list[float]] = {"plain": [], "admm": []}
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainRun(arguments.model, Path(folder))
        with OrtTrainer().open(model, model.sites(), data, settings, model) as admm:
            admm.set_proximal_term(admm.weights(), {site.name: 1e-3 for site in model.sites()})
            for round_ in range(arguments.rounds + 1):
                started = time.perf_counter()
                plain.epoch(data, arguments.batch, round_)
                between = time.perf_counter()
                admm.epoch(1e-4, 1e-4, seed=round_)
                ended = time.perf_counter()
                if round_:  # the first warms up
                    seconds["plain"].append(between - started)
                    seconds["admm"].append(ended - between)
    ratios = [a / p for a, p in zip(seconds["admm"], seconds["plain"], strict=True)]
    result = {
        "model": arguments.model.name,
        "batch": arguments.batch,
        "plain_ms_per_step": 1000 * median(seconds["plain"]) / arguments.steps,
        "admm_ms_per_step": 1000 * median(seconds["admm"]) / arguments.steps,
        "ratio": median(ratios),
        "rounds": arguments.rounds,
        "versions": runtime_versions(),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
