"""What a training step costs: the graph trainer, onnxruntime-training, and PyTorch where it is installed.

    python benchmarks/training_step.py MODELS OUT.json [--old PYTHON] [--torch PYTHON] [--threads 1 2]
        [--rounds 7] [--steps 10] [--loss cross_entropy] [--only NAME]

MODELS holds `lenet5-mnist.onnx`, `vgg-cifar10.onnx` and `resnet8-cifar10.onnx`; inputs and labels are random,
which changes no time. Each trainer runs in a process of its own that stays open; they take turns, epoch by
epoch, so that other work on the machine meets all of them. Processor time is that of the whole process:
it counts with one thread; with more, idle threads spin, and wall-clock time counts.
`--old` is a Python with onnxruntime-training, `--torch` one with PyTorch (left out by default). Ratios are to
onnxruntime-training, medians over rounds. `peak_mb` is the largest resident size of a process.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CASES = {
    "lenet5-mnist": ("x", (1, 28, 28), 64),
    "vgg-cifar10": ("input", (3, 32, 32), 128),
    "resnet8-cifar10": ("input", (3, 32, 32), 64),
}
TRAINERS = ("graph", "onnxruntime-training", "torch")


class OwnRun:
    """Steps of one of this project's trainers, as an ADMM iteration or a plain epoch makes them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from onnx_admm.contracts import TrainingSettings
        from onnx_admm.data import from_arrays
        from onnx_admm.model import ModelView
        from onnx_admm.training.trainers import make_trainer

        name, shape, batch = CASES[arguments.case]
        count, rng = batch * arguments.steps, np.random.default_rng(0)
        data = from_arrays(
            {name: rng.normal(size=(count, *shape)).astype(np.float32)}, rng.integers(0, 10, count)
        )
        model = ModelView.load(arguments.models / f"{arguments.case}.onnx")
        settings = TrainingSettings(loss=arguments.loss, batch_size=batch, threads=arguments.threads[0])
        self._run = make_trainer(arguments.worker).open(model, model.sites(), data, settings, model)
        if arguments.pull:
            self._run.set_proximal_term(self._run.weights(), {site.name: 1e-3 for site in model.sites()})

    def epoch(self) -> None:
        """All batches once."""
        self._run.epoch(1e-4, 1e-4, seed=0)


