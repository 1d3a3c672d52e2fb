"""The share of Conv, MatMul and Gemm in the time of each model, added to the rows that ``bare.py`` wrote.

    python benchmarks/product_share.py MODELS RESULTS.json

Kernel times of ONNX Runtime's profile, one thread, batch 1, medians over runs on made-up inputs; fused and
blocked forms count as what they were made of. Then the geometric mean of ``latency_ratio`` is printed over
the models in which these operators take 60 % of the time, and over all.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import onnxruntime

from onnx_admm.contracts import ModelView
from onnx_admm.data import synthetic_dataset
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.model.analysis.shapes import forget_wrong_shapes
from onnx_admm.runtime.feeding import feed_at
from onnx_admm.runtime.sessions import open_session

PRODUCTS = re.compile(r"^(Nhwc|Fused|FusedConv|Transpose)*(Conv|MatMul|Gemm|ConvTranspose)")
SHARE, SEED, RUNS = 0.6, 2002, 20


def products_share(path: Path) -> float | None:
    """Return the share of kernels of products in the time of a run, 0 to 1; None where it does not run."""
    try:
        model = ModelView.load(path)
        forget_wrong_shapes(model)  # the runtime would share buffers of unequal size
        batch = next(synthetic_dataset(model, 1, SEED).batches(1)).feeds
        feed = feed_at(open_session(model, threads=1), batch)
    except OnnxAdmmError:
        return None
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "run"))
        session = onnxruntime.InferenceSession(model.to_bytes(), options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"], event["args"]["op_name"]].append(event["dur"])
    medians = {key: statistics.median(durations) for key, durations in times.items()}
    products = sum(time for (_, op_type), time in medians.items() if PRODUCTS.match(op_type))
    return round(products / sum(medians.values()), 3)


def mean(ratios: list[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> None:
    """Add the shares and print the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path)
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    ratios: dict[str, tuple[float, float]] = {}
    for name, row in results["models"].items():
        share = products_share(arguments.models / f"{name}.onnx")
        row["original"]["products_share"] = share
        ratio = row.get("calibrated", {}).get("latency_ratio")
        if share is not None and ratio is not None:
            ratios[name] = share, ratio
            print(f"{name}: {share:.2f} of the time, {ratio:.3f} of the latency")
    arguments.results.write_text(json.dumps(results, indent=1) + "\n")
    heavy = [ratio for share, ratio in ratios.values() if share >= SHARE]
    every = [ratio for _, ratio in ratios.values()]
    print(f"{len(heavy)} of {len(every)} with {SHARE:.0%}: {mean(heavy):.3f}; all: {mean(every):.3f}")


if __name__ == "__main__":
    main()
