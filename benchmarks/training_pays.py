"""Fine-tuning beside reconstruction alone: test accuracy of the command with and without ``--no-fine-tune``.

    python benchmarks/training_pays.py OUT.json PREPARED MODEL... [--prune 10x] [--bits 4] [--count 10000]

PREPARED holds the data sets that ``prepare.py`` writes; the models are those of ``real_samples.PIXELS``. Each
row is one run of the command, in a process of its own, with ``count`` labelled samples:

    onnx-admm compress MODEL OUT --data TRAIN.npz --test TEST.npz --preprocessing P.toml --prune 10x --bits 4
        --keep [--no-fine-tune]

``seconds`` are processor seconds of the command. OUT gains the rows of a model; those of an earlier run are
replaced.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from real_samples import PIXELS, Known

from onnx_admm.runtime.sessions import runtime_versions

WAYS = {"fine_tuned": [], "reconstructed": ["--no-fine-tune"]}


def data_of(known: Known, arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Write the data of a model; the flags that name them."""
    flags = []
    for part, flag, count in (("train", "--data", arguments.count), ("test", "--test", None)):
        with np.load(arguments.prepared / f"{known.data}-{part}.npz") as stored:
            chosen = np.random.default_rng(0).permutation(len(stored["labels"]))[:count]
            [name] = set(stored.files) - {"labels"}
            x, labels = stored[name][chosen], stored["labels"][chosen]
        np.savez(folder / f"{part}.npz", **{known.input: x, "labels": labels})
        flags += [flag, str(folder / f"{part}.npz")]
    how = {"scale": known.scale, "mean": list(known.mean), "std": list(known.std)}
    (folder / "p.toml").write_text("".join(f"{key} = {value}\n" for key, value in how.items()))
    return [*flags, "--preprocessing", str(folder / "p.toml")]


def run(
    model: Path, way: str, flags: list[str], arguments: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """One command, and what its report says."""
    tool, report = Path(sys.executable).with_name("onnx-admm"), folder / "report.json"
    command = ["compress", model, folder / "out.onnx", *flags, "--prune", arguments.prune]
    command += ["--bits", str(arguments.bits), "--keep", "--report", report, "-q", *WAYS[way]]
    (folder / "out.onnx").unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([tool, *command], check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads(report.read_text())
    [test] = [each for each in found["comparison"]["quality"] if each["data"] == "test"]
    return {
        "model": model.stem,
        "way": way,
        "exit": done.returncode,
        "accuracy_before": test["accuracy_before"],
        "accuracy": test["accuracy_after"],
        "notes": found["notes"],
        "file_ratio": found["file_ratio"],
        "seconds": round(seconds, 1),
    }


def command_of(arguments: argparse.Namespace) -> str:
    """The command that repeats a run, places left open."""
    settings = f"--prune {arguments.prune} --bits {arguments.bits} --count {arguments.count}"
    return f"python benchmarks/training_pays.py OUT.json PREPARED MODEL... {settings}"


def main() -> None:
    """Run both ways on every model, and write after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--prune", default="10x")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            flags = data_of(PIXELS[model.stem], arguments, Path(folder))
            for way in WAYS:
                made = run(model, way, flags, arguments, Path(folder))
                print(json.dumps(made), flush=True)
                rows = [row for row in rows if (row["model"], row["way"]) != (made["model"], way)] + [made]
                found = {
                    "command": command_of(arguments),
                    "rows": rows,
                    "versions": {"python": platform.python_version(), **runtime_versions()},
                }
                arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
