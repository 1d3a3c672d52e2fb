"""Weights of odd values are left with a line or compressed, and stop no pass."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import ModelView, Pass, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.auto_quantize import AutoQuantize
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.exact.drop_dead_channels import DropDeadChannels
from onnx_admm.passes.exact.fold_batchnorm import FoldBatchNorm
from onnx_admm.passes.exact.fold_bias import FoldBias
from onnx_admm.passes.exact.share_scales import ShareScales
from onnx_admm.passes.meet_budget import MeetBudget
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.selection.fixed_transforms import transform_in
from onnx_admm.selection.layers import choose_layers
from onnx_admm.selection.weight_values import why_left, why_unusable

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(24, 32)).astype(np.float32)
ODD = {
    "nan": np.where(NORMAL > 2, np.nan, NORMAL),
    "infinite": np.where(NORMAL > 2, np.inf, NORMAL),
    "minus_infinite": np.where(NORMAL > 2, -np.inf, NORMAL),
    "huge": NORMAL * 1e31,
    "one_huge": np.where(NORMAL.max() == NORMAL, 3e38, NORMAL),
    "denormal": NORMAL * 1e-41,
    "denormal_rows": np.where(np.arange(24)[:, None] < 5, NORMAL * 1e-41, NORMAL),
    "denormal_columns": np.where(np.arange(32) < 5, NORMAL * 1e-41, NORMAL),
    "constant": np.full_like(NORMAL, 0.75),
    "zero": np.zeros_like(NORMAL),
    "offset": 50 + NORMAL,
}
LEFT = {
    "nan": "holds values that are not finite",
    "infinite": "holds values that are not finite",
    "minus_infinite": "holds values that are not finite",
    "huge": "whose squares overflow",
    "one_huge": "whose squares overflow",
    "denormal": "alone, too small for a scale",
}

NET = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[N,24] x) => (float[N,16] y, float[N,32] side)
<float[24,32] plain, float[24,32] odd, float[32,16] last, float[32] bias>
{
    t = MatMul (x, plain)
    e = MatMul (x, empty)
    u = Concat <axis = 1> (t, e)
    v = Add (u, bias)
    r = Relu (v)
    y = MatMul (r, last)
    side = MatMul (x, odd)
}"""


def net(odd: np.ndarray) -> ModelView:
    view = parse_text(NET, constants={"empty": np.zeros((24, 0), np.float32)})
    view.replace("odd", odd.astype(np.float32))
    return view


def context_of(view: ModelView) -> PassContext:
    x = np.random.default_rng(1).normal(size=(24, 24)).astype(np.float32)
    data = from_arrays({"x": x})
    return PassContext(reference=view, train=data, cost_model=cost_model("storage"))


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_worked_on_is_said(name: str) -> None:
    why = why_unusable(ODD[name].astype(np.float32))
    assert (why is None) == (name not in LEFT)
    assert LEFT.get(name, "") in (why or "")
    assert why_left(ODD[name].astype(np.float32)) == why  # none of them is taken for a transform


def test_types_and_emptiness_are_said() -> None:
    assert why_unusable(np.zeros((0, 8), np.float32)) == "has no elements"
    assert why_unusable(np.zeros((8, 8), np.int32)) == "int32 weights have no smaller form here"
    half = np.full((8, 8), 3e-5, np.float16)
    assert "too small" in (why_unusable(half) or "")
    assert why_unusable(half.astype(np.float32)) is None


def test_large_offsets_and_constants_are_no_waves() -> None:
    """About a large mean everything has its energy at frequency 0."""
    for shape in ((64, 64), (64, 8, 3, 3), (8, 1, 64)):
        noise = RNG.normal(size=shape)
        for array in (10 + noise, 1e6 + noise, np.full(shape, 3.0), np.abs(noise) + 100):
            assert transform_in(array.astype(np.float32)) is None
    phases = 2 * np.pi * np.outer(np.arange(1, 32), np.arange(64)) / 64
    assert "sinusoids" in (transform_in(5 + np.cos(phases)) or "")


PASSES: dict[str, Pass] = {
    "fold_batchnorm": FoldBatchNorm(),
    "fold_bias": FoldBias(),
    "prune": AdmmPrune(keep=0.5),
    "prune_pattern": AdmmPrune(pattern="2:4"),
    "quantize": AdmmQuantize(bits=8, per_channel=True),
    "quantize_tensor": AdmmQuantize(bits=3),
    "choose": AutoQuantize(samples=8),
    "reconstruct": ReconstructLayers(keep=0.5, bits=4),
    "reconstruct_bits": ReconstructLayers(bits=2),
    "share": ShareScales(),
    "drop": DropDeadChannels(),
    "packed": Encode("packed"),
    "qdq": Encode("qdq"),
    "sparse": Encode("sparse"),
    "budget": MeetBudget(budget=("size=1.8x",), rounds=1),
}


SLOW = {"budget", "reconstruct", "choose"}


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (step, name)
        for step in PASSES
        for name in (("nan", "denormal_columns", "offset") if step in SLOW else ODD)
    ],
)
def test_odd_values_stop_no_pass(step: str, name: str) -> None:
    view = net(ODD[name])
    context, work = context_of(view), PASSES[step]
    before = view.read("odd")
    work.requires(view, context)
    after = view.fork()
    report = work.run(after, context)
    if "odd" in {site.name for site in after.sites() if site.editable} and name in LEFT:
        np.testing.assert_array_equal(after.read("odd"), before)
    lines = {skip.layer: skip.why for skip in report.skipped}
    if step in ("prune", "quantize", "choose", "reconstruct", "budget"):
        assert lines["empty"] == "has no elements"
        assert LEFT.get(name, "") in lines.get("odd", "")
        edits = {edit.layer for edit in report.edits}
        assert {"plain", "last"} <= edits
        assert (name in LEFT) == ("odd" in lines) or name in ("constant", "zero")


@pytest.mark.parametrize("name", ["nan", "huge"])
def test_a_layer_behind_such_a_weight_takes_the_nearest_point(name: str) -> None:
    view = net(NORMAL)
    view.replace("plain", ODD[name].astype(np.float32))
    after = view.fork()
    report = ReconstructLayers(bits=3).run(after, context_of(view))
    assert {edit.layer: "nearest" in edit.what for edit in report.edits} == {"last": True, "odd": False}
    assert len(np.unique(after.read("last")[:, 0])) <= 7


def test_a_model_of_nothing_else_is_refused_with_the_reason() -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,24] x) => (float[N,32] y) <float[24,32] w> { y = MatMul (x, w) }""")
    view.replace("w", ODD["nan"].astype(np.float32))
    for include in ((), ("w",)):
        with pytest.raises(PassRefused, match="no weight is left to compress; got w: holds values that are"):
            choose_layers(view, include, ())
    report = AutoQuantize().run(view, PassContext(reference=view))
    assert not report.changed
    assert [skip.layer for skip in report.skipped] == ["w"]
