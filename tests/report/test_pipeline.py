"""Pipelines: passes in order, each a transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from fake_plugins import Scale

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.errors import PassRefused, UsageError, WorkError
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.pipeline import PROVENANCE, Pipeline


@dataclass(frozen=True)
class Scripted:
    """A pass that does what the test says."""

    name: ClassVar[str] = "scripted"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    script: Callable[[ModelView], bool]
    refusal: str | None = None

    def requires(self, model: ModelView, context: PassContext) -> None:
        if self.refusal:
            raise PassRefused(self.refusal, where="fc1")

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        return PassReport(changed=self.script(model))


def halve(model: ModelView) -> bool:
    for site in model.sites():
        model.replace(site, model.read(site) / 2)
    return True


def test_passes_run_in_order_on_a_fork(tiny_mlp: ModelView) -> None:
    before = fingerprint(tiny_mlp)
    result = Pipeline([Scale(factor=3.0), Scale(factor=0.25)]).run(tiny_mlp)
    site = tiny_mlp.sites()[0]
    np.testing.assert_array_equal(
        result.model.read(site), tiny_mlp.read(site) * np.float32(3) * np.float32(0.25)
    )
    assert fingerprint(tiny_mlp) == before
    assert [step.name for step in result.reports] == ["scale", "scale"]
    assert result.changed
    assert len(result.reports) == 2
    assert all(step.seconds > 0 for step in result.reports)


def test_only_passes_that_changed_something_are_named_in_the_model(tiny_mlp: ModelView) -> None:
    result = Pipeline([Scale(factor=1.0), Scale(), Scripted(halve)]).run(tiny_mlp)
    assert result.model.metadata[PROVENANCE] == "scale,scripted"
    assert PROVENANCE not in tiny_mlp.metadata


def test_nothing_changed_is_the_same_model(tiny_mlp: ModelView) -> None:
    result = Pipeline([Scale(factor=1.0)]).run(tiny_mlp)
    assert not result.changed
    assert fingerprint(result.model) == fingerprint(tiny_mlp)


def test_provenance_can_be_left_out(tiny_mlp: ModelView) -> None:
    result = Pipeline([Scale()], provenance=False).run(tiny_mlp)
    assert PROVENANCE not in result.model.metadata


def test_a_run_can_be_cut_at_a_file(tiny_conv: ModelView, tmp_path) -> None:
    first, second = Scale(factor=0.3), Scale(factor=0.7)
    whole = Pipeline([first, second]).run(tiny_conv).model
    Pipeline([first]).run(tiny_conv).model.save(tmp_path / "half.onnx")
    cut = Pipeline([second]).run(tmp_path / "half.onnx").model
    assert fingerprint(cut) == fingerprint(whole)


def test_refusal_names_the_pass_and_those_before(tiny_mlp: ModelView) -> None:
    with pytest.raises(PassRefused) as caught:
        Pipeline([Scale(), Scripted(halve, refusal="too small"), Scale()]).run(tiny_mlp)
    assert str(caught.value) == "pass 2 of 3, scripted (after scale): fc1: too small"


def test_unexpected_fault_becomes_a_sentence(tiny_mlp: ModelView) -> None:
    def fault(model: ModelView) -> bool:
        halve(model)
        raise KeyError("w9")

    before = fingerprint(tiny_mlp)
    with pytest.raises(
        WorkError, match=r"^pass 1 of 1, scripted: the pass failed unexpectedly; got KeyError: 'w9'"
    ):
        Pipeline([Scripted(fault)]).run(tiny_mlp)
    assert fingerprint(tiny_mlp) == before


@pytest.mark.parametrize(
    ("script", "claim"),
    [
        (lambda model: not halve(model), "changed=False reported for another model"),
        (lambda model: True, "changed=True reported for the same model"),
    ],
)
def test_a_pass_cannot_be_wrong_about_what_it_did(tiny_mlp: ModelView, script, claim: str) -> None:
    with pytest.raises(WorkError, match=claim):
        Pipeline([Scripted(script)]).run(tiny_mlp)


def test_rewriting_equal_values_is_no_change(tiny_mlp: ModelView) -> None:
    def rewrite(model: ModelView) -> bool:
        for site in model.sites():
            model.replace(site, model.read(site))
        return False

    assert not Pipeline([Scripted(rewrite)]).run(tiny_mlp).changed


def test_inputs_and_outputs_stay(tiny_mlp: ModelView) -> None:
    def rename(model: ModelView) -> bool:
        model.graph_ir.graph.outputs[0].name = "probabilities"
        return True

    with pytest.raises(WorkError, match="changed the model's inputs or outputs"):
        Pipeline([Scripted(rename)]).run(tiny_mlp)


def test_invalid_result_is_dropped(tiny_mlp: ModelView) -> None:
    def break_it(model: ModelView) -> bool:
        next(iter(model.graph_ir.graph)).op_type = "NoSuchOperator"
        return True

    with pytest.raises(WorkError, match=r"pass 1 of 1, scripted: .*the checker refuses"):
        Pipeline([Scripted(break_it)]).run(tiny_mlp)


def test_missing_model_file_is_a_usage_error(tmp_path) -> None:
    with pytest.raises(UsageError, match="no such model file"):
        Pipeline([Scale()]).run(tmp_path / "none.onnx")
