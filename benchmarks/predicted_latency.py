"""How well does the cost model ``onnxruntime`` predict what whole models and their nodes take?

python benchmarks/predicted_latency.py MODELS/*.onnx benchmarks/results/predicted-latency.json

For each model: the sum of separately timed kernels, beside the latency of the whole model, and the nodes'
times beside those that the runtime's profiler gives for them, by rank (Spearman). Times are measured afresh,
in a cache of their own; models that a former run measured stay in the result. Open axes get the extents of
``tests/extents.toml``, else 1; inputs are synthetic. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states
from scipy.stats import spearmanr

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import Feeds
from onnx_admm.data.synthetic.dataset import synthetic_dataset
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.model import ModelView, node_profiles
from onnx_admm.model.analysis.runtime_kernels import Place, trace
from onnx_admm.model.analysis.shapes import bind_extents
from onnx_admm.pricing.pricing import price
from onnx_admm.runtime.feeding import feed_at
from onnx_admm.runtime.installed import runtime_versions
from onnx_admm.runtime.sessions import open_session, optimised_model
from onnx_admm.runtime.timing import Stopwatch
from onnx_admm.runtime.timing_cache import environment

EXTENTS: Mapping[str, Mapping[str, int]] = tomllib.loads(
    (Path(__file__).parents[1] / "tests" / "extents.toml").read_text()
)

SECONDS = 2.5
"""Of timing the whole model, before its kernels are timed and again after."""

TELLABLE_US = 2.0
"""What the profiler can tell from its own cost. It reads 2 to 8 us for kernels that take half of one, and
those it does not rank; ``rank_correlation_all_nodes`` is over them too."""


_KERNEL = re.compile(r"kernel(\d+)_kernel_time")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    models = known(arguments.result)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for path in arguments.models:
            try:
                models[path.stem] = measure(path)
            except OnnxAdmmError as error:
                models[path.stem] = {"refused": str(error).replace(f"{path.parent}/", "")}
            print(path.stem, {k: v for k, v in models[path.stem].items() if k != "nodes"}, flush=True)
            write(arguments.result, models)


def known(result: Path) -> dict[str, Any]:
    """Models measured before in the same environment; those measured again are replaced."""
    if not result.exists():
        return {}
    content = json.loads(result.read_text())
    same = content["environment"] == environment(1) and content["versions"] == runtime_versions()
    return dict(content["models"]) if same else {}


def write(result: Path, models: Mapping[str, Any]) -> None:
    """The file, with what it was made with and how many models are within bounds."""
    figures = [entry for entry in models.values() if "error" in entry]
    content = {
        "question": "latency of whole models and ranks of their nodes, predicted from single kernels",
        "command": "python benchmarks/predicted_latency.py MODELS/*.onnx RESULT",
        "versions": runtime_versions(),
        "environment": environment(1),
        "summary": {
            "models": len(figures),
            "within_10_percent": sum(abs(entry["error"]) <= 0.10 for entry in figures),
            "within_25_percent": sum(abs(entry["error"]) <= 0.25 for entry in figures),
            "median_absolute_error": round(float(np.median([abs(entry["error"]) for entry in figures])), 4),
            "within_25_percent_and_rank_0.85": within(figures, 0.25, 0.85),
            "within_10_percent_and_rank_0.95": within(figures, 0.10, 0.95),
        }
        if figures
        else {},
        "models": models,
    }
    result.write_text(json.dumps(content, indent=1) + "\n")


def measure(path: Path) -> dict[str, Any]:
    """Figures of one model."""
    view = ModelView.load(path)
    bindings = extents(view, EXTENTS.get(path.stem, {}))
    fixed, _ = bind_extents(view, bindings)
    feeds = next(synthetic_dataset(fixed, 1, 0).batches(1)).feeds
    session = open_session(path, threads=1)
    fed = feed_at(session, feeds)
    whole = Stopwatch(session, fed, 1)
    run_for(whole, SECONDS)
    started = time.perf_counter()
    table = price(view, cost_model("onnxruntime"), bindings=bindings)
    taken = time.perf_counter() - started
    run_for(whole, SECONDS)
    measured, predicted = whole.timing().seconds * 1e6, (table.total.latency_s or 0.0) * 1e6
    nodes = node_times(view, bindings, fed)
    rows: dict[Place, float] = defaultdict(float)
    for row in table.rows:
        rows[row.layer.scope, row.layer.node] += (row.cost.latency_s or 0.0) * 1e6
    found = {place: (rows[place], us) for place, us in nodes.items() if place in rows}
    both = list(found.values())
    floor = min((us for _, us in both), default=0.0)
    tellable = [pair for pair in both if pair[1] >= floor + TELLABLE_US]
    return {
        "measured_us": round(measured, 1),
        "predicted_us": round(predicted, 1),
        "error": round(predicted / measured - 1, 4),
        "rank_correlation": rank(tellable),
        "rank_correlation_all_nodes": rank(both),
        "nodes_ranked": len(tellable),
        "nodes_with_kernels": len(both),
        "unpriced": [
            f"{entry.op_type} {entry.node}: {entry.why}" for entry in table.unpriced if not entry.scope
        ],
        "unpriced_in_subgraphs": sum(1 for entry in table.unpriced if entry.scope),
        "bindings": bindings,
        "seconds_to_price": round(taken, 1),
        "runs": len(whole.times),
        "nodes": {place[1]: [round(us, 2) for us in pair] for place, pair in found.items()},
    }


def extents(view: ModelView, known: Mapping[str, int]) -> dict[str, int]:
    """Every open axis: as known, else 1."""
    _, left_open = bind_extents(view, known)
    return {**known, **dict.fromkeys(left_open, 1)}


def run_for(watch: Stopwatch, seconds: float) -> None:
    """At least 20 runs."""
    end, least = time.perf_counter() + seconds, len(watch.times) + 20
    while time.perf_counter() < end or len(watch.times) < least:
        watch.run()


def node_times(view: ModelView, bindings: Mapping[str, int], feeds: Feeds) -> dict[Place, float]:
    """Microseconds of each node's kernels in profiled runs of the model: means of the lower quarters."""
    traced = trace(view)
    optimised = optimised_model(traced.model)
    weighted = frozenset((row.scope, row.node) for row in node_profiles(view, bindings) if row.weight)
    owners = traced.owners(optimised, weighted)
    model = onnx.ModelProto.FromString(optimised)
    for number, node in enumerate(model.graph.node):
        node.name = f"kernel{number}"
    times: dict[Place, float] = defaultdict(float)
    for number, durations in profiled(model.SerializeToString(), feeds).items():
        owner = owners[number]
        if owner is not None:
            times[owner] += float(np.mean(sorted(durations)[: max(1, len(durations) // 4)]))
    return dict(times)


def profiled(model: bytes, feeds: Feeds) -> dict[int, list[float]]:
    """Microseconds of each kernel, run by run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        try:
            session.run(None, feeds)
        except (states.RuntimeException, states.Fail):  # stored shapes are wrong, see open_session
            options.enable_mem_reuse = False
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        end, count = time.perf_counter() + SECONDS, 0
        while count < 30 or (time.perf_counter() < end and count < 400):
            session.run(None, feeds)
            count += 1
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[int, list[float]] = defaultdict(list)
    for event in events:
        kernel = _KERNEL.fullmatch(event["name"])
        if kernel is not None:
            durations[int(kernel.group(1))].append(event["dur"])
    return durations


def rank(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's correlation; None for fewer than three nodes."""
    if len(pairs) < 3:
        return None
    return round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 4)


def within(figures: Sequence[Mapping[str, Any]], error: float, correlation: float) -> dict[str, int]:
    """How many models are within an error and above a rank correlation, by the nodes that are ranked."""
    return {
        nodes: sum(abs(entry["error"]) <= error and (entry[nodes] or 0.0) >= correlation for entry in figures)
        for nodes in ("rank_correlation", "rank_correlation_all_nodes")
    }


if __name__ == "__main__":
    main()
