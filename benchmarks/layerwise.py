"""Layer by layer: error on unseen samples beside magnitude, Wanda, SparseGPT, rounding and GPTQ.

    python benchmarks/layerwise.py OUT.json --model MODEL CALIBRATION.npz HELD_OUT.npz [--preprocessing P]
    python benchmarks/layerwise.py OUT.json --synthetic 2048
    python benchmarks/layerwise.py OUT.json --model ... --onnxsim PYTHON

The last adds rows of onnxsim's public functions, run by a Python that has it, to layers that are there.

OUT gains the layers of each run, a layer run again replaces its rows; the summary is made anew from all that
is there. Every method sees the same second moments, from the original model's inputs to the layer; targets
are its outputs, means taken off. Where HELD_OUT is CALIBRATION, other samples of that file are held out.
Errors are ``||X W' - T||^2 / ||T||^2`` on the held-out samples. Seconds are processor seconds; set
OMP_NUM_THREADS=1, else they count what the other threads spin.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from layer_trials import FORMS, Layer, Row, all_trials, memory_trials, onnxsim_trials

from onnx_admm.admm import LayerProblem, ridge_for
from onnx_admm.calibration.stream import CalibratedLayer, Calibration, calibrated_layer
from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.data import Preprocessing, open_dataset
from onnx_admm.settings.tables import build

_SPECTRUM = 1.0
"""Power of the synthetic inputs' eigenvalues; the models' own have 0.7 to 2.1, half of them near 1."""
_SAMPLES_PER_INPUT = 64
"""More than a compression would take: methods are compared, not how few samples they stand."""
_CHUNK = 4096
_ONNXSIM = "onnxsim "
_PLAIN_FORMS = [f"gptq {form}" for form in FORMS]
_ORDERED_FORMS = [f"gptq by diagonal {form}" for form in FORMS]


# -- layers ----------------------------------------------------------------------------------


class WellSampled(CalibratedLayer):
    """A layer of a model, seen from as many rows as the synthetic ones."""

    @property
    def rows_requested(self) -> int:
        """So many for each column."""
        return _SAMPLES_PER_INPUT * self.extractors[0].layout.columns


def model_layers(arguments: argparse.Namespace) -> Iterator[Layer]:
    """Every layer of a model whose inputs can be seen, with ``count`` samples for each side."""
    path, seen, unseen = arguments.model
    view = ModelView.load(path)
    stem = Path(path).stem.partition("-")[0]
    drawn = [0, arguments.count if seen == unseen else 0]
    sides = [
        _dataset(file, view, arguments, first) for file, first in zip((seen, unseen), drawn, strict=True)
    ]
    for site in view.sites():
        layer = calibrated_layer(view, site)
        if layer is None or (arguments.layers and not any(part in site.name for part in arguments.layers)):
            continue
        sampled = WellSampled(layer.site, layer.extractors, layer.bias)
        moments = [
            Calibration(view, side, batch_size=64, threads=1).moments(view, [sampled])[site.name]
            for side in sides
        ]
        if moments[0].problem.groups > 1:
            continue  # the rivals' papers have no groups
        family = "vgg 3x3" if stem == "vgg" and site.shape[2:] == (3, 3) else "other"
        yield Layer(f"{stem} {site.name}", family, moments[0].problem, moments[1].problem, moments[0].rows)


def _dataset(file: str, view: ModelView, arguments: argparse.Namespace, first: int) -> Dataset:
    """``count`` samples in a random order that is always the same, from ``first`` on."""
    table = tomllib.loads(Path(arguments.preprocessing).read_text()) if arguments.preprocessing else {}
    how = build(Preprocessing, table["preprocessing"], arguments.preprocessing) if table else None
    data = open_dataset(file, view, preprocessing=how)
    chosen = np.random.default_rng(0).permutation(len(data))[first : first + arguments.count]
    return data.select(np.sort(chosen))


def synthetic_layer(inputs: int, seed: int = 0) -> Layer:
    """A square layer of Gaussian weights; inputs of power-law spectrum, channels of unequal size."""
    rng = np.random.default_rng(seed)
    count = _SAMPLES_PER_INPUT * inputs
    directions = np.linalg.qr(rng.normal(size=(inputs, inputs)))[0]
    mixing = np.arange(1, inputs + 1)[:, None] ** (-_SPECTRUM / 2) * directions
    mixing = mixing * np.exp(0.5 * rng.normal(size=inputs))
    weights = (rng.normal(size=(inputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
    problems = []
    for _ in range(2):
        white = np.zeros((inputs, inputs))
        for start in range(0, count, _CHUNK):
            x = rng.normal(size=(min(_CHUNK, count - start), inputs))
            white += x.T @ x
        gram = mixing.T @ white @ mixing / count
        cross = weights.astype(np.float64) @ gram
        energy = np.einsum("ij,ij->i", cross, weights)
        problems.append(LayerProblem(gram[None], cross, weights, energy, ridge_for(inputs, count)))
    return Layer(f"synthetic {inputs} x {inputs}", "synthetic", *problems, samples=count)


# -- figures ---------------------------------------------------------------------------------


def run_layer(layer: Layer, *, memory: bool) -> dict[str, Any]:
    """All trials of one layer."""
    rows: list[Row] = []
    for row in all_trials(layer):
        print(json.dumps({"layer": layer.name, **row}), flush=True)
        rows.append(row)
    return {
        "layer": layer.name,
        "family": layer.family,
        "shape": list(layer.weights.shape),
        "samples": layer.samples,
        "ridge": layer.seen.ridge,
        "peak_bytes": memory_trials(layer) if memory else None,
        "rows": rows,
    }


def ratio(rows: list[Row], ours: str, rivals: list[str], figure: str = "error") -> float:
    """Our figure over the best of the rivals', chosen by the held-out error itself."""
    figures = {row["method"]: row[figure] for row in rows if figure in row}
    least = min(figures[name] for name in rivals)
    return round(figures[ours] / least, 4) if least > 0 else 1.0


