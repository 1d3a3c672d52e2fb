"""Run a recipe and what it is held against, over seeds; results as JSON.

    python benchmarks/recipes.py RECIPE MODEL TRAIN TEST OUT.json [--seeds 0 1 2]
        [--variants admm magnitude control distillation] [--deployment PYTHON]

Variants, all with the recipe's own data, epochs, rates, augmentation and distillation:

- ``admm``: the recipe as it is.
- ``magnitude``: pruning replaced by gradual cubic magnitude pruning to the same budgets, epochs and rates.
- ``control``: the original fine-tuned for as many epochs, nothing pruned: what training alone gives.
- ``distillation``: the recipe without labels, the original being the only teacher.

Accuracies are measured by ``--deployment``, a Python with a current onnxruntime, on the written file.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from deployment import deployed
from gradual_magnitude import GradualMagnitudePrune

from onnx_admm.api import Compression
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Pass
from onnx_admm.local_files.named_arrays import write_npz
from onnx_admm.model import ModelView
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.fine_tune import FineTune
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.runtime.sessions import runtime_versions

_PRUNED = 0.5

VARIANTS = ("admm", "magnitude", "control", "distillation")


def variant(recipe: Recipe, name: str) -> Recipe:
    """The recipe changed into one of the things it is held against."""
    match name:
        case "magnitude":
            return replace(recipe, passes=tuple(_by_magnitude(recipe.passes)))
        case "control":
            return replace(recipe, passes=(_fine_tuned(recipe.passes),))
        case "distillation":
            settings = replace(recipe.training, loss="distillation")
            return replace(recipe, training=settings)
        case _:
            return recipe


def _fine_tuned(passes: Sequence[Pass]) -> FineTune:
    """Training alone, for as many epochs as all passes together, at the first one's rates."""
    total = 0
    for step in passes:
        match step:
            case AdmmPrune():
                total += step.epochs + step.steps - 1 + step.retrain_epochs
            case AdmmQuantize():
                total += step.epochs + (len(step.fractions) - 1) * step.round_epochs + step.retrain_epochs
            case FineTune():
                total += step.epochs
    first = next(step for step in passes if isinstance(step, AdmmPrune | FineTune))
    return FineTune(epochs=total, learning_rate=first.learning_rate, end_rate=first.end_rate)


def _by_magnitude(passes: Sequence[Pass]) -> Iterator[Pass]:
    """Every `admm_prune` by the baseline; a pruning `reconstruct_layers` and its `fine_tune` likewise.

    The baseline prunes during the first ``_PRUNED`` of the epochs that follow a reconstruction.
    """
    budget: float | None = None
    for step in passes:
        match step:
            case AdmmPrune():
                fields_of = {entry.name: getattr(step, entry.name) for entry in fields(step)}
                yield GradualMagnitudePrune(**fields_of)
            case ReconstructLayers(ratio=ratio) if ratio is not None:
                budget = ratio
            case FineTune() if budget is not None:
                pruning = round(_PRUNED * step.epochs)
                yield GradualMagnitudePrune(
                    ratio=budget,
                    epochs=pruning,
                    retrain_epochs=step.epochs - pruning,
                    learning_rate=step.learning_rate,
                    end_rate=step.end_rate,
                )
                budget = None
            case _:
                yield step


def run(recipe: Recipe, arguments: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """One run: the figures of the written file, measured in the deployment runtime."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        train = Path(folder) / "train.npz"
        arrays = dict(np.load(arguments.train))
        if name == "distillation":
            arrays.pop("labels")
        write_npz(train, arrays)
        started = time.perf_counter()
        chosen = variant(recipe, name)
        report = Compression(data=train, recipe=chosen, seed=seed, keep=True).run(arguments.model, target)
        seconds = time.perf_counter() - started
        figures = deployed(target, arguments.test, recipe.preprocessing, arguments.deployment)
        figures["sizes"] = asdict(report.comparison.after.sizes)
        figures |= weights_left(target, arguments.model)
        return {"variant": name, "seed": seed, "seconds": round(seconds, 1), **figures}


def weights_left(target: Path, original: Path) -> dict[str, Any]:
    """Nonzeros of the reloaded file, and how many weights the original had for each."""
    before, after = ModelView.load(original), ModelView.load(target)
    total = sum(site.size for site in before.sites())
    kept = sum(int(np.count_nonzero(after.read(site))) for site in after.sites())
    return {"nonzeros": kept, "ratio": round(total / kept, 2)}


def main() -> None:
    """Run what was asked and write the results after each run, so that none is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("recipe", "model", "train", "test", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=["admm"], choices=VARIANTS)
    parser.add_argument("--deployment", default=sys.executable)
    arguments = parser.parse_args()
    recipe = Recipe.load(arguments.recipe)
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": []}
    known |= {"recipe": arguments.recipe.stem, "versions": runtime_versions(), "machine": platform.machine()}
    known["original"] = deployed(arguments.model, arguments.test, recipe.preprocessing, arguments.deployment)
    for seed in arguments.seeds:
        for name in arguments.variants:
            row = run(recipe, arguments, name, seed)
            print(json.dumps(row), flush=True)
            known["runs"].append(row)
            arguments.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
