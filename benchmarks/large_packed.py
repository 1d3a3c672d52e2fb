"""AlexNet, VGG-16 and ResNet-50 pruned and quantised as ADMM-NN reports, as the files that a runtime opens.

    python benchmarks/large_packed.py OUT.json [--models alexnet resnet50 vgg16] [--deployment PYTHON]

No ImageNet here: layers have the shapes of the networks and random weights (a falling spectrum, rows and
columns of unequal size), so the figures are those of storage, not of accuracy. OUT keeps other models' rows.

Published (Ren et al., ASPLOS 2019, arXiv 1812.11677): the pruning ratios 24x, 20x and 7x, and megabytes of
codes alone (1.06, 3.2, 2.7) and with an index (2.45, 8.3, 4.1). Published for the 21x AlexNet (arXiv
1804.03294, released model): each layer's share, 81 %, 19 to 20 % and 2.8, 5.9 and 9.3 %. Inferred:

- bits of a weight, such that the codes take what was published: 5 in convolutions and 3 in other layers
  (AlexNet, VGG-16), 6 everywhere (ResNet-50);
- shares: for AlexNet those of the 21x model times one factor; for VGG-16 those of Deep Compression (arXiv
  1510.00149) times a factor for convolutions and one for the rest, such that ratio and codes come out; for
  ResNet-50 one for all layers but the first, which is whole.

The bound of a layer of n weights, k of them kept on M levels, is ``n H(k / n) + k log2 M`` bits: what a
support takes of which nothing is known but its size. Must: the file within 1.25 times the sum, aim 1.10.

Each step is a process of its own and tells its processor and wall-clock seconds and its peak resident memory;
loading is measured with nothing imported but the runtime, with optimisation on and off, beside the same
weights as a dense file.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_ROUNDS = 5
_DIRECTIONS = 64
"""Of a weight, in which half of its energy lies, falling as 1 / sqrt(i)."""
_UNEVEN = 0.3
"""Deviation of the logarithm of the size of a row, and of a column."""


@dataclass(frozen=True)
class Published:
    """What the paper reports of a network.

    Attributes:
        ratio: weights over kept weights.
        data_mb, indexed_mb: codes alone, and with the index.
        shares: kept, layer by layer, up to the factors; 1 is whole.
        convolutions: how many of the layers, the first ones, are convolutions.
        bits: of a weight, in convolutions and in the rest.
        factors: 1, or 2 where convolutions have one of their own.
    """

    ratio: float
    data_mb: float
    indexed_mb: float
    shares: tuple[float, ...]
    convolutions: int
    bits: tuple[int, int]
    factors: int = 1


_VGG_CONVOLUTIONS = (0.58, 0.22, 0.34, 0.36, 0.53, 0.24, 0.42, 0.32, 0.27, 0.34, 0.35, 0.29, 0.36)

PUBLISHED = {
    "alexnet": Published(24, 1.06, 2.45, (0.81, 0.20, 0.19, 0.20, 0.20, 0.028, 0.059, 0.093), 5, (5, 3)),
    "vgg16": Published(20, 3.2, 8.3, (*_VGG_CONVOLUTIONS, 0.04, 0.04, 0.23), 13, (5, 3), 2),
    "resnet50": Published(7, 2.7, 4.1, (1.0, *[1 / 7] * 53), 53, (6, 6)),
}


# -- the models --------------------------------------------------------------------------------


def uneven(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """A weight of falling spectrum whose rows and columns differ in size, and a bias."""
    rows, columns = shape[0], math.prod(shape[1:])
    strongest = min(_DIRECTIONS, rows, columns)
    sizes = (1 / np.sqrt(np.arange(1, strongest + 1))).astype(np.float32)
    left = rng.standard_normal((rows, strongest), np.float32) * sizes
    weight = left @ rng.standard_normal((strongest, columns), np.float32) / np.linalg.norm(sizes)
    weight += rng.standard_normal((rows, columns), np.float32)
    weight *= np.exp(_UNEVEN * rng.standard_normal((rows, 1), np.float32))
    weight *= np.exp(_UNEVEN * rng.standard_normal((1, columns), np.float32))
    weight *= np.float32((1 / columns) ** 0.5)
    return weight.reshape(shape), 0.1 * rng.standard_normal(rows, np.float32)


def kept_shares(published: Published, sizes: Sequence[int]) -> list[float]:
    """The share of each layer, such that the ratio is as published, and with two factors the codes."""
    kept, border = sum(sizes) / published.ratio, published.convolutions
    parts, targets = [slice(None)], [kept]
    if published.factors == 2:
        high, low = published.bits
        convolutions = (8e6 * published.data_mb - low * kept) / (high - low)
        parts, targets = [slice(border), slice(border, None)], [convolutions, kept - convolutions]
    shares = list(published.shares)
    for part, target in zip(parts, targets, strict=True):
        layers = list(zip(sizes[part], shares[part], strict=True))
        whole = sum(size for size, share in layers if share == 1.0)
        rest = sum(size * share for size, share in layers if share < 1.0)
        shares[part] = [share if share == 1.0 else share * (target - whole) / rest for _, share in layers]
    return shares


def make(model: str, target: Path) -> None:
    """Write the float model."""
    import large_nets

    getattr(large_nets, model)(uneven).save(target)


# -- writing the file --------------------------------------------------------------------------


def write(model: str, source: Path, target: Path) -> dict[str, Any]:
    """Prune, quantise, encode, save through the passes; the dense equivalent is written beside it."""
    from onnx_admm.config.recipe import Recipe
    from onnx_admm.model import ModelView

    published, clock = PUBLISHED[model], Clock()
    view = ModelView.load(source)
    sites = view.sites()
    bits = [published.bits[number >= published.convolutions] for number in range(len(sites))]
    layers = kept_shares(published, [site.size for site in sites])
    steps = [
        {"name": "admm_prune", "layers": layers},
        {"name": "admm_quantize", "bits": bits},
        {"name": "encode", "format": "packed"},
        {"name": "minify"},
    ]
    dense = Recipe.parse({"pass": steps[:2]}).pipeline().run(view).model
    stages = {"prune and quantise": clock.lap()}
    dense.save(target.with_name("dense.onnx"))
    clock.lap()
    result = Recipe.parse({"pass": steps[2:]}).pipeline().run(dense)
    file_bytes = result.model.save(target)
    stages["encode and save"] = clock.lap()
    figures = result.reports[0].report.figures
    rows = [layer_row(row, width) for row, width in zip(figures["layers"], bits, strict=True)]
    biases = sum(view.read(site).shape[0] for site in sites) * 4
    return {
        "stages": stages,
        "file_bytes": file_bytes,
        "oldest_opset": figures["oldest_opset"],
        "decode_bytes": figures["decode_bytes"],
        "data_bytes": round(figures["data_bytes"]),
        "data_and_index_bytes": round(figures["data_and_index_bytes"]),
        "bias_bytes": biases,
        "dense_bytes": target.with_name("dense.onnx").stat().st_size,
        "layers": rows,
    }


def layer_row(row: dict[str, Any], bits: int) -> dict[str, Any]:
    """One layer: what it takes, and the bound of its own support and codes."""
    elements, kept = row["elements"], row["nonzeros"]
    share = kept / elements
    entropy = -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)
    return {
        "layer": row["layer"],
        "elements": elements,
        "kept": kept,
        "bits": bits,
        "coding": row["coding"],
        "data_bytes": row["data_bytes"],
        "index_bytes": row["index_bytes"],
        "bound_bytes": round((elements * entropy + kept * bits) / 8),
    }


class Clock:
    """Seconds since the last look, and the most memory held so far."""

    def __init__(self) -> None:
        self._started = (time.perf_counter(), time.process_time())

    def lap(self) -> dict[str, float]:
        """What has passed since the last lap."""
        now = (time.perf_counter(), time.process_time())
        wall, spent = (after - before for after, before in zip(now, self._started, strict=True))
        self._started = (time.perf_counter(), time.process_time())
        return {"seconds": round(wall, 2), "cpu_seconds": round(spent, 2), "peak_mb": peak_mb()}


def peak_mb(field: str = "VmHWM") -> float:
    """Most resident memory of this process so far (Linux); ``VmRSS``: what it holds now.

    Not what ``resource`` tells, which starts with the memory of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition(f"{field}:")[2].split()[0]) / 1024, 1)


