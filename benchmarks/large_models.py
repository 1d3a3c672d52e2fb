"""Weight-only 8 bits on large files, beside onnxruntime's ``quantize_static``: seconds and peak memory.

    python benchmarks/large_models.py OUT.json [--models alexnet resnet50 vgg16 huge] [--jobs ...]

The models have the layers of AlexNet, VGG-16 and ResNet-50 and random weights: neither side's work depends on
what the weights are good for. Each run is a process of its own, both sides in turns, and tells its wall-clock
and processor seconds and its peak resident memory; importing libraries is timed apart. Medians are reported.

- ``quantise``: load, quantise all weights to 8 bits per channel, encode, save; what ``quantize_static`` is
  asked to do with 8 random calibration samples (QDQ; it quantises activations too).
- ``compress``: the whole command without data: comparisons, latency and report as well.

``huge`` is 2.5 GB of weights in a file beside the model, for ``--jobs quantise``. Must: at most 1.5 GB of
memory. On the others: no slower than ``quantize_static``, in half the memory.
"""

from __future__ import annotations

import argparse
import itertools
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
import onnx
from onnx import TensorProto, helper, numpy_helper

_CALIBRATION_SAMPLES = 8
_IMAGE = (3, 224, 224)


# -- the models --------------------------------------------------------------------------------


class Net:
    """Nodes and random weights, put together layer by layer; ``last`` is the value to go on from."""

    def __init__(self, channels: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last, self.channels = "x", channels
        self._rng = np.random.default_rng(0)

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node on ``last`` (or the inputs named) whose output is then ``last``."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs or [self.last], [name], **attributes))
        self.last = name
        return name

    def weighted(self, op_type: str, shape: tuple[int, ...], **attributes: Any) -> str:
        """A node with a random weight of deviation sqrt(2 / fan-in) and a bias of zeros."""
        name = f"w{len(self.weights)}"
        weight = self._rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        self.weights.append(numpy_helper.from_array(weight, name))
        self.weights.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.bias"))
        self.channels = shape[0]
        return self.add(op_type, self.last, name, f"{name}.bias", **attributes)

    def conv(self, out: int, kernel: int, stride: int = 1, *, relu: bool = True) -> None:
        """A convolution that keeps the size, but for its stride."""
        pads = [kernel // 2] * 4
        self.weighted("Conv", (out, self.channels, kernel, kernel), strides=[stride] * 2, pads=pads)
        if relu:
            self.add("Relu")

    def pool(self, kernel: int, stride: int) -> None:
        """Max pooling."""
        self.add("MaxPool", kernel_shape=[kernel] * 2, strides=[stride] * 2)

    def dense(self, sizes: tuple[int, ...]) -> None:
        """Flatten, and fully connected layers with Relu between them."""
        self.add("Flatten")
        for number, (before, after) in enumerate(itertools.pairwise(sizes)):
            if number:
                self.add("Relu")
            self.weighted("Gemm", (after, before), transB=1)

    def save(self, path: Path) -> None:
        """Write it with an open batch."""
        shape = ["N", *_IMAGE]
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, ["N", self.channels])],
            self.weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def alexnet() -> Net:
    """Krizhevsky, One weird trick, arXiv 1404.5997: 61 M weights."""
    net = Net(3)
    net.conv(64, 11, 4)
    net.pool(3, 2)
    net.conv(192, 5)
    net.pool(3, 2)
    for channels in (384, 256, 256):
        net.conv(channels, 3)
    net.pool(3, 2)
    net.dense((256 * 6 * 6, 4096, 4096, 1000))
    return net


def vgg16() -> Net:
    """Simonyan and Zisserman, arXiv 1409.1556, configuration D: 138 M weights."""
    net = Net(3)
    for channels, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            net.conv(channels, 3)
        net.pool(2, 2)
    net.dense((512 * 7 * 7, 4096, 4096, 1000))
    return net


def resnet50() -> Net:
    """He et al., arXiv 1512.03385, BatchNormalization folded: 25.6 M weights."""
    net = Net(3)
    net.conv(64, 7, 2)
    net.pool(3, 2)
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            entry, channels = net.last, net.channels
            net.conv(width, 1)
            net.conv(width, 3, stride)
            net.conv(4 * width, 1, relu=False)
            branch = net.last
            if block == 0:
                net.last, net.channels = entry, channels
                net.conv(4 * width, 1, stride, relu=False)
                entry = net.last
            net.add("Add", entry, branch)
            net.add("Relu")
    net.add("GlobalAveragePool")
    net.dense((2048, 1000))
    return net


def save_huge(path: Path) -> None:
    """2.5 GB of MatMul and Gemm weights in a file beside the model, written one after the other."""
    nodes, weights, offset, last = list[onnx.NodeProto](), list[onnx.TensorProto](), 0, "x"
    rng = np.random.default_rng(0)
    with open(path.with_name(f"{path.name}.data"), "wb") as data:
        for number in range(19):
            shape = (4096, 8192)
            tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": f"{path.name}.data", "offset": offset, "length": 4 * shape[0] * shape[1]}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            weight = rng.standard_normal(shape, np.float32) * np.float32((2 / shape[0]) ** 0.5)
            offset += data.write(weight.tobytes())
            weights.append(tensor)
            kind = ("Gemm", {"transB": 1}) if number % 2 else ("MatMul", {})
            nodes.append(helper.make_node(kind[0], [last, tensor.name], [f"v{number}"], **kind[1]))
            last = f"v{number}"
    graph = helper.make_graph(
        nodes,
        "huge",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4096])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 8192])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


NETS: dict[str, Callable[[Path], None]] = {
    "alexnet": lambda path: alexnet().save(path),
    "vgg16": lambda path: vgg16().save(path),
    "resnet50": lambda path: resnet50().save(path),
    "huge": save_huge,
}


# -- the jobs, each in a process of its own ----------------------------------------------------


def quantise(source: Path, target: Path) -> Callable[[], None]:
    """Load, quantise, encode, save: the passes of the command without its comparisons."""
    from onnx_admm.model import ModelView
    from onnx_admm.recipe import Recipe

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


def quantize_static(source: Path, target: Path) -> Callable[[], None]:
    """What a user of onnxruntime would write: weights per channel, activations calibrated."""
    from onnxruntime import quantization

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            samples = (rng.standard_normal((1, *_IMAGE), np.float32) for _ in range(_CALIBRATION_SAMPLES))
            self._feeds: Iterator[dict[str, Any]] = ({"x": sample} for sample in samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    def job() -> None:
        quantization.quantize_static(source, target, Samples(), per_channel=True)

    return job


JOBS = {job.__name__: job for job in (quantise, compress, quantize_static)}


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

    result: dict[str, Any] = {"rounds": arguments.rounds, "cores": len(os.sched_getaffinity(0)), "models": {}}
    for model in arguments.models:
        with tempfile.TemporaryDirectory(prefix="onnx-admm-") as name:
            source = Path(name, f"{model}.onnx")
            in_process("--make", model, source)
            runs: dict[str, list[dict[str, float]]] = {job: [] for job in arguments.jobs}
            for _ in range(arguments.rounds):
                for job, figures in runs.items():
                    figures.append(measured(job, source, Path(name)))
        row: dict[str, Any] = {job: medians(figures) for job, figures in runs.items()}
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
        case ["--make", net, path]:
            NETS[net](Path(path))
        case _:
            main()
