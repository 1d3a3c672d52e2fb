"""One layer under every method: error on samples that no method has seen, and what each took."""

from __future__ import annotations

import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rivals.gptq import FORMS, best_grid, gptq
from rivals.pruning import Density, magnitude, wanda
from rivals.sparsegpt import sparsegpt

from onnx_admm.admm import (
    AtMostK,
    ConstraintSet,
    LayerProblem,
    NofM,
    ReconstructionSettings,
    ShiftedLevels,
    SparseLevels,
    reconstruct,
)
from onnx_admm.admm.reconstruction.support_fit import conjugate_fit

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

DENSITIES: dict[str, Density] = {
    "50 %": 0.5,
    "60 %": 0.4,
    "70 %": 0.3,
    "80 %": 0.2,
    "90 %": 0.1,
    "2:4": (2, 4),
}
BITS = (4, 3, 2)
QUICK = ReconstructionSettings(iterations=24, rho=0.1, every=1, fit_steps=5, trade_rounds=None)
_DAMPING = 0.01
_REFIT_STEPS = 200


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer with its samples.

    Attributes:
        name: for the table.
        family: ``vgg 3x3``, ``other`` or ``synthetic``: the figures promised differ.
        seen: second moments of the calibration samples; targets are the original's outputs.
        unseen: of the samples that errors are measured on.
        samples: rows of X that ``seen`` sums over.
    """

    name: str
    family: str
    seen: LayerProblem
    unseen: LayerProblem
    samples: int

    @property
    def weights(self) -> Floats:
        """The original weights, (rows, d)."""
        return self.seen.original.astype(np.float64)

    @property
    def gram(self) -> Floats:
        """What every rival gets: the same H as ours, (d, d)."""
        return self.seen.gram[0]

    def row(self, setting: str, method: str, weights: Floats, seconds: float) -> Row:
        """One line of the table, without the layer's own columns."""
        error = self.unseen.error(weights)
        return {"setting": setting, "method": method, "error": error, "cpu_seconds": round(seconds, 4)}

    def refitted(self, weights: Floats) -> float:
        """Error of the weights that are optimal on the support of ``weights``, at the rivals' own damping."""
        damped = replace(self.seen, ridge=_DAMPING)
        best = conjugate_fit(damped, weights != 0, weights, steps=_REFIT_STEPS)
        return self.unseen.error(best)


def timed(call: Callable[[], Floats]) -> tuple[Floats, float]:
    """An answer and the processor seconds it took; wall time would count what else the machine does."""
    started = time.process_time()
    answer = call()
    return answer, time.process_time() - started


def peak_bytes(call: Callable[[], Floats]) -> int:
    """The most memory held at once beside what was held before."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def ours(layer: Layer, constraint: ConstraintSet, settings: ReconstructionSettings | None = None) -> Floats:
    """Our weights, from moments alone."""
    fresh = replace(layer.seen)  # nothing factorised beforehand
    found = reconstruct(fresh, constraint, settings)
    if not constraint.contains(found.weights):
        raise AssertionError(f"{layer.name}: the answer is not in {constraint}")
    return found.weights.astype(np.float64)


def support_of(layer: Layer, density: Density) -> ConstraintSet:
    """The set that a density stands for."""
    if isinstance(density, tuple):
        return NofM(*density)
    return AtMostK(round(density * layer.weights.size))


def pruning_trials(layer: Layer) -> Iterator[Row]:
    """Each share of zeros under each method, with free weights and with the best on each support."""
    weights, gram = layer.weights, layer.gram
    for setting, density in DENSITIES.items():
        support = support_of(layer, density)
        methods: dict[str, Callable[[], Floats]] = {
            "magnitude": lambda d=density: magnitude(weights, d),
            "wanda": lambda d=density: wanda(weights, gram, d),
            "sparsegpt": lambda d=density: sparsegpt(weights, gram, d),
            "ours": lambda s=support: ours(layer, s),
            "ours quick": lambda s=support: ours(layer, s, QUICK),
        }
        for method, call in methods.items():
            found, seconds = timed(call)
            row = layer.row(setting, method, found, seconds)
            yield {**row, "refitted_error": layer.refitted(found)}


def level_trials(layer: Layer) -> Iterator[Row]:
    """Each number of bits: rounding and GPTQ on each form of grid, in both orders, and ours."""
    for bits in BITS:
        setting = f"{bits} bits"
        for form in FORMS:
            grid, fitting = timed_grid(layer, bits, form)
            yield layer.row(setting, f"rtn {form}", grid.round(layer.weights), fitting)
            for ordered in (False, True):
                call = lambda g=grid, o=ordered: gptq(layer.weights, layer.gram, g, act_order=o)  # noqa: E731
                found, seconds = timed(call)
                name = "gptq by diagonal" if ordered else "gptq"
                yield layer.row(setting, f"{name} {form}", found, fitting + seconds)
        for name, centred in (("ours", False), ("ours centred", True)):
            levels = ShiftedLevels(bits, axis=0, centred=centred)
            found, seconds = timed(lambda s=levels: ours(layer, s))
            yield layer.row(setting, name, found, seconds)


def timed_grid(layer: Layer, bits: int, form: str) -> tuple[Any, float]:
    """The rivals' grid and its seconds."""
    started = time.process_time()
    grid = best_grid(layer.weights, bits, form)
    return grid, time.process_time() - started


def joint_trials(layer: Layer) -> Iterator[Row]:
    """Half zeros and four bits: SparseGPT, then GPTQ on what it left, beside ours."""
    setting = "50 % + 4 bits"
    pruned, pruning = timed(lambda: sparsegpt(layer.weights, layer.gram, 0.5))
    mask = pruned != 0
    for form in FORMS:
        for ordered in (False, True):
            grid = best_grid(pruned, 4, form, mask)
            call = lambda g=grid, o=ordered: gptq(pruned, layer.gram, g, mask=mask, act_order=o)  # noqa: E731
            found, seconds = timed(call)
            name = "gptq by diagonal" if ordered else "gptq"
            yield layer.row(setting, f"sparsegpt, {name} {form}", found, pruning + seconds)
    levels = SparseLevels(layer.weights.size // 2, 4, axis=0)
    found, seconds = timed(lambda: ours(layer, levels))
    yield layer.row(setting, "ours", found, seconds)


def onnxsim_trials(layer: Layer, python: str) -> Iterator[Row]:
    """onnxsim's public functions, in a Python that has it."""
    script = Path(__file__).parent / "rivals" / "onnxsim_layer.py"
    with tempfile.TemporaryDirectory() as folder:
        given, answers = Path(folder) / "layer.npz", Path(folder) / "out.npz"
        np.savez(given, weights=layer.weights.astype(np.float32), gram=layer.gram)
        subprocess.run([python, str(script), str(given), str(answers)], check=True)
        with np.load(answers) as found:
            for name in found.files:
                setting, *method = name.split("|")
                if len(method) == 1:
                    seconds = found[f"{name}|s"].item()
                    yield layer.row(setting, method[0], found[name].astype(np.float64), seconds)


def memory_trials(layer: Layer) -> Row:
    """Peak memory at half zeros, bytes."""
    support = support_of(layer, 0.5)
    return {
        "sparsegpt": peak_bytes(lambda: sparsegpt(layer.weights, layer.gram, 0.5)),
        "ours": peak_bytes(lambda: ours(layer, support)),
    }


def all_trials(layer: Layer) -> Iterator[Row]:
    """Every row of one layer."""
    yield from pruning_trials(layer)
    yield from level_trials(layer)
    yield from joint_trials(layer)
