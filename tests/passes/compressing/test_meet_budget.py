"""MeetBudget: budgets met on real weights, reasons told, accuracy part of the search, and its command."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import CONV_NET, RunCommand
from fake_plugins import register

from onnx_admm.contracts import (
    CompressionOption,
    Cost,
    LayerProfile,
    ModelView,
    PassContext,
    TrainingSettings,
)
from onnx_admm.cost_models.macs import MacsCostModel
from onnx_admm.cost_models.onnxruntime import OnnxRuntimeCostModel
from onnx_admm.data import from_arrays
from onnx_admm.errors import BudgetExceeded, PassRefused, UsageError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.meet_budget import MeetBudget
from onnx_admm.report import Report
from onnx_admm.runtime.sessions import open_session
from onnx_admm.testing import check_pass, model_family
from onnx_admm.training.graph.trainer import GraphTrainer

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class FlatTime:
    """What stock runtimes do: zeros take as long as other weights, eight bits take less."""

    name: ClassVar[str] = "flat-time"
    assumes: ClassVar[str] = "zeros are multiplied like any other weight"
    quantities: ClassVar[tuple[str, ...]] = ("latency_s",)

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        return Cost(latency_s=layer.known_macs() * (1.0 if option.bits > 8 else 0.5) * 1e-9)


def context(**changes: object) -> PassContext:
    """``CONV_NET`` and samples it is always right on."""
    model = parse_text(CONV_NET)
    x = np.random.default_rng(0).normal(size=(400, 1, 8, 8)).astype(np.float32)
    labels = open_session(model, threads=1).run({"x": x})["scores"].argmax(axis=1)
    data = from_arrays({"x": x}, labels.astype(np.int64))
    settled = PassContext(
        reference=model,
        train=data.select(np.arange(200)),
        validation=data.select(np.arange(200, 400)),
        cost_model=MacsCostModel(),
        bindings={"N": 1},
    )
    return replace(settled, **changes)  # type: ignore[arg-type]


def nonzero_macs(model: ModelView) -> float:
    """Of CONV_NET: 64 positions, 16 positions, 1."""
    uses = {"w1": 64, "w2": 16, "w3": 1}
    return float(sum(uses[name] * np.count_nonzero(model.read(name)) for name in uses))


def test_the_budget_holds_on_the_weights_themselves() -> None:
    given = context()
    model = given.reference.fork()
    report = MeetBudget(budget=("macs=0.4x", "macbits=0.08x"), samples=128).run(model, given)
    assert report.changed
    assert report.unmet is None
    before, after = nonzero_macs(given.reference), nonzero_macs(model)
    assert 0.3 < after / before <= 0.4
    told = report.figures["budget"]["macs"]
    assert told["reached"] == pytest.approx(after / before)
    assert told["original"] == before
    assert set(report.figures["layers"]) == {"w1", "w2", "w3"}
    for name, row in report.figures["layers"].items():
        weights = model.read(name)
        assert np.count_nonzero(weights) == round(row["density"] * weights.size)
        if row["bits"] <= 8:
            for channel in weights.reshape(len(weights), -1):
                assert len(np.unique(channel[channel != 0])) <= 2 ** row["bits"]
    assert {edit.layer for edit in report.edits} == set(report.figures["layers"])
    before_after = report.figures["by_operator"]["Conv"]["macs"]
    assert before_after[1] < before_after[0]


def test_what_was_measured_once_need_not_be_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given = context()
    first = given.reference.fork()
    report = MeetBudget(budget=("macs=0.4x",), samples=128).run(first, given)
    measured = json.loads(json.dumps(report.figures["measured"]))
    monkeypatch.setattr("onnx_admm.passes.meet_budget.measured_surfaces", None)
    again = given.reference.fork()
    MeetBudget(budget=("macs=0.4x",), samples=128, measured=measured).run(again, given)
    for name in ("w1", "w2", "w3"):
        np.testing.assert_array_equal(first.read(name), again.read(name))
    del measured["w3"]
    with pytest.raises(PassRefused, match="not measured in the earlier run; got w3"):
        MeetBudget(budget=("macs=0.4x",), measured=measured).run(given.reference.fork(), given)


def test_zeros_are_never_chosen_for_a_time_they_do_not_save() -> None:
    given = context(cost_model=FlatTime())
    model = given.reference.fork()
    report = MeetBudget(budget=("latency=0.7x",), bits=(8,), samples=128).run(model, given)
    assert report.figures["zeros_never_pay"] == ["latency"]
    assert len(report.edits) == len(report.figures["layers"]) == 3
    assert all(row["density"] == 1 for row in report.figures["layers"].values())
    assert all("zeros never pay here on 'flat-time'" in edit.what for edit in report.edits)
    with pytest.raises(BudgetExceeded, match="On 'flat-time' zeros save no latency"):
        MeetBudget(budget=("latency=0.3x",), bits=(8,), samples=128).run(given.reference.fork(), given)


def test_a_latency_budget_on_the_runtime_itself_never_chooses_zeros(made_up_times: object) -> None:
    given = context(cost_model=OnnxRuntimeCostModel())
    # At least 1x: treated layers are priced as the kernels of this model, like the original.
    reason = "expected at least latency=1x, .* On 'onnxruntime' zeros save no latency"
    with pytest.raises(BudgetExceeded, match=reason):
        MeetBudget(budget=("latency=0.9x",), samples=64).run(given.reference.fork(), given)


def test_out_of_reach_within_the_drop_the_best_found_is_kept_and_said() -> None:
    given = context(max_drop=0.5)
    model = given.reference.fork()
    report = MeetBudget(budget=("macs=0.05x",), bits=(), samples=128, rounds=5).run(model, given)
    assert report.unmet is not None
    assert "macs=0.05x within a drop of 0.5 points is not reachable: the best found after" in report.unmet
    rounds = report.figures["rounds"]
    assert 1 < len(rounds) <= 5
    assert rounds[0]["drop"] > 0.5
    assert report.changed == any(each["drop"] <= 0.5 for each in rounds)


def test_the_contract_holds_with_a_target() -> None:
    def priced(model: ModelView) -> PassContext:
        bindings = {
            f"{port.name}[{axis}]": 4
            for port in model.signature().inputs
            for axis, extent in enumerate(port.shape or ())
            if not isinstance(extent, int)
        }
        return PassContext(reference=model, cost_model=MacsCostModel(), bindings=bindings)

    outcomes = check_pass(MeetBudget(budget=("macs=0.6x",), bits=(4,), samples=16), context=priced)
    assert set(outcomes) == set(model_family())
    assert "changed" in outcomes.values()


@pytest.mark.parametrize(
    ("settings", "changes", "error", "sentence"),
    [
        ({}, {}, PassRefused, "no budget to meet"),
        ({"budget": ("macs=0.5x",)}, {"cost_model": None}, PassRefused, "needs a cost model"),
        ({"budget": ("latency=0.5x",)}, {}, UsageError, "'macs' does not give that quantity; got latency"),
        ({"budget": ("macs=0.5x",), "bits": (9,)}, {}, PassRefused, "impossible number of bits"),
        ({"budget": ("macs=0.5x",), "rounds": 0}, {}, PassRefused, "rounds: too few"),
        (
            {"budget": ("macs=0.5x",)},
            {"max_drop": 1.0, "validation": None},
            PassRefused,
            "no samples to measure",
        ),
        ({"budget": ("macs=0.5x",), "epochs": 1}, {}, PassRefused, "needs a trainer"),
    ],
)
def test_what_is_refused(
    settings: dict[str, object], changes: dict[str, object], error: type[Exception], sentence: str
) -> None:
    given = context(**changes)
    with pytest.raises(error, match=sentence):
        MeetBudget(**settings).requires(given.reference, given)  # type: ignore[arg-type]


# -- the command -----------------------------------------------------------------------------


def test_the_command_explains_each_layer(run: RunCommand, net: Path, samples: Path) -> None:
    target, told = net.parent / "small.onnx", net.parent / "report.json"
    code, out, err = run(
        "compress", net, target, "--data", samples, "--budget", "macs=0.5x", "--cost-model", "macs",
        "--bind", "N=1", "--threads", 1, "--report", told, "-v",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "macs, % of all" in out
    assert "break-even" in out
    assert "less relative error" in out
    report = Report.from_json(told.read_text())
    step = next(step for step in report.steps if step.name == "meet_budget")
    assert step.figures["budget"]["macs"]["reached"] <= 0.5
    assert len(step.figures["layers"]) == 3
    assert all(row["alternatives"] for row in step.figures["layers"].values())
    assert 'cost_model = "macs"' in report.recipe


def test_an_unreachable_budget_ends_with_3_and_writes_nothing(
    run: RunCommand, net: Path, samples: Path
) -> None:
    target = net.parent / "small.onnx"
    target_flags = ("--cost-model", "macs", "--bind", "N=1", "--threads", 1)
    asked = ("compress", net, target, "--data", samples, *target_flags)
    code, _, err = run(*asked, "--budget", "macs=0.02x", "--max-drop", 0)
    assert code == 3
    assert "macs=0.02x within a drop of 0 points is not reachable: the best found after" in err
    assert "The result was not written; --keep writes it." in err
    assert not target.exists()
    code, _, err = run(*asked, "--budget", "macs=1000x")
    assert code == 3
    assert (
        "the budget is not reachable, whatever the accuracy; got macs=0.001x; expected at least macs=0.0"
        in err
    )


def test_a_flat_target_says_why_zeros_do_not_help(
    run: RunCommand, net: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, tmp_path, {"onnx_admm.cost_models": {"flat-time": "test_meet_budget:FlatTime"}})
    code, _, err = run(
        "compress", net, net.parent / "s.onnx", "--data", samples, "--budget", "latency=0.4x", "--cost-model",
        "flat-time", "--bind", "N=1", "--threads", 1,
    )  # fmt: skip
    assert code == 3
    assert "On 'flat-time' zeros save no latency: pruned layers cost as much as dense ones." in err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--budget", "macs=0.5x"], "a budget needs a cost model that prices the layers"),
        (
            ["--budget", "latency=0.5x", "--budget", "size=0.5x"],
            "a budget needs a cost model that prices the layers",
        ),
        (
            ["--budget", "latency=0.5x", "--cost-model", "macs"],
            "'macs' does not give that quantity; got latency",
        ),
        (["--budget", "fast=0.5x", "--cost-model", "macs"], "unknown quantity 'fast'"),
        (["--budget", "macs=half", "--cost-model", "macs"], "not a budget; got 'macs=half'"),
        (["--budget", "macs=2x", "--cost-model", "macs", "--prune", "0.5"], "got --budget and --prune"),
        (["--budget", "macs=0.5x", "--cost-model", "macs"], "Give it an extent: --bind N=1"),
    ],
)
def test_mistakes_about_budgets(
    run: RunCommand, net: Path, samples: Path, flags: list[str], sentence: str
) -> None:
    code, _, err = run("compress", net, net.parent / "s.onnx", "--data", samples, "--threads", 1, *flags)
    assert code == 2
    assert sentence in err


def test_training_between_pruning_and_quantising_holds_the_zeros() -> None:
    given = context(trainer=GraphTrainer(), settings=TrainingSettings(batch_size=32, threads=1))
    model, plain = given.reference.fork(), given.reference.fork()
    settings = MeetBudget(budget=("macs=0.4x", "macbits=0.08x"), samples=128, epochs=2, learning_rate=1e-2)
    report = settings.run(model, given)
    replace(settings, epochs=0, measured=report.figures["measured"]).run(plain, given)
    assert set(report.figures["layers"]) == {"w1", "w2", "w3"}
    for name, row in report.figures["layers"].items():
        weights = model.read(name)
        assert np.count_nonzero(weights) == round(row["density"] * weights.size)
        if row["bits"] <= 8:
            assert len(np.unique(weights[0][weights[0] != 0])) <= 2 ** row["bits"]
    assert any(not np.array_equal(model.read(name), plain.read(name)) for name in report.figures["layers"])
