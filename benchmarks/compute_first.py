"""Computation before storage: the same number of weights, split by two prices; results as JSON.

    python benchmarks/compute_first.py MODEL TRAIN.npz TEST.npz OUT.json [--runs compute storage control]
        [--seed 0] [--measured M.json] [--deployment PYTHON]

Runs:

- ``compute``, ``storage``: ``recipes/vgg-cifar10-*.toml``, each as it is. The second takes over what the
  first measured of the layers (``measured`` of ``meet_budget``) if both are run, which changes no result:
  both measure the same model on the same samples.
- ``control``: the original fine-tuned for as many epochs at the same rates, nothing pruned.

Multiply-accumulates are counted from the written file: of each layer the dense ones times the share of
weights that are not zero, and these times the bits that tell apart the values of an output channel (each has
a scale of its own). ``--measured`` keeps what was measured of the layers, for the next run. Accuracies are
measured by ``--deployment``, a Python with a current onnxruntime, on the written file.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from deployment import deployed

from onnx_admm.api import Compression
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import ModelView, Pass
from onnx_admm.passes.fine_tune import FineTune
from onnx_admm.passes.meet_budget import MeetBudget
from onnx_admm.report import ModelFacts, Report
from onnx_admm.runtime.sessions import runtime_versions

RECIPES = Path(__file__).parents[1] / "recipes"
DENSE_BITS = 8


def recipe_of(name: str, measured: Any) -> Recipe:
    """The recipe of a run."""
    if name == "control":
        compute = Recipe.load(RECIPES / "vgg-cifar10-compute.toml")
        training = (unpruned(step) for step in compute.passes)
        return replace(compute, passes=tuple(step for step in training if step is not None))
    recipe = Recipe.load(RECIPES / f"vgg-cifar10-{name}.toml")
    if measured is None:
        return recipe
    passes = (
        replace(step, measured=measured) if isinstance(step, MeetBudget) else step for step in recipe.passes
    )
    return replace(recipe, passes=tuple(passes))


def unpruned(step: Pass) -> FineTune | None:
    """The training that is part of a pass; None without any."""
    if isinstance(step, MeetBudget):
        return FineTune(epochs=step.epochs, learning_rate=step.learning_rate, end_rate=step.end_rate)
    return step if isinstance(step, FineTune) else None


def work(layers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Multiply-accumulates of the convolutions, and of all layers, as the file has them."""
    sums: dict[str, float] = {}
    for scope, rows in (("conv", [row for row in layers if row["op_type"] == "Conv"]), ("all", layers)):
        macs = [(row["macs"], row["kept"] / math.prod(row["shape"]), row["bits"]) for row in rows]
        sums[f"{scope}_macs"] = sum(each * share for each, share, _ in macs)
        sums[f"{scope}_mac_bits"] = sum(each * share * bits for each, share, bits in macs)
        dense = sum(each for each, _, _ in macs)
        sums[f"{scope}_macs_of_dense"] = sums[f"{scope}_macs"] / dense
        sums[f"{scope}_mac_bits_of_dense_{DENSE_BITS}_bits"] = sums[f"{scope}_mac_bits"] / (
            DENSE_BITS * dense
        )
    return {name: round(figure, 4) for name, figure in sums.items()}


def layers_of(facts: ModelFacts, view: ModelView) -> list[dict[str, Any]]:
    """Layer by layer, as the file has it."""
    sites = {site.name: site for site in view.sites()}
    return [
        {
            "op_type": layer.op_type,
            "shape": list(layer.shape),
            "kept": layer.nonzeros,
            "density": round(layer.nonzeros / layer.parameters, 4),
            "bits": bits_of(view.read(layer.weight), sites[layer.weight].out_axis),
            "macs": layer.macs,
        }
        for layer in facts.layers
    ]


def bits_of(weights: npt.NDArray[Any], out_axis: int | None) -> int:
    """Of a kept weight, where each output channel has a scale of its own; 32 where it has no levels."""
    channels = np.moveaxis(weights, out_axis or 0, 0).reshape(weights.shape[out_axis or 0], -1)
    levels = max(len(np.unique(channel[channel != 0])) for channel in channels)
    return max(1, math.ceil(math.log2(levels))) if levels <= 256 else 32


def run(name: str, arguments: argparse.Namespace, measured: Any) -> tuple[dict[str, Any], Report]:
    """One run and the figures of its file."""
    recipe = recipe_of(name, measured)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        started = time.perf_counter()
        job = Compression(data=arguments.train, recipe=recipe, seed=arguments.seed, keep=True, threads=1)
        report = job.run(arguments.model, target)
        row: dict[str, Any] = {"run": name, "seed": arguments.seed}
        row["seconds"] = round(time.perf_counter() - started, 1)
        row |= deployed(target, arguments.test, recipe.preprocessing, arguments.deployment)
        after, view = report.comparison.after, ModelView.load(target)
        layers = layers_of(after, view)
    row |= {"nonzeros": after.nonzeros, "ratio": round(report.comparison.pruning_ratio, 2)}
    row |= work(layers) | {"layers": layers}
    for step in report.steps:
        if step.name == "meet_budget":
            row |= {key: step.figures[key] for key in ("cost_model", "budget", "by_operator")}
            row["why"] = dict(step.edits)
    return row, report


def verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Computation-first over storage-first."""
    by_name = {row["run"]: row for row in rows}
    if not {"compute", "storage"} <= set(by_name):
        return {}
    compute, storage = by_name["compute"], by_name["storage"]
    return {
        f"{key}_over_storage_first": round(compute[key] / storage[key], 4)
        for key in ("conv_macs", "conv_mac_bits", "all_macs", "all_mac_bits", "file_bytes", "nonzeros")
    }


def main() -> None:
    """Run what was asked and write the results after each run, so that none is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "train", "test", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--runs", nargs="+", default=["compute", "storage", "control"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measured", type=Path)
    parser.add_argument("--deployment", default=sys.executable)
    arguments = parser.parse_args()
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": []}
    known |= {"model": arguments.model.name, "versions": runtime_versions(), "machine": platform.machine()}
    preprocessing = recipe_of("compute", None).preprocessing
    known["original"] = deployed(arguments.model, arguments.test, preprocessing, arguments.deployment)
    kept: Path | None = arguments.measured
    measured = json.loads(kept.read_text()) if kept is not None and kept.exists() else None
    for name in arguments.runs:
        row, report = run(name, arguments, measured)
        for step in report.steps:
            measured = step.figures.get("measured", measured)
        if kept is not None and measured is not None:
            kept.write_text(json.dumps(measured))
        print(json.dumps(row), flush=True)
        known["runs"] = [each for each in known["runs"] if each["run"] != name] + [row]
        known["verdict"] = verdict(known["runs"])
        arguments.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
