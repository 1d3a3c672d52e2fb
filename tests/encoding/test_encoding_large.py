"""Large weights: each behind a decoder of its own, near the bound of its support, folded at load."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import KeepForDeployment

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.encoding import large
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.large import packed_alone
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.folding import decoder
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime.sessions import open_session

SIDE = 1100  # a square of which is decoded anew each time it is read
NET = f"""<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,{SIDE}] x) => (float[N,{SIDE}] y) <float[{SIDE},{SIDE}] w1, float[{SIDE},{SIDE}] w2>
    {{ a = MatMul (x, w1)  r = Relu (a)  y = MatMul (r, w2) }}"""


def values(density: float, levels: int, shape: tuple[int, ...] = (SIDE, SIDE), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, levels + 1, shape) * rng.choice([-1, 1], shape)
    return (codes * (rng.random(shape) < density) * 0.125).astype(np.float32)


def bound_bits(density: float, levels: int, size: int) -> float:
    """Entropy of a random support, and of uniform codes on it."""
    share = [p for p in (density, 1 - density) if p > 0]
    return size * (-sum(p * math.log2(p) for p in share) + density * math.log2(2 * levels))


def large_net(opset: int = 17) -> ModelView:
    view = parse_text(NET.replace('"" : 17', f'"" : {opset}'))
    for name, array in {"w1": values(0.05, 4), "w2": values(0.2, 16, seed=1)}.items():
        view.replace(name, array)
    return view


def encoded(view: ModelView) -> ModelView:
    fork, context = view.fork(), PassContext(reference=view)
    Encode("packed").run(fork, context)
    return fork


@pytest.mark.parametrize(
    ("density", "levels"), [(0.03, 2), (0.05, 4), (0.2, 16), (0.5, 4), (0.66, 1), (1, 2)]
)
def test_codes_and_index_are_near_the_bound(density: float, levels: int) -> None:
    form = packed_alone(Weight("w", values(density, levels)))
    assert form is not None
    least = bound_bits(density, levels, SIDE * SIDE)
    assert 0.99 * least < form.bits < 1.06 * least


def test_rows_of_unequal_scales_are_steps_of_them() -> None:
    scales = np.ldexp(np.arange(1, SIDE + 1), -12).astype(np.float32)[:, None]
    weight = Weight("w", values(0.05, 4) * 8 * scales)
    form = packed_alone(weight)
    assert form is not None
    assert form.row.coding == "gaps (Rice 4), 3-bit codes"
    assert weight.levels is None


def test_small_and_unquantised_weights_are_left_to_others() -> None:
    assert packed_alone(Weight("w", values(0.001, 1))) is None  # a shared decoder is better
    assert packed_alone(Weight("w", np.zeros((SIDE, SIDE), np.float32))) is None
    noise = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    assert packed_alone(Weight("w", noise)) is None
    broken = values(0.05, 4)
    broken[0, 0] = np.nan
    assert packed_alone(Weight("w", broken)) is None


def test_what_a_runtime_would_not_fold_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = Weight("w", values(0.05, 4))
    kept = np.count_nonzero(weight.values)
    monkeypatch.setattr(large, "_FOLDED_BYTES", 4 * 7 * kept - 1)  # Rice 4 and 3-bit codes
    form = packed_alone(weight)
    assert form is not None
    assert form.row.coding.startswith("digits")
    monkeypatch.setattr(large, "_FOLDED_BYTES", 4 * 7 * kept)
    form = packed_alone(weight)
    assert form is not None
    assert form.row.coding.startswith("gaps")


@pytest.mark.parametrize("opset", [9, 17])
def test_a_large_model_runs_equal_and_folds(
    opset: int, tmp_path: Path, keep_for_deployment: KeepForDeployment
) -> None:
    dense = large_net(opset)
    packed, path = encoded(dense), tmp_path / "large.onnx"
    assert packed.save(path) < 1.02 * (bound_bits(0.05, 4, SIDE**2) + bound_bits(0.2, 16, SIDE**2)) / 8
    assert packed.opset == max(opset, 11)
    samples = {"x": np.random.default_rng(1).standard_normal((2, SIDE)).astype(np.float32)}
    expected = open_session(dense, threads=1).run(samples)["y"]
    for optimize in (True, False):
        found = open_session(path, threads=1, optimize=optimize).run(samples)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    runtime.InferenceSession(str(path), options)
    folded = {node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node}
    assert folded <= {"MatMul", "Relu"}
    keep_for_deployment(path, samples, {"y": expected})


def test_sites_of_large_encoded_weights_are_found_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = large_net()
    packed = encoded(dense)
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "evaluate_node", lambda *_: pytest.fail("an operator was run"))
        sites = ModelView.from_bytes(packed.to_bytes()).sites()
    assert [(site.name, site.shape, site.dtype, site.editable) for site in sites] == [
        ("w1", (SIDE, SIDE), "float32", False),
        ("w2", (SIDE, SIDE), "float32", False),
    ]
    for name in ("w1", "w2"):
        assert np.array_equal(packed.read(name), dense.read(name))
    assert not any(known[1].nbytes > 1 << 22 for known in packed._decoder._known.values())