def layer_ratios(layer: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By setting, our error over the rivals'."""
    found: dict[str, dict[str, float]] = {}
    settings: dict[str, list[Row]] = {}
    for row in layer["rows"]:
        settings.setdefault(row["setting"], []).append(row)
    for setting, rows in settings.items():
        if "+" in setting:
            chains = [row["method"] for row in rows if row["method"] != "ours"]
            found[setting] = {"to sparsegpt, gptq": ratio(rows, "ours", chains)}
        elif "bits" in setting:
            found[setting] = {
                **to_onnxsim(rows),
                "to gptq": ratio(rows, "ours", _PLAIN_FORMS),
                "to gptq in any order": ratio(rows, "ours", _PLAIN_FORMS + _ORDERED_FORMS),
                "centred, to gptq": ratio(rows, "ours centred", _PLAIN_FORMS),
                "seconds to gptq": ratio(rows, "ours", _PLAIN_FORMS[:1], "cpu_seconds"),
            }
        else:
            found[setting] = {
                "to sparsegpt": ratio(rows, "ours", ["sparsegpt"]),
                "quick, to sparsegpt": ratio(rows, "ours quick", ["sparsegpt"]),
                "to wanda": ratio(rows, "ours", ["wanda"]),
                **to_onnxsim(rows),
                "both refitted": ratio(rows, "ours", ["sparsegpt"], "refitted_error"),
                "seconds to sparsegpt": ratio(rows, "ours", ["sparsegpt"], "cpu_seconds"),
                "quick, seconds to sparsegpt": ratio(rows, "ours quick", ["sparsegpt"], "cpu_seconds"),
            }
    return found


def to_onnxsim(rows: list[Row]) -> dict[str, float]:
    """Our error over the best of onnxsim's functions, where they were run."""
    functions = [row["method"] for row in rows if row["method"].startswith(_ONNXSIM)]
    return {"to onnxsim": ratio(rows, "ours", functions)} if functions else {}


def summary(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst and the median ratio of each family and setting."""
    gathered: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for layer in layers:
        for setting, ratios in layer["ratios"].items():
            for name, figure in ratios.items():
                gathered.setdefault((layer["family"], setting, name), []).append((figure, layer["layer"]))
    table: dict[str, Any] = {}
    for (family, setting, name), figures in gathered.items():
        worst, where = max(figures)
        median = float(np.median([figure for figure, _ in figures]))
        place = table.setdefault(family, {}).setdefault(setting, {})
        place[name] = {"worst": worst, "where": where, "median": round(median, 4)}
    return table


def main() -> None:
    """Run what was asked; results are written after each layer, so that none is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", nargs=3, metavar=("MODEL", "CALIBRATION", "HELD_OUT"))
    parser.add_argument("--preprocessing")
    parser.add_argument("--count", type=int, default=512, help="samples of each side")
    parser.add_argument(
        "--layers", nargs="*", default=[], help="parts of layer names; all where none is given"
    )
    parser.add_argument("--synthetic", type=int, nargs="*", default=[], help="inputs of square layers")
    parser.add_argument("--memory", action="store_true", help="peak memory too (runs the 50 %% trials again)")
    parser.add_argument("--onnxsim", metavar="PYTHON", help="add rows of onnxsim's functions, and no others")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results["versions"] = {name: version(name) for name in ("onnx-admm", "numpy", "scipy")}
    results["machine"] = platform.machine()
    results.setdefault("commands", []).append(" ".join(Path(part).name for part in sys.argv))
    known = {layer["layer"]: layer for layer in results.get("layers", [])}
    found = model_layers(arguments) if arguments.model else iter(())
    for layer in (*found, *(synthetic_layer(inputs) for inputs in arguments.synthetic)):
        started = time.perf_counter()
        if arguments.onnxsim:
            done = known[layer.name]
            rows = [row for row in done["rows"] if not row["method"].startswith(_ONNXSIM)]
            done["rows"] = rows + list(onnxsim_trials(layer, arguments.onnxsim))
        else:
            done = run_layer(layer, memory=arguments.memory)
        known[layer.name] = {**done, "ratios": layer_ratios(done)}
        results["layers"] = list(known.values())
        results["summary"] = summary(results["layers"])
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{layer.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
