"""Large files in 8 bits beside onnxruntime's ``quantize_static``: seconds, peak memory and latency.

    python benchmarks/large_models.py OUT.json [--models alexnet resnet50 vgg16 huge] [--jobs ...]
        [--rounds 3]

The models have the layers of AlexNet, VGG-16 and ResNet-50 and random weights: neither side's work depends on
what the weights are good for. Each run is a process of its own, both sides in turns, and tells its wall-clock
and processor seconds and its peak resident memory; importing libraries is timed apart. Medians are reported.

- ``quantise``: load, quantise all weights to 8 bits per channel, encode, save; what ``quantize_static`` is
  asked to do with 8 random calibration samples (QDQ; it quantises activations too).
- ``compress``: the whole command without data: comparisons, latency and report as well.
- ``integers``: the whole command with 32 random samples, of which it sets some aside: layers in 8-bit
  integers where they are faster.

The results of ``integers`` and ``quantize_static`` are run too: ``latency_ratio`` is processor time over the
original's, in turns, one thread, batch 1; ``sqnr_db`` that of the outputs on 4 other random samples.

``huge`` is 2.5 GB of weights in a file beside the model, for ``quantise`` alone. Must: at most 1.5 GB of
memory. On the others: no slower than ``quantize_static``, in half the memory. OUT keeps the rows of other
models. On a machine that does other work too, processor seconds are the figure for time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from large_nets import IMAGE, NETS

_CALIBRATION_SAMPLES, _SAMPLES = 8, 32


# -- the jobs, each in a process of its own ----------------------------------------------------


def quantise(source: Path, target: Path) -> Callable[[], None]:
    """Load, quantise, encode, save: the passes of the command without its comparisons."""
    from onnx_admm.config.recipe import Recipe
    from onnx_admm.model import ModelView

    steps = [
        {"name": "admm_quantize", "bits": 8, "per_channel": True},
        {"name": "encode", "format": "packed"},
    ]

    def job() -> None:
        Recipe.parse({"pass": steps}).pipeline().run(ModelView.load(source)).model.save(target)

    return job


def compress(source: Path, target: Path) -> Callable[[], None]:
    """The whole command, without data."""
    from onnx_admm import api

    return lambda: api.compress(source, target, threads=1) and None


def integers(source: Path, target: Path) -> Callable[[], None]:
    """The whole command with the samples that ``quantize_static`` has."""
    from onnx_admm import api

    return lambda: api.compress(source, target, data={"x": images(0, _SAMPLES)}, threads=1) and None


def images(seed: int, count: int) -> npt.NDArray[np.float32]:
    """Random inputs."""
    return np.random.default_rng(seed).standard_normal((count, *IMAGE), np.float32)


def quantize_static(source: Path, target: Path) -> Callable[[], None]:
    """What a user of onnxruntime would write: weights per channel, activations calibrated."""
    from onnxruntime import quantization

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            samples = images(0, _CALIBRATION_SAMPLES)
            self._feeds: Iterator[dict[str, Any]] = ({"x": sample[None]} for sample in samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    def job() -> None:
        quantization.quantize_static(source, target, Samples(), per_channel=True)

    return job


JOBS = {job.__name__: job for job in (quantise, compress, integers, quantize_static)}
_RUN_TOO = ("integers", "quantize_static")


def work(name: str, source: Path, target: Path) -> None:
    """Do one job and print what it took."""
    started = time.perf_counter()
    job = JOBS[name](source, target)
    begun, spent = time.perf_counter(), time.process_time()
    job()
    figures = {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - spent,
        "import_seconds": begun - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "file_mb": sum(file.stat().st_size for file in target.parent.glob(f"{target.name}*")) / 1e6,
    }
    print(json.dumps(figures))


def judge(source: Path, target: Path) -> None:
    """Print the latency and the error of a result."""
    from onnx_admm.data import from_arrays
    from onnx_admm.runtime.evaluation import evaluate
    from onnx_admm.runtime.latency import compare_latency

    latency = compare_latency(source, target, {"x": images(1, 1)}, rounds=31)
    quality = evaluate(target, from_arrays({"x": images(2, 4)}), reference=source, batch_size=1, threads=1)
    print(json.dumps({"latency_ratio": latency.ratio, "sqnr_db": quality.sqnr_db}))


def in_process(*arguments: object) -> str:
    """What this script prints in another process, which starts with the memory of this one as its peak.

    So nothing large is ever done in this one.
    """
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def measured(name: str, source: Path, folder: Path) -> dict[str, float]:
    """One job's figures."""
    target = folder / "out" / source.name
    target.parent.mkdir(exist_ok=True)
    figures: dict[str, float] = json.loads(in_process("--work", name, source, target).splitlines()[-1])
    if name in _RUN_TOO:
        figures |= json.loads(in_process("--judge", source, target).splitlines()[-1])
    for file in target.parent.iterdir():
        file.unlink()
    return figures


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Figure by figure."""
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def main() -> None:
    """Make the models, run the jobs in turns, write the figures and their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="*", choices=sorted(NETS), default=["alexnet", "resnet50", "vgg16"])
    parser.add_argument("--jobs", nargs="*", choices=sorted(JOBS), default=sorted(JOBS))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from onnx_admm.runtime.sessions import runtime_versions

    known = json.loads(arguments.out.read_text())["models"] if arguments.out.exists() else {}
    result: dict[str, Any] = {
        "rounds": arguments.rounds,
        "cores": len(os.sched_getaffinity(0)),
        "models": known,
    }
    for model in arguments.models:
        jobs = [job for job in arguments.jobs if model != "huge" or job == "quantise"]
        with tempfile.TemporaryDirectory(prefix="onnx-admm-") as name:
            source = Path(name, f"{model}.onnx")
            in_process("--make", model, source)
            runs: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
            for _ in range(arguments.rounds):
                for job, figures in runs.items():
                    figures.append(measured(job, source, Path(name)))
        row: dict[str, Any] = known.get(model, {}) | {job: medians(each) for job, each in runs.items()}
        if {"quantise", "quantize_static"} <= row.keys():
            row["ratios"] = {
                key: round(row["quantise"][key] / row["quantize_static"][key], 3)
                for key in ("seconds", "cpu_seconds", "peak_mb")
            }
        result["models"][model] = row
        print(model, json.dumps(row), flush=True)
    result["versions"] = runtime_versions()
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--work", job, source, target]:
            work(job, Path(source), Path(target))
        case ["--judge", source, target]:
            judge(Path(source), Path(target))
        case ["--make", net, path]:
            NETS[net](Path(path))
        case _:
            main()
