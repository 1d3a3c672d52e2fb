"""Pruning without bits: kept weights and their index are stored as well as the bare command would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_admm.api import compress
from onnx_admm.config.flags import Flags, recipe_from_flags
from onnx_admm.contracts import Array
from onnx_admm.encoding.choice import choose_plan, plan_bytes
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.compression_options import BYTES, HALF, KEPT, Rounding, Treated
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text

RNG = np.random.default_rng(0)
NET = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,32] x) => (float[N,8] y) {
    h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"""


def pruned(*shape: int, density: float = 0.1, seed: int = 0) -> Array:
    """Random weights of which the largest share is kept."""
    values = np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)
    least = np.quantile(np.abs(values), 1 - density)
    return np.where(np.abs(values) > least, values, 0).astype(np.float32)


@pytest.mark.parametrize("rounding", [*KEPT, BYTES, Rounding(9), Rounding(4), Rounding(3)], ids=str)
def test_price_of_a_weight_with_zeros_is_that_of_the_file(rounding: Rounding) -> None:
    """Of another weight beside one whose decoder is there: what layers share has no price."""
    layers = [Treated(pruned(48, 256, seed=seed), 0) for seed in (0, 1)]
    rounded = [Weight(str(i), layer.apply(rounding)) for i, layer in enumerate(layers)]
    alone, both = (plan_bytes(choose_plan(part, (), 17), part, 17) for part in (rounded[:1], rounded))
    assert both - alone == pytest.approx(layers[1].stored_bytes(rounding), rel=0.1, abs=60)


@pytest.mark.parametrize("rounding", [None, HALF], ids=str)
def test_values_that_are_kept_as_they_are_cost_themselves_and_their_gaps(rounding: Rounding | None) -> None:
    treated = Treated(pruned(48, 256), 0)
    values = treated.values if rounding is None else treated.apply(rounding)
    found = plan_bytes(choose_plan([Weight("w", values)], (), 17), [Weight("w", values)], 17)
    assert found == pytest.approx(treated.stored_bytes(rounding), rel=0.05, abs=150)
    assert found < (0.2 if rounding is None else 0.12) * treated.values.nbytes


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 0.9])
def test_zeros_stay_zeros_whatever_is_tried(density: float) -> None:
    treated = Treated(pruned(16, 64, density=density), 0)
    assert treated.further == KEPT
    for rounding in (*KEPT, HALF, BYTES, Rounding(4)):
        assert not treated.apply(rounding)[treated.values == 0].any()


def test_nothing_further_is_tried_of_weights_without_zeros() -> None:
    assert Treated(pruned(16, 64, density=1.0) + np.float32(1), 0).further == ()


def test_pruning_alone_rounds_what_is_kept_and_compares_with_the_pruned_model() -> None:
    for fine_tune in (False, True):
        names = [step.name for step in recipe_from_flags(Flags(prune="4x", fine_tune=fine_tune)).passes]
        place = names.index("auto_quantize")
        assert names[place - 1] == ("admm_prune" if fine_tune else "reconstruct_layers")
    step = recipe_from_flags(Flags(prune="4x")).passes[place]
    assert step.against == "before"  # type: ignore[attr-defined]
    assert not step.idempotent
    with_bits = recipe_from_flags(Flags(prune="4x", bits=4, fine_tune=False)).passes
    assert "auto_quantize" not in [step.name for step in with_bits]


def test_a_pruned_model_is_smaller_than_the_same_model_rounded_alone(tmp_path: Path) -> None:
    """A fifth of the weights matters; a recipe without rounding gives the same zeros and many more bytes."""
    constants = {"w": pruned(32, 512, density=0.2) * 8, "v": pruned(512, 8, density=0.2) * 8}
    noise = {name: RNG.normal(0, 1e-3, array.shape).astype(np.float32) for name, array in constants.items()}
    constants = {name: array + noise[name] for name, array in constants.items()}
    parse_text(NET, constants=constants).save(tmp_path / "in.onnx")
    sizes, zeros = dict[str, int](), dict[str, int]()
    unrounded = recipe_from_flags(Flags(prune="5x", fine_tune=False))
    steps = tuple(step for step in unrounded.passes if step.name != "auto_quantize")
    for name, asked in {
        "bare": {},
        "prune": {"prune": "5x"},
        "unrounded": {"recipe": type(unrounded)(passes=steps, fine_tune=False, keep_docs=False)},
    }.items():
        out = tmp_path / f"{name}.onnx"
        report = compress(tmp_path / "in.onnx", out, threads=1, keep=True, **asked)
        sizes[name] = report.comparison.after.file_bytes
        zeros[name] = report.comparison.after.nonzeros
        assert ModelView.load(out).signature() == ModelView.load(tmp_path / "in.onnx").signature()
    assert sizes["prune"] < sizes["bare"]
    assert sizes["prune"] < 0.7 * sizes["unrounded"]
    assert zeros["prune"] <= zeros["unrounded"]