# -- opening it in a runtime -------------------------------------------------------------------


def open_and_run(model: Path, optimise: bool, outputs: Path) -> dict[str, Any]:
    """Open a file and run it on one seeded image; imports nothing but the runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    before, clock = peak_mb("VmRSS"), Clock()
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    load = clock.lap()
    image = np.random.default_rng(1).standard_normal((1, 3, 224, 224), np.float32)
    spent = []
    for _ in range(_ROUNDS if optimise else 1):
        (result,) = session.run(None, {"x": image})
        spent.append(clock.lap()["cpu_seconds"])
    np.save(outputs, result)
    return {
        "runtime": onnxruntime.__version__,
        "load_seconds": load["seconds"],
        "load_cpu_seconds": load["cpu_seconds"],
        "load_peak_mb": round(load["peak_mb"] - before, 1),
        "run_cpu_seconds": min(spent),
        "peak_mb": round(peak_mb() - before, 1),
    }


def opened(python: str, folder: Path) -> dict[str, Any]:
    """Both files in one runtime, optimised and not, and how far outputs differ from the dense file's."""
    table, expected = dict[str, Any](), None
    for name, optimise in (("dense", True), ("packed", True), ("packed", False)):
        row = in_process(python, "--open", folder / f"{name}.onnx", int(optimise), folder / "y.npy")
        found = np.load(folder / "y.npy")
        if expected is None:
            expected = found
        else:
            error = float(np.abs(found - expected).max() / np.abs(expected).max())
            row["largest_difference"] = error
        table[name if optimise else f"{name}, not optimised"] = row
    return table


