"""Weights inside subgraphs: their decoders stand in the main graph, where the runtime folds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import KeepForDeployment

from onnx_admm.admm.sets.levels import Levels
from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime.sessions import open_session, optimised_model

BRANCHES = """
    <ir_version: 10, opset_import: ["" : 17]>
    branches (float[N,40] x, bool turned) => (float[N,30] y)
    <float[40,40] w>
    {
        h = MatMul (x, w)
        [choice] y = If (turned) <
            then_branch = one () => (float[N,30] yt) <float[40,30] wt> { yt = MatMul (h, wt) },
            else_branch = two () => (float[N,30] ye)
            <float[40,40] we, float[40,30] wf> { t = MatMul (h, we) ye = MatMul (t, wf) }
        >
    }
"""

FUNCTION = """
    <ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    g (float[N,4] x) => (float[N,2] y) { y = own.project (x) }
    <domain: "own", opset_import: ["" : 17]>
    project (i) => (o) { k = Constant <value = float[4,2] {9,8,7,6,5,4,3,2}> () o = MatMul (i, k) }
"""


def quantised(text: str, bits: int = 4) -> ModelView:
    model = parse_text(text)
    for site in model.sites():
        model.replace(site, Levels(bits, axis=site.out_axis, scale_bits=11).project(model.read(site)))
    return model


def feeds(turned: bool) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    return {"x": x, "turned": np.array(turned)}


@pytest.mark.parametrize(("name", "most_bytes"), [("packed", 4600), ("qdq", 7600), ("auto", 4600)])
def test_both_branches_compute_the_same_from_fewer_bytes(
    name: str, most_bytes: int, tmp_path: Path, keep_for_deployment: KeepForDeployment
) -> None:
    model = quantised(BRANCHES)
    encoded = model.fork()
    report = Encode(format=name).run(encoded, PassContext(reference=model))  # type: ignore[arg-type]
    assert {edit.layer for edit in report.edits} == {site.name for site in model.sites()}
    assert encoded.save(tmp_path / "small.onnx") < most_bytes < len(model.to_bytes()) / 2
    assert [site.name for site in encoded.sites()] == [site.name for site in model.sites()]
    fuses = name == "qdq" and b"MatMulNBits" in optimised_model(encoded.to_bytes(maps=False))
    for turned in (True, False):
        expected = open_session(model, threads=1).run(feeds(turned))
        for optimize in (True, False):
            got = open_session(encoded, threads=1, optimize=optimize).run(feeds(turned))
            atol = 0.05 if fuses and optimize else 1e-5  # the fused kernel rounds activations
            np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-4, atol=atol)
        keep_for_deployment(tmp_path / "small.onnx", feeds(turned), expected)


def test_encoding_again_changes_nothing() -> None:
    model = quantised(BRANCHES)
    context = PassContext(reference=model)
    Encode(format="packed").run(model, context)
    assert not Encode(format="packed").run(model, context).changed


def test_zeros_inside_a_subgraph_stay_dense() -> None:
    model = parse_text(BRANCHES)
    for name in ("w", "choice.then_branch/wt"):
        model.replace(name, np.where(np.abs(model.read(name)) > 0.4, model.read(name), 0))
    report = Encode(format="sparse").run(model, PassContext(reference=model))
    assert [edit.layer for edit in report.edits] == ["w"]
    reasons = {skip.layer: skip.why for skip in report.skipped}
    assert reasons["choice.then_branch/wt"] == "no initializer of the main graph"


def test_a_function_keeps_its_weights() -> None:
    model = ModelView.from_bytes(onnx.parser.parse_model(FUNCTION).SerializeToString())
    report = Encode(format="packed").run(model, PassContext(reference=model))
    assert not report.changed
    assert report.skipped[0].why == "is in the function project"
