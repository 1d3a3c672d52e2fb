"""A pass that says ``exact`` is run beside the model before it, and undone where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import CONV_NET

from onnx_admm.contracts import Feeds, ModelView, PassContext, PassReport
from onnx_admm.errors import WorkError
from onnx_admm.measurement import exactness
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.exact.fold_batchnorm import FoldBatchNorm
from onnx_admm.passes.exact.fold_bias import FoldBias
from onnx_admm.pipeline import UNDONE, Pipeline, PipelineResult
from onnx_admm.runtime.children.child_outputs import outputs_in_child
from onnx_admm.runtime.equivalence import outputs_of


@dataclass(frozen=True)
class Scales:
    """Multiplies one weight, and says that the outputs stay."""

    name: ClassVar[str] = "scales"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    weight: str
    factor: float = 1.5

    def requires(self, model: ModelView, context: PassContext) -> None:
        """Anything goes."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Scale it."""
        model.replace(self.weight, model.read(self.weight) * np.float32(self.factor))
        return PassReport(changed=True, figures={"scaled": 1})


class MakesInvalidShapes(Scales):
    """Gives a Gemm a bias that the runtime refuses."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Write it."""
        bias = model.nodes("Gemm")[0].input(2)
        assert bias is not None
        model.write(bias, np.zeros((3, 0), np.float32))
        return PassReport(changed=True)


NORMS = """
    <ir_version: 10, opset_import: ["" : 17]>
    norms (float[N,3,6,6] x) => (float[N,5,4,4] y, float[N,4,6,6] z)
    <float[4,3,3,3] w1, float[4,4,1,1] w2, float[5,4,3,3] w3,
     float[4] s, float[4] t, float[4] m, float[4] v = {1.0, 0.5, 2.0, 1.5}>
    {
        [first] a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        b = BatchNormalization (a, s, t, m, v)
        c = Relu (b)
        [second] d = Conv (c, w2)
        e = BatchNormalization (d, s, t, m, v)
        f = Relu (e)
        z = Add (f, c)
        [third] y = Conv (z, w3)
    }"""


def run(steps: list[object], view: ModelView) -> PipelineResult:
    return Pipeline(steps).run(view, PassContext(reference=view))  # type: ignore[arg-type]


@pytest.mark.parametrize(("weight", "node"), [("w1", "first"), ("w2", "second"), ("w3", "third")])
def test_a_wrong_pass_is_undone_and_the_node_is_named(weight: str, node: str) -> None:
    view = parse_text(NORMS)
    result = run([Scales(weight)], view)
    (step,) = result.reports
    assert not step.report.changed
    assert fingerprint(result.model) == fingerprint(view)
    (skip,) = step.report.skipped
    assert skip.layer == node
    assert "undone" in skip.why
    assert f"from {node} (Conv) on" in step.report.figures[UNDONE]
    assert "scaled" not in step.report.figures


class FoldsWrongly(FoldBatchNorm):
    """Folds all, and one weight wrongly."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Fold, then double w2."""
        report = super().run(model, context)
        model.replace("w2", model.read("w2") * np.float32(2))
        return report


def test_values_that_rightly_mean_something_else_are_not_blamed() -> None:
    (step,) = run([FoldsWrongly()], parse_text(NORMS)).reports
    assert [skip.layer for skip in step.report.skipped] == ["second"]


def test_the_passes_behind_a_wrong_one_run_on_the_model_before_it() -> None:
    view = parse_text(NORMS)
    result = run([Scales("w2"), FoldBatchNorm(), FoldBias()], view)
    assert [step.report.changed for step in result.reports] == [False, True, False]
    assert result.model.metadata["onnx_admm.passes"] == "fold_batchnorm"
    alone = run([FoldBatchNorm()], view).model
    assert fingerprint(alone) == fingerprint(result.model)


def test_a_result_that_cannot_be_run_is_undone() -> None:
    view = parse_text(CONV_NET)
    result = run([MakesInvalidShapes("w1")], view)
    assert "cannot be run" in result.reports[0].report.figures[UNDONE]
    assert fingerprint(result.model) == fingerprint(view)


