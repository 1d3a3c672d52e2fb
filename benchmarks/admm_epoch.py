"""What an ADMM epoch costs beside a plain one: the same model, batches and optimizer, interleaved.

    python benchmarks/admm_epoch.py MODEL TRAIN.npz OUT.json [--batch 64] [--steps 100] [--rounds 7]
        [--trainer onnxruntime-training | graph]

With ``onnxruntime-training`` the plain run is what its user would write: its own artifacts with its own
cross-entropy, nothing of onnx-admm in the graph. With ``graph`` it is a run of that trainer without ADMM's
penalty.
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
from onnx_admm.training.graph.trainer import GraphTrainer
from onnx_admm.training.trainers import make_trainer


class PlainGraphRun:
    """Cross-entropy training by the graph trainer, without ADMM's penalty."""

    def __init__(self, model: ModelView, data: Any, settings: TrainingSettings) -> None:
        self._run = GraphTrainer().open(model, model.sites(), data, settings, model)

    def epoch(self, data: Any, batch: int, seed: int) -> None:
        """One pass over the data."""
        self._run.epoch(1e-4, 1e-4, seed=seed)


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
    parser.add_argument(
        "--trainer", choices=["onnxruntime-training", "graph"], default="onnxruntime-training"
    )
    arguments = parser.parse_args()
    model = ModelView.load(arguments.model)
    arrays = np.load(arguments.train)
    name, count = model.signature().inputs[0].name, arguments.batch * arguments.steps
    data = from_arrays({name: arrays[name][:count].astype(np.float32) / 255}, arrays["labels"][:count])
    settings = TrainingSettings(loss="cross_entropy", batch_size=arguments.batch, threads=1)
    seconds: dict[str, list[float]] = {"plain": [], "admm": []}
    with tempfile.TemporaryDirectory() as folder:
        is_graph = arguments.trainer == "graph"
        plain: Any = (
            PlainGraphRun(model, data, settings) if is_graph else PlainRun(arguments.model, Path(folder))
        )
        with make_trainer(arguments.trainer).open(model, model.sites(), data, settings, model) as admm:
            admm.set_proximal_term(admm.weights(), {site.name: 1e-3 for site in model.sites()})
            for round_ in range(arguments.rounds + 1):
                started = time.thread_time()
                plain.epoch(data, arguments.batch, round_)
                between = time.thread_time()
                admm.epoch(1e-4, 1e-4, seed=round_)
                ended = time.thread_time()
                if round_:  # the first warms up
                    seconds["plain"].append(between - started)
                    seconds["admm"].append(ended - between)
    ratios = [a / p for a, p in zip(seconds["admm"], seconds["plain"], strict=True)]
    result = {
        "model": arguments.model.name,
        "trainer": arguments.trainer,
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
