"""What break-even ratios buy on the ADMM-NN accelerator, at no less accuracy; results as JSON.

    python benchmarks/restoring.py MODEL TRAIN.npz TEST.npz OUT.json [--macs 0.3] [--samples 512]
        [--bind batch=1] [--preprocessing P.toml] [--deployment PYTHON]

Densities alone, one-shot (``reconstruct_layers``, no labels, no training), from one measurement of the
layers:

- ``macs``: the split of least relative error at a share of the multiply-accumulates, as if every zero saved
  time.
- ``restored``: the same, its layers under their break-even ratio back at dense.
- ``latency``: the split of least relative error by the accelerator's own prices, at the least latency at
  which no more relative error is expected than of ``macs``.

Latency is the cost model ``admm-nn``'s, as a share of the dense model's; accuracies are test accuracies of
the written file in the runtime of ``--deployment``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from deployment import deployed

from onnx_admm.calibration.rates import Trial, measured_surfaces
from onnx_admm.calibration.stream import Calibration, calibrated_layer
from onnx_admm.cli.target import parse_bindings
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import CompressionOption, Dataset, ModelView, PassContext, SilentProgress
from onnx_admm.data import open_dataset
from onnx_admm.data.readers.preprocessing import as_preprocessing
from onnx_admm.errors import BudgetExceeded
from onnx_admm.model import node_profiles
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.pricing.pricing import price_layers
from onnx_admm.runtime.sessions import runtime_versions
from onnx_admm.targeting.search_space import SearchSpace, build_search_space

DENSITIES = (0.01, 0.03, 0.08, 0.2, 0.4, 0.7)
_BISECTIONS = 20


@dataclass(frozen=True)
class Bench:
    """One model, measured once."""

    model: ModelView
    samples: Dataset
    bindings: Mapping[str, int]

    def search_spaces(self) -> tuple[SearchSpace, SearchSpace]:
        """By multiply-accumulates, and by the accelerator's latency."""
        calibration = Calibration(original=self.model.fork(), samples=self.samples, threads=1)
        sites = self.model.sites()
        layers = [layer for site in sites if (layer := calibrated_layer(self.model, site)) is not None]
        few = self.samples.select(np.arange(128))
        with SilentProgress().task("measure", len(sites)) as task:
            trial = Trial(calibration, few, PassContext(reference=self.model), task)
            surfaces = measured_surfaces(sites, layers, trial, densities=DENSITIES)
        rows = node_profiles(self.model, self.bindings)

        def search_space(name: str, quantity: str) -> SearchSpace:
            priced = cost_model(name)
            whole = price_layers(rows, priced)
            return build_search_space(
                rows, priced, {quantity: 0.5}, surfaces, original=whole, least_density=DENSITIES[0]
            )

        return search_space("macs", "macs"), search_space("admm-nn", "latency")

    def built(self, options: Mapping[str, CompressionOption]) -> ModelView:
        """The model with these densities."""
        made = self.model.fork()
        densities = tuple(options[site.name].density for site in made.sites())
        context = PassContext(reference=self.model, train=self.samples)
        ReconstructLayers(layers=densities, samples=len(self.samples)).run(made, context)
        return made


def restored(
    search_space: SearchSpace, options: Mapping[str, CompressionOption]
) -> dict[str, CompressionOption]:
    """The compression options, those under their break-even ratio replaced by dense ones."""
    return {
        name: CompressionOption() if 1 / each.density < search_space.candidates[name].break_even(32) else each
        for name, each in options.items()
    }


def relative_error_of(search_space: SearchSpace, options: Mapping[str, CompressionOption]) -> float:
    """Return the relative error that is expected of compression options."""
    total = 0.0
    for name, each in options.items():
        candidates = search_space.candidates[name]
        total += float(candidates.relative_errors[candidates.options.index(each)])
    return total


def least_latency(search_space: SearchSpace, relative_error: float) -> dict[str, CompressionOption]:
    """The fastest split of which no more relative error is expected."""
    scales = dict.fromkeys(search_space.candidates, 1.0)
    low, high, best = 0.0, 1.0, search_space.choose([1.0], scales)
    for _ in range(_BISECTIONS):
        share = (low + high) / 2
        try:
            choice = search_space.choose([share], scales)
        except BudgetExceeded:
            low = share
            continue
        if search_space.relative_error(choice, scales) <= relative_error:
            high, best = share, choice
        else:
            low = share
    return search_space.options(best)


def main() -> None:
    """Measure, split three ways, build, and write what came of it after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "train", "test", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--macs", type=float, default=0.3)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--bind", nargs="*", default=[])
    parser.add_argument("--preprocessing", type=Path)
    parser.add_argument("--deployment", default=sys.executable)
    arguments = parser.parse_args()
    model = ModelView.load(arguments.model)
    how = as_preprocessing(arguments.preprocessing) if arguments.preprocessing else None
    train = open_dataset(arguments.train, model, preprocessing=how)
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[: arguments.samples])
    bench = Bench(model, train.select(chosen), parse_bindings(arguments.bind))
    started = time.perf_counter()
    by_macs, by_latency = bench.search_spaces()
    scales = dict.fromkeys(by_macs.candidates, 1.0)
    split = by_macs.options(by_macs.choose([arguments.macs], scales))
    ways = {
        "macs": split,
        "restored": restored(by_latency, split),
        "latency": least_latency(by_latency, relative_error_of(by_macs, split)),
    }
    known: dict[str, Any] = {
        "model": arguments.model.name,
        "samples": arguments.samples,
        "macs": arguments.macs,
        "versions": runtime_versions(),
        "machine": platform.machine(),
        "original": deployed(arguments.model, arguments.test, how, arguments.deployment),
        "break_even": {name: each.break_even(32) for name, each in by_latency.candidates.items()},
        "measuring_seconds": round(time.perf_counter() - started, 1),
        "runs": [],
    }
    rows = node_profiles(model, bench.bindings)
    for name, options in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            bench.built(options).save(target := Path(folder) / "out.onnx")
            figures = deployed(target, arguments.test, how, arguments.deployment)
        row = {
            "split": name,
            "latency_of_dense": round(by_latency.cost_of(options)[0], 4),
            "macs_of_dense": round(by_macs.cost_of(options)[0], 4),
            "pruning_ratio": round(_ratio(rows, options), 2),
            "expected_relative_error": round(relative_error_of(by_macs, options), 5)
            if name != "latency"
            else None,
            "accuracy": figures["accuracy"],
            "onnxruntime": figures["onnxruntime"],
            "layers": {key: round(1 / each.density, 2) for key, each in options.items()},
        }
        print(json.dumps(row), flush=True)
        known["runs"].append(row)
        arguments.out.write_text(json.dumps(known, indent=1) + "\n")


def _ratio(rows: Any, options: Mapping[str, CompressionOption]) -> float:
    sizes = {row.weight: row.parameters for row in rows if row.weight in options and row.parameters}
    kept = sum(size * options[name].density for name, size in sizes.items())
    return sum(sizes.values()) / kept


if __name__ == "__main__":
    main()
