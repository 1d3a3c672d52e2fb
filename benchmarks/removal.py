"""Channels removed in one shot, without labels: test accuracy by share of the multiply-accumulates.

    python benchmarks/removal.py OUT.json MODEL TRAIN.npz TEST.npz [--shares 0.73 0.5] [--count 512]
        [--preprocessing P.toml] [--deployment PYTHON]

Each row is one run of the command, in a process of its own, with ``count`` samples of TRAIN, labels left out:

    onnx-admm compress MODEL OUT --recipe removal.toml --data calib.npz --val calib.npz --keep

The recipe has one pass, remove_channels. Beside it stands the removal of as many channels of each group by
the L1 norms of the weights that write them, without a refit. Seconds are those of the whole command, report
included; processor seconds are those of its process. The accuracy is measured by ``--deployment``, a Python
with a current onnxruntime, on the written file. OUT gains the model's rows; a share run again replaces its
row.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from deployment import deployed
from one_shot import unlabelled

from onnx_admm.contracts import ModelView
from onnx_admm.data.readers.preprocessing import as_preprocessing
from onnx_admm.model.channels.groups import ChannelGroup, channel_map
from onnx_admm.runtime.sessions import runtime_versions

RECIPE = """fine_tune = false

[[pass]]
name = "remove_channels"
keep = {share}
"""


def run(share: float, arguments: argparse.Namespace, calib: Path, folder: Path) -> dict[str, Any]:
    """One command, its file's accuracy, and that of the removal by L1 norms."""
    recipe, target, report = (folder / name for name in ("removal.toml", "out.onnx", "report.json"))
    text = RECIPE.format(share=share)
    how = as_preprocessing(arguments.preprocessing) if arguments.preprocessing else None
    if arguments.preprocessing:
        text += f"\n[preprocessing]\n{arguments.preprocessing.read_text()}"
    recipe.write_text(text)
    target.unlink(missing_ok=True)
    command = ["compress", arguments.model, target, "--recipe", recipe, "--data", calib, "--val", calib]
    tool = Path(sys.executable).with_name("onnx-admm")
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([tool, *command, "--keep", "--report", report, "-q"], check=False)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"the command ended with {done.returncode}")
    entries = json.loads(report.read_text())["steps"]
    figures = next(entry["figures"] for entry in entries if entry["name"] == "remove_channels")
    kept = {name: row["kept"] for name, row in figures["groups"].items()}
    row = {
        "share": share,
        "reached": figures["reached"],
        "kept": kept,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        **deployed(target, arguments.test, how, arguments.deployment),
    }
    by_norms(arguments.model, kept).save(target)
    row["accuracy_of_l1_norms"] = deployed(target, arguments.test, how, arguments.deployment)["accuracy"]
    return row


def by_norms(path: Path, kept: dict[str, int]) -> ModelView:
    """The model with the units of largest L1 norm left, as many of each group as named."""
    model = ModelView.load(path)
    channels = channel_map(model)
    keep = {}
    for index, group in enumerate(channels.groups):
        if group.blocked is None and kept.get(group.name, group.units) < group.units:
            mask = np.zeros(group.units, np.bool_)
            mask[np.argsort(-norms(group), kind="stable")[: kept[group.name]]] = True
            keep[index] = mask
    channels.remove(keep)
    return model


def norms(group: ChannelGroup) -> np.ndarray:
    """Sum of the absolute weights that write each unit."""
    total = np.zeros(group.units)
    for port in group.writers:
        weight = port.weight.constant()
        if weight is not None:
            rows = np.abs(np.moveaxis(weight, port.axis, 0)).reshape(len(port.units), -1).sum(axis=1)
            np.add.at(total, port.units[port.units >= 0], rows[port.units >= 0])
    return total


def main() -> None:
    """Run every share and write the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.73, 0.59, 0.5, 0.33, 0.24])
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--preprocessing", type=Path)
    parser.add_argument("--deployment", type=Path, default=Path(sys.executable))
    arguments = parser.parse_args()
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"models": {}}
    own = result["models"].setdefault(arguments.model.stem, {"rows": []})
    result |= {
        "command": "python benchmarks/removal.py OUT.json MODEL TRAIN.npz TEST.npz",
        "count": arguments.count,
        "versions": {
            "onnx-admm": version("onnx-admm"),
            "numpy": np.__version__,
            "python": platform.python_version(),
            "runtimes": runtime_versions(),
        },
        "machine": platform.machine(),
    }
    how = as_preprocessing(arguments.preprocessing) if arguments.preprocessing else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calib = folder / "calib.npz"
        unlabelled(arguments.train, arguments.count, calib)
        own["original"] = deployed(arguments.model, arguments.test, how, arguments.deployment)
        for share in arguments.shares:
            row = run(share, arguments, calib, folder)
            others = [each for each in own["rows"] if each["share"] != share]
            own["rows"] = sorted([*others, row], key=lambda each: -each["share"])
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