CHAOS = """
    <ir_version: 10, opset_import: ["" : 17]>
    chaos (float[N,8] x) => (float[N,8] y) <float[8,8] w, float k = {30000.0}>
    { a = MatMul (x, w) b = Mul (a, k) y = Sin (b) }"""


def test_a_model_that_answers_to_the_last_digits_is_not_held_to_them() -> None:
    (step,) = run([Scales("w", 1 + 2e-7)], parse_text(CHAOS)).reports
    assert step.report.changed
    (step,) = run([Scales("w", 1.01)], parse_text(CHAOS)).reports
    assert not step.report.changed


def test_half_precision_has_a_tolerance_of_its_own() -> None:
    text = CONV_NET.replace("float[", "float16[")
    arrays = {site.name: parse_text(CONV_NET).read(site.name) for site in parse_text(CONV_NET).sites()}
    arrays |= {"b1": np.zeros(4), "b2": np.zeros(6), "b3": np.zeros(3)}
    body = text[: text.index("    <\n")] + text[text.index("    {\n") :]
    view = parse_text(body, constants={name: array.astype(np.float16) for name, array in arrays.items()})
    for factor, changed in ((1.001, True), (1.05, False)):
        (step,) = run([Scales("w3", factor)], view).reports
        assert step.report.changed == changed


def test_a_model_that_cannot_be_run_is_left_uncompared_with_the_reason() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (string[N] s, float[N,4] x) => (float[N,4] y, string[N] z)
    <float[4,4] w> { y = MatMul (x, w) z = Identity (s) }"""
    (step,) = run([Scales("w")], parse_text(text)).reports
    assert step.report.changed
    assert any("not compared" in skip.why and "no random values" in skip.why for skip in step.report.skipped)


def test_a_huge_model_is_left_uncompared_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "MOST_BYTES", 100)
    (step,) = run([Scales("w1")], parse_text(NORMS)).reports
    assert any("not compared" in skip.why and "weights take" in skip.why for skip in step.report.skipped)


def test_a_large_model_is_run_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def in_child(model: ModelView, feeds: Feeds, *, optimize: bool = False) -> list[Feeds]:
        runs.append(model)
        return outputs_of(model, feeds, optimize=optimize)

    monkeypatch.setattr(exactness, "OWN_PROCESS_BYTES", 100)
    monkeypatch.setattr(exactness, "outputs_in_child", in_child)
    result = run([FoldBatchNorm(), Scales("w2")], parse_text(NORMS))
    assert [step.report.changed for step in result.reports] == [True, False]
    assert [skip.layer for skip in result.reports[1].report.skipped] == ["second"]
    assert len(runs) == 3 + 3 + 2  # each model once, three for noise, two for the node


def test_outputs_of_another_process_are_the_same() -> None:
    view = parse_text(NORMS)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)}
    (own,), (other,) = outputs_of(view, feeds), outputs_in_child(view, feeds)
    assert own.keys() == other.keys() == {"y", "z"}
    for name, array in own.items():
        np.testing.assert_array_equal(other[name], array)
    with pytest.raises(WorkError, match="does not take these inputs"):
        outputs_in_child(view, {"x": feeds["x"][:, :2]})


def test_rounded_biases_are_not_compared() -> None:
    rng = np.random.default_rng(0)
    w = np.round(rng.normal(size=(16, 64)) * 2).clip(-3, 3).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,16] x) => (float[N,64] y)
    { t = MatMul (x, w) y = Add (t, b) }"""
    view = parse_text(text, constants={"w": w, "b": rng.normal(size=64).astype(np.float32)})
    result = run([Encode(format="packed", bias_bits=8)], view)
    (step,) = result.reports
    assert step.report.figures["biases"][0]["coding"] == "bytes"
    found = exactness.ExactnessCheck(PassContext(reference=view)).difference(view, result.model)
    assert found is not None  # it would be undone if it said that outputs stay
    assert found.share < 0.01


def test_a_run_says_what_was_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx_admm.api import compress

    def wrong(self: FoldBias, model: ModelView, context: PassContext) -> PassReport:
        return Scales("w2", 3.0).run(model, context)

    monkeypatch.setattr(FoldBias, "run", wrong)
    parse_text(CONV_NET).save(tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    assert any("fold_bias was undone" in note for note in report.notes)
    assert report.comparison.missed is None