def in_process(python: str, *arguments: object) -> dict[str, Any]:
    """What this script prints in another process; nothing large is done in this one."""
    command = [python, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- the table ---------------------------------------------------------------------------------


def measured(model: str, pythons: Sequence[str]) -> dict[str, Any]:
    """All figures of one network."""
    published = PUBLISHED[model]
    with tempfile.TemporaryDirectory(prefix="onnx-admm-") as name:
        folder = Path(name)
        in_process(sys.executable, "--make", model, folder / "float.onnx")
        row = in_process(sys.executable, "--write", model, folder / "float.onnx", folder / "packed.onnx")
        (folder / "float.onnx").unlink()
        runs = [opened(python, folder) for python in pythons]
    layers = row["layers"]
    elements, kept = (sum(layer[key] for layer in layers) for key in ("elements", "kept"))
    bound = sum(layer["bound_bytes"] for layer in layers)
    return {
        "weights": elements,
        "kept": kept,
        "pruning_ratio": round(elements / kept, 2),
        "bound_bytes": bound,
        "coded_to_bound": round(row["data_and_index_bytes"] / bound, 4),
        "file_to_bound": round(row["file_bytes"] / bound, 4),
        "file_to_dense": round(row["dense_bytes"] / row["file_bytes"], 1),
        "published_mb": {"data": published.data_mb, "data and index": published.indexed_mb},
        "published_to_bound": round(published.indexed_mb * 1e6 / bound, 4),
        **row,
        "runs": runs,
    }


def main() -> None:
    """Measure the models asked for, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="*", choices=sorted(PUBLISHED), default=sorted(PUBLISHED))
    parser.add_argument("--deployment", help="a Python with another onnxruntime, to open the files in too")
    arguments = parser.parse_args()
    from onnx_admm.runtime.sessions import runtime_versions

    known = json.loads(arguments.out.read_text())["models"] if arguments.out.exists() else {}
    pythons = [sys.executable, *([arguments.deployment] if arguments.deployment else [])]
    for model in arguments.models:
        known[model] = measured(model, pythons)
        shown = {key: known[model][key] for key in ("file_bytes", "file_to_bound", "stages", "runs")}
        print(model, json.dumps(shown), flush=True)
        command = "python benchmarks/large_packed.py OUT.json --deployment PYTHON"
        result = {"command": command, "versions": runtime_versions(), "models": known}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--make", model, path]:
            make(model, Path(path))
            print("{}")
        case ["--write", model, source, path]:
            print(json.dumps(write(model, Path(source), Path(path))))
        case ["--open", path, optimise, outputs]:
            print(json.dumps(open_and_run(Path(path), optimise == "1", Path(outputs))))
        case _:
            main()
