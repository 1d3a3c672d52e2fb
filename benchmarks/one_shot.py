"""Whole models in one shot, without labels: test accuracy by share of zeros and by bits.

    python benchmarks/one_shot.py MODEL TRAIN.npz TEST.npz OUT.json [--prune 0.7 0.9] [--bits 4 3]
        [--joint 0.5:4] [--count 512] [--preprocessing P.toml] [--deployment PYTHON]

Each row is one run of the command, in a process of its own, on ``count`` samples of TRAIN, labels left out:

    onnx-admm compress MODEL OUT --data calib.npz [--prune S] [--bits B] --no-fine-tune

Seconds are those of the whole command, comparison and report included; peak memory is the process's. The
accuracy is measured by ``--deployment``, a Python with a current onnxruntime, on the written file.
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
from pathlib import Path
from typing import Any

import numpy as np
from deployment import deployed

from onnx_admm.data.readers.preprocessing import as_preprocessing
from onnx_admm.local_files.named_arrays import write_npz
from onnx_admm.runtime.sessions import runtime_versions


def unlabelled(train: Path, count: int, out: Path) -> None:
    """``count`` samples of TRAIN, drawn with seed 0, without labels."""
    arrays = dict(np.load(train))
    arrays.pop("labels", None)
    total = len(next(iter(arrays.values())))
    chosen = np.sort(np.random.default_rng(0).permutation(total)[:count])
    write_npz(out, {name: array[chosen] for name, array in arrays.items()})


def run(flags: list[str], arguments: argparse.Namespace, calib: Path, folder: Path) -> dict[str, Any]:
    """One command, and what its file is worth."""
    how = as_preprocessing(arguments.preprocessing) if arguments.preprocessing else None
    target = folder / "out.onnx"
    target.unlink(missing_ok=True)
    command = ["compress", str(arguments.model), str(target), "--data", str(calib), *flags]
    if arguments.preprocessing:
        command += ["--preprocessing", str(arguments.preprocessing)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    tool = str(Path(sys.executable).with_name("onnx-admm"))
    subprocess.run([tool, *command, "--no-fine-tune", "-q"], check=True)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "flags": " ".join(flags),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        **deployed(target, arguments.test, how, arguments.deployment),
    }


def requested(arguments: argparse.Namespace) -> list[list[str]]:
    """Flags of each run."""
    joint = [pair.split(":") for pair in arguments.joint]
    return [
        *(["--prune", share] for share in arguments.prune),
        *(["--bits", bits] for bits in arguments.bits),
        *(["--prune", share, "--bits", bits] for share, bits in joint),
    ]


def main() -> None:
    """Run what was asked; results are written after each run, so that none is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "train", "test", "out"):
        parser.add_argument(name, type=Path)
    for name in ("prune", "bits", "joint"):
        parser.add_argument(f"--{name}", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--preprocessing", type=Path)
    parser.add_argument("--deployment", default=sys.executable)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"model": arguments.model.name, "samples": arguments.count}
    results |= {"versions": runtime_versions(), "machine": platform.machine()}
    how = as_preprocessing(arguments.preprocessing) if arguments.preprocessing else None
    original = deployed(arguments.model, arguments.test, how, arguments.deployment)
    results |= {"original": original, "runs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unlabelled(arguments.train, arguments.count, calib := folder / "calib.npz")
        for flags in requested(arguments):
            row = run(flags, arguments, calib, folder)
            print(json.dumps(row), flush=True)
            results["runs"].append(row)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