class TorchRun:
    """The same nets in PyTorch, with AdamW and cross-entropy."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch

        torch.set_num_threads(arguments.threads[0])
        torch.manual_seed(0)
        _, shape, batch = CASES[arguments.case]
        self._torch, self._net = torch, torch_net(torch, arguments.case)
        self._optimizer = torch.optim.AdamW(self._net.parameters(), lr=1e-4, weight_decay=0.0)
        self._batches = [
            (torch.randn(batch, *shape), torch.randint(0, 10, (batch,))) for _ in range(arguments.steps)
        ]

    def epoch(self) -> None:
        """All batches once."""
        for x, labels in self._batches:
            self._optimizer.zero_grad(set_to_none=True)
            self._torch.nn.functional.cross_entropy(self._net(x), labels).backward()
            self._optimizer.step()


def torch_net(torch: Any, case: str) -> Any:
    """The architecture of a model file."""
    nn = torch.nn
    if case == "lenet5-mnist":
        pool = [nn.ReLU(), nn.MaxPool2d(2)]
        convolutions = [nn.Conv2d(1, 20, 5), *pool, nn.Conv2d(20, 50, 5), *pool]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    if case == "vgg-cifar10":
        layers: list[Any] = []
        channels = 3
        for width in (64, 128, 256):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 10))
    return _resnet8(torch)


def _resnet8(torch: Any) -> Any:
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inside: int, width: int, stride: int) -> None:
            super().__init__()
            self.a = nn.Conv2d(inside, width, 3, stride, 1)
            self.b = nn.Conv2d(width, width, 3, 1, 1)
            self.skip = nn.Identity() if inside == width else nn.Conv2d(inside, width, 1, stride)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.b(torch.relu(self.a(x))) + self.skip(x))

    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def work(arguments: argparse.Namespace) -> None:
    """Answer each line of stdin with the seconds of one epoch, by two clocks, and the peak size."""
    run = (TorchRun if arguments.worker == "torch" else OwnRun)(arguments)
    run.epoch()
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run.epoch()
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(
            json.dumps({**spent, "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}), flush=True
        )


class Worker:
    """A process that trains when it is asked to."""

    def __init__(
        self, trainer: str, python: str, case: str, threads: int, arguments: argparse.Namespace
    ) -> None:
        command = [python, __file__, str(arguments.models), "-", "--worker", trainer, "--case", case]
        command += ["--threads", str(threads), "--steps", str(arguments.steps), "--loss", arguments.loss]
        if arguments.pull:
            command.append("--pull")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read("ready")

    def _read(self, requested: str | None = None) -> str:
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            if requested is None or line.strip() == requested:
                return line
        raise SystemExit(f"a trainer ended: {shlex.join(self._process.args)}")  # type: ignore[arg-type]

    def epoch(self) -> dict[str, float]:
        """Seconds of an epoch, and the peak size."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        found: dict[str, float] = json.loads(self._read())
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(
    case: str, threads: int, pythons: dict[str, str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Steps of one model at one number of threads."""
    workers = {name: Worker(name, python, case, threads, arguments) for name, python in pythons.items()}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(arguments.rounds):
        for name, worker in workers.items():
            rounds[name].append(worker.epoch())
    for worker in workers.values():
        worker.close()
    result: dict[str, Any] = {"model": case, "batch": CASES[case][2], "threads": threads}
    for name, measured in rounds.items():
        result[name] = {
            "cpu_ms": round(1e3 * median(one["cpu"] for one in measured) / arguments.steps, 3),
            "wall_ms": round(1e3 * median(one["wall"] for one in measured) / arguments.steps, 3),
            "peak_mb": round(max(one["peak_kb"] for one in measured) / 1024, 1),
        }
    old = rounds.get("onnxruntime-training", [])
    for name, measured in rounds.items():
        if old and name != "onnxruntime-training":
            for clock in ("cpu", "wall"):
                pairs = zip(measured, old, strict=True)
                ratio = median(one[clock] / other[clock] for one, other in pairs)
                result[name][f"{clock}_ratio"] = round(ratio, 3)
    return result


def versions(python: str) -> dict[str, str]:
    """What is installed where a trainer ran."""
    code = (
        "import importlib.metadata as m, json, platform\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
        "kept = {n: v for n, v in found.items() if n and (n.startswith('onnx') or n in ('torch', 'numpy'))}\n"
        "print(json.dumps({'python': platform.python_version(), **kept}))"
    )
    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code], text=True))
    return dict(sorted(found.items()))


def command_of(arguments: argparse.Namespace) -> str:
    """The command that repeats a run, places left open."""
    words = ["python benchmarks/training_step.py MODELS OUT.json --old PYTHON"]
    words += ["--torch PYTHON"] * (arguments.torch is not None)
    words += ["--threads", *map(str, arguments.threads), "--rounds", str(arguments.rounds)]
    words += [
        "--steps",
        str(arguments.steps),
        "--loss",
        arguments.loss,
        *["--pull"] * arguments.pull,
    ]
    return " ".join(words)


def main() -> None:
    """Time every model at every number of threads, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--old", default=sys.executable)
    parser.add_argument("--torch")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--loss", default="cross_entropy")
    parser.add_argument("--pull", action="store_true", help="with ADMM's penalty")
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--worker", choices=TRAINERS, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(arguments)
        return
    pythons = {"graph": sys.executable, "onnxruntime-training": arguments.old}
    if arguments.torch is not None:
        pythons["torch"] = arguments.torch
    cases = [arguments.only] if arguments.only else list(CASES)
    results = []
    for case in cases:
        for threads in arguments.threads:
            results.append(measure(case, threads, pythons, arguments))
            print(json.dumps(results[-1]), flush=True)
    found = {
        "command": command_of(arguments),
        "loss": arguments.loss,
        "pull": arguments.pull,
        "results": results,
        "versions": {name: versions(python) for name, python in pythons.items()},
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
