"""Einsum operands and learned tables are layers; other large constants have a line; bits are stored."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import PassContext
from onnx_admm.data import synthetic_dataset
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.analysis.unsupported_weights import unsupported_weights
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.auto_quantize import AutoQuantize
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.meet_budget import MeetBudget
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.selection.layers import choose_layers

HEAD = '<ir_version: 10, opset_import: ["" : 17]>\n'
TRANSFORMER = (
    HEAD
    + """
g (float[N,48,24] x) => (float[N,48,48] y)
<float[1,48,24] positions, float[48,48] places, float[24,40] first, float[40,48] last, float[40] bias,
 int64[48] order = {ORDER}>
{
    a = Add (x, positions)
    b = Einsum <equation = "bsd,de->bse"> (a, first)
    c = Add (b, bias)
    r = Relu (c)
    d = Einsum <equation = "de,bsd->bse"> (last, r)
    p = Gather (places, order)
    y = Add (d, p)
}""".replace("ORDER", ", ".join(map(str, range(48))))
)
LAYERS = {"positions": (2, None), "first": (1, 0), "last": (1, 0), "places": (0, 1)}


def test_they_are_found_with_their_axes() -> None:
    view = parse_text(TRANSFORMER)
    found = {site.name: (site.out_axis, site.in_axis) for site in view.sites()}
    assert found == {"positions": (2, None), "first": (1, 0), "last": (1, 0), "places": (0, 1)}
    assert unsupported_weights(view) == ()


@pytest.mark.parametrize(
    "step",
    [
        AutoQuantize(samples=8),
        ReconstructLayers(bits=4, samples=16),
        MeetBudget(budget=("size=4x",), bits=(4,), rounds=1),
    ],
)
def test_they_are_compressed_where_the_outputs_tolerate_it(
    step: AutoQuantize | ReconstructLayers,
) -> None:
    view = parse_text(TRANSFORMER)
    context = PassContext(reference=view, cost_model=cost_model("storage"))
    step.requires(view, context)
    report = step.run(after := view.fork(), context)
    assert {edit.layer for edit in report.edits} == LAYERS.keys()
    found = evaluate(after, synthetic_dataset(view, 64, 9), reference=view, threads=1)
    assert found.sqnr_db is not None
    assert found.sqnr_db > (20 if isinstance(step, AutoQuantize) else 8)
    rounded = {name: after.read(name) for name in LAYERS}
    rows = Encode("packed").run(after, context).figures["layers"]
    assert {row["layer"] for row in rows} == LAYERS.keys()
    assert isinstance(step, MeetBudget) or all(
        8 * (row["data_bytes"] + row["index_bytes"]) < 9 * row["elements"] for row in rows
    )
    kept = {site.name: after.read(site) for site in after.sites()}
    assert {name: np.array_equal(kept[name], rounded[name]) for name in ("positions", "first", "last")} == {
        "positions": True,
        "first": True,
        "last": True,
    }
    assert isinstance(step, MeetBudget) or not AutoQuantize().run(after, PassContext(reference=after)).changed


def test_macs_of_a_contraction_are_counted() -> None:
    view = parse_text(TRANSFORMER)
    macs = {profile.weight: profile.macs for profile in node_profiles(view, {"N": 2}) if profile.weight}
    assert macs == {"positions": 0, "first": 2 * 48 * 24 * 40, "last": 2 * 48 * 40 * 48, "places": 0}


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (np.triu(np.full((64, 64), -1e4), 1), "its values repeat"),
        (RNG.choice(np.arange(40) + 0.5, size=(64, 64)), "its values repeat"),
        (np.where(RNG.random((64, 64)) < 0.5, -np.inf, 0), "not finite"),
        (np.sin(np.outer(np.arange(64), 1 / 100 ** (np.arange(64) / 64))), "sinusoids"),
        (RNG.normal(size=(64, 64)), None),
        (RNG.normal(size=(64, 64)) + 30, None),
    ],
)
def test_masks_grids_and_waves_are_no_learned_tables(table: np.ndarray, why: str | None) -> None:
    text = "g (float[N,64,64] x) => (float[N,64,64] y) <float[64,64] w> { m = MatMul (x, w) y = Add (m, t) }"
    view = parse_text(HEAD + text, constants={"t": table.astype(np.float32)})
    layers, skipped = choose_layers(view, (), ())
    assert ("t" in {site.name for site in layers}) == (why is None)
    assert (why or "") in {skip.layer: skip.why for skip in skipped}.get("t", "")
    assert choose_layers(view, ("w",), ())[0][0].name == "w"
    report = AutoQuantize(samples=4).run(view, PassContext(reference=view))
    assert "w" in {edit.layer for edit in report.edits}  # few values in a table do not make a quantised model


LEFT = {
    "Mul": ("y = Mul (x, t)", "float[32,32] t"),
    "Sub": ("y = Sub (x, t)", "float[32,32] t"),
    "PRelu": ("y = PRelu (x, t)", "float[32,32] t"),
    "Where": ("c = Greater (x, z) y = Where (c, x, t)", "float[32,32] t, float z = {0}"),
    "ScatterND": ("y = ScatterND (x, i, t)", "float[1,32,32] t, int64[1,1] i = {0}"),
    "Max": ("e = Expand (t, s) y = Max (x, e)", "float[1,32,32] t, int64[3] s = {1, 32, 32}"),
    "Concat": (
        "u = Concat <axis = 0> (x, t) y = Slice (u, b, e)",
        "float[1,32,32] t, int64[1] b = {0}, int64[1] e = {1}",
    ),
}


@pytest.mark.parametrize("operator", LEFT)
def test_large_constants_of_other_operators_have_a_line(operator: str) -> None:
    body, constants = LEFT[operator]
    ports, weights = "g (float[1,32,32] a) => (float[1,32,32] y)", f"float[32,32] w, {constants}"
    view = parse_text(f"{HEAD} {ports} <{weights}> {{ x = MatMul (a, w) {body} }}")
    line = f"4,096 bytes read by {operator}, which is not a supported layer"
    for step in (ReconstructLayers(bits=4, samples=4), AutoQuantize(samples=4)):
        before = view.fork()
        report = step.run(before, PassContext(reference=view))
        assert [(skip.layer, skip.why) for skip in report.skipped] == [("t", line)]
    (found,) = unsupported_weights(view)
    assert (found.nbytes, found.operator) == (4096, operator)


def test_parameters_of_channels_and_decoders_have_none() -> None:
    text = """
    g (float[N,32,1] x) => (float[N,1040,1] y)
    <float[1040,32,1] w, float[1040] b, float[1040] s, float[1040,1] m, float[1040] c, float[1040] d,
     float[1040] e>
    {
        a = Conv (x, w, b)
        n = BatchNormalization (a, s, c, d, e)
        p = Mul (n, m)
        y = Add (p, m)
    }"""
    view = parse_text(HEAD + text)
    assert unsupported_weights(view) == ()
    context = PassContext(reference=view)
    AdmmQuantize(bits=8, per_channel=True).run(view, context)
    Encode("packed").run(view, context)
    assert unsupported_weights(view) == ()
