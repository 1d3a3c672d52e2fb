"""Layers of a recipe's ``[layers]``: they get the form asked for, and every other pass leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunCommand

from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Edit, LayerSetting, ModelView, PassContext, PassReport
from onnx_admm.cost_models.macs import MacsCostModel
from onnx_admm.data import synthetic_dataset
from onnx_admm.errors import UsageError
from onnx_admm.pipeline import Pipeline, PipelineResult
from onnx_admm.quantization.quantizer import Quantizer
from onnx_admm.quantization.result import Result
from onnx_admm.testing import model_family
from onnx_admm.training.trainers import make_trainer

CHANGING: tuple[dict[str, Any], ...] = (
    {"name": "admm_prune", "ratio": 3.0, "epochs": 1, "retrain_epochs": 1},
    {"name": "admm_quantize", "bits": 3, "epochs": 1, "round_epochs": 0},
    {"name": "auto_quantize", "least_sqnr_db": 5.0, "blind_sqnr_db": 5.0},
    {"name": "reconstruct_layers", "keep": 0.3, "bits": 4},
    {"name": "meet_budget", "budget": ["weights=2x"]},
    {"name": "remove_channels", "keep": 0.7},
)
"""Passes that change weights, each in a form that changes those of every free layer."""


def run(recipe: dict[str, Any], *, trains: bool = False) -> tuple[ModelView, PipelineResult]:
    model = model_family()["conv_net"]
    data = synthetic_dataset(model, 64, 0)
    context = PassContext(
        reference=model,
        train=data,
        validation=data,
        trainer=make_trainer() if trains else None,
        cost_model=MacsCostModel(),
        bindings={"N": 1},
    )
    return model, Recipe.parse(recipe).pipeline().run(model, context)


@pytest.mark.parametrize("step", CHANGING, ids=lambda step: str(step["name"]))
@pytest.mark.parametrize("trains", [False, True])
def test_no_pass_changes_a_float_layer(step: dict[str, Any], trains: bool) -> None:
    original, found = run({"layers": {"w3": "float"}, "pass": [step]}, trains=trains)
    report = found.reports[0].report
    assert np.array_equal(found.model.read("w3"), original.read("w3"))
    assert report.changed
    reasons = {skip.layer: skip.why for skip in report.skipped}
    assert reasons.get("w3") == "the recipe asks for float ('w3' in [layers])" or (
        step["name"] == "remove_channels" and reasons["w2"].startswith("w3, which reads its channels")
    )


def test_training_leaves_a_float_layer() -> None:
    steps = [{"name": "reconstruct_layers", "keep": 0.5}, {"name": "fine_tune", "epochs": 1}]
    original, found = run({"layers": {"w3": "float"}, "pass": steps}, trains=True)
    assert np.array_equal(found.model.read("w3"), original.read("w3"))
    assert {edit.layer for edit in found.reports[1].report.edits} == {"w1", "w2"}


def test_layers_get_bits_and_density_and_keep_them() -> None:
    steps = [{"name": "admm_prune", "ratio": 2.0}, {"name": "admm_quantize", "bits": 2}, {"name": "encode"}]
    layers = {"w1": {"bits": 8}, "w2": {"keep": 0.25, "bits": 4}}
    original, found = run({"layers": layers, "pass": [{"name": "fold_bias"}, *steps]})
    assert [each.name for each in found.reports][:2] == ["fold_bias", "set_layers"]
    pruned = found.model.read("w2")
    assert np.count_nonzero(pruned) == round(0.25 * pruned.size)
    assert len(np.unique(pruned[0][pruned[0] != 0])) <= 16
    eight = found.model.read("w1")
    assert np.abs(eight - original.read("w1")).max() < np.abs(eight).max() / 100
    assert len(np.unique(found.model.read("w3"))) <= 5  # four levels and the zeros of pruning
    edits = {edit.layer: edit.what for edit in found.reports[1].report.edits}
    assert edits["w1"].startswith("8 bits as the recipe asks")
    assert {"w1", "w2"} <= {edit.layer for edit in found.reports[-1].report.edits}  # stored as codes


def test_a_float_layer_is_stored_as_it_is() -> None:
    steps = [{"name": "admm_quantize", "bits": 4}, {"name": "encode", "format": "qdq"}]
    _, found = run({"layers": {"Gemm": "float"}, "pass": steps})
    stored = {edit.layer for edit in found.reports[-1].report.edits}
    assert "w3" not in stored
    assert "w1" in stored


def test_integers_are_for_layers_of_bits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []

    def record(self: Quantizer, model: ModelView, samples: object) -> Result:
        asked.append(set(self.layers))
        return Result(left={}, why="not run")

    monkeypatch.setattr(Quantizer, "run", record)
    layers = {"w1": {"bits": 8}, "w2": {"keep": 0.5}, "w3": "float"}
    _, found = run({"layers": layers, "pass": [{"name": "quantize_activations"}]})
    assert asked == [{"w1"}]
    reasons = {skip.layer: skip.why for skip in found.reports[-1].report.skipped}
    assert reasons["w2"] == "the recipe asks for 0.5 of the weights ('w2' in [layers])"
    assert reasons["w3"] == "the recipe asks for float ('w3' in [layers])"


def test_the_callers_model_has_no_fixed_layers_afterwards() -> None:
    model, _ = run({"layers": {"w2": "float"}, "pass": [{"name": "admm_quantize"}]})
    assert all(site.fixed_by_recipe is None and site.editable for site in model.sites())


class Insistent:
    """Writes all weights, whatever their sites say."""

    name, idempotent, exact = "insistent", False, False

    def requires(self, model: ModelView, context: PassContext) -> None:
        pass

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        for site in model.sites():
            model.replace(site, -model.read(site))
        return PassReport(True, tuple(Edit(site.name, "negated") for site in model.sites()))


def test_a_pass_that_ignores_it_is_refused() -> None:
    pipeline = Pipeline([Insistent()], layers={"w2": LayerSetting(is_float=True)})
    with pytest.raises(UsageError, match="w2: its values must stay; got the recipe asks for float"):
        pipeline.run(model_family()["conv_net"])


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--layer", "head*=8"], "[layers]: no layer matches the pattern; got head*"),
        (
            ["--layer", "w?=8", "--layer", "Conv=4"],
            "[layers], layer w1: two patterns ask for different things",
        ),
    ],
)
def test_a_wrong_pattern_is_found_before_the_work(
    flags: list[str], sentence: str, dry: list[str], net: Path, run: RunCommand
) -> None:
    target = net.with_name("out.onnx")
    code, _, errors = run("compress", net, target, *flags, *dry)
    assert code == 2
    assert sentence in errors
    assert not target.exists()
