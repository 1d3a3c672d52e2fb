"""The gate: which promises a result is held to, and which of them it meets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from test_report import comparison, facts, labelled, report

from onnx_admm.api.budget_promises import asks_speed_here, budget_promises
from onnx_admm.api.measure import Measurement
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import ModelView, PassReport
from onnx_admm.data import fit_dataset, open_dataset
from onnx_admm.errors import BudgetExceeded, DataError, PromiseMissed
from onnx_admm.model.analysis.class_axis import class_axis
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.expose_logits import squashed_outputs
from onnx_admm.pipeline import PipelineResult, StepReport
from onnx_admm.report import Comparison, Promise, QualityFacts, Report, Timing, to_json
from onnx_admm.report.gate import ROUNDED, WRECKED, Gate

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,3] y)'
LINEAR = "<float[2,3] w> { y = MatMul (x, w) }"


def outputs(
    decibels: Mapping[str, float],
    agreement: float | None = None,
    *,
    classes: bool = False,
    samples: int = 64,
    heads: Mapping[str, float] | None = None,
) -> Comparison:
    """A comparison; without ``heads`` predictions are read from all outputs."""
    shares = {} if agreement is None else dict.fromkeys(decibels, agreement)
    return comparison(
        QualityFacts(
            data="synthetic",
            samples=samples,
            agreement=agreement if heads is None else min(heads.values()),
            agreement_by_output=shares if heads is None else heads,
            judged_db=decibels,
            is_classifier=classes,
        )
    )


def sentence(gate: Gate, found: Comparison) -> str | None:
    missed = next((promise for promise in gate.judge(found) if not promise.met), None)
    return None if missed is None else str(missed.error())


@pytest.mark.parametrize(
    ("max_drop", "min_ratio", "expected"),
    [
        (0.5, None, None),
        (
            0.4,
            None,
            "accuracy drops too much on 1,000 validation samples; got 0.5 points; expected at most 0.4",
        ),
        (None, 10.0, None),
        (None, 10.1, "the file is not small enough; got 10 times smaller; expected at least 10.1"),
        (None, None, None),
    ],
)
def test_stated_bounds(max_drop: float | None, min_ratio: float | None, expected: str | None) -> None:
    gate = Gate(max_drop=max_drop, min_ratio=min_ratio)
    assert sentence(gate, comparison(labelled(0.99, 0.985))) == expected
    assert all(promise.stated for promise in gate.judge(comparison(labelled(0.99, 0.985))))


def test_without_labels_a_stated_drop_counts_predictions_that_change() -> None:
    found = outputs({"y": 3.0}, agreement=0.9)
    assert sentence(Gate(max_drop=10.0, floor=WRECKED), found) is None
    text = sentence(Gate(max_drop=9.0, floor=WRECKED), found)
    assert text == "predictions change too much on 64 synthetic samples; got 10 points; expected at most 9"


def test_a_drop_nobody_can_judge_is_refused() -> None:
    with pytest.raises(DataError, match="the data cannot show a drop"):
        Gate(max_drop=0.5).judge(outputs({"y": 30.0}))


@pytest.mark.parametrize(
    ("decibels", "heads", "missed"),
    [
        ({"a": 15.0, "b": 16.0}, {"a": 1.0, "b": 1.0}, None),
        ({"a": 40.0, "b": -3.0}, {"a": 1.0, "b": 0.2}, "b"),
        ({"a": 15.0, "boxes": 25.0}, {"a": 1.0}, None),
        ({"a": 25.0, "boxes": 15.0}, {"a": 1.0}, "boxes"),
        ({"a": 12.0, "boxes": 15.0}, {"a": 1.0}, "boxes"),
        ({"a::score": 15.0}, {"a": 1.0}, None),
    ],
)
def test_predictions_speak_for_their_own_outputs(
    decibels: dict[str, float], heads: dict[str, float], missed: str | None
) -> None:
    found = sentence(Gate(floor=ROUNDED), outputs(decibels, heads=heads, classes=True))
    assert (found is None) == (missed is None)
    assert missed is None or f"output {missed} changes too much" in str(found)


def test_with_labels_outputs_are_only_reported() -> None:
    quality = QualityFacts(
        data="validation",
        samples=99,
        accuracy_before=0.9,
        accuracy_after=0.9,
        agreement=0.1,
        judged_db={"y": -3.0},
    )
    assert Gate(floor=WRECKED).judge(comparison(quality)) == ()
    assert [promise.name for promise in Gate(max_drop=1.0, floor=WRECKED).judge(comparison(quality))] == [
        "max_drop"
    ]


@pytest.mark.parametrize(
    ("decibels", "agreement", "classes", "missed"),
    [
        ({"y": 10.0}, None, False, None),
        ({"y": 9.9}, None, False, "sqnr_db"),
        ({"y": 50.0, "z": 9.9}, None, False, "sqnr_db"),  # no output hides behind another
        ({"y": 12.0}, 0.5, True, None),
        ({"y": 12.0}, 0.49, True, "agreement"),
        ({"y": 25.0}, 0.49, True, "agreement"),
        ({"y": 12.0}, 0.49, False, "agreement"),
        ({"y": 25.0}, 0.49, False, None),  # figures that hardly change, and no classes for all that is known
        ({}, 0.49, False, "agreement"),  # classes as integers
        ({}, None, False, None),
    ],
)
def test_wrecked(
    decibels: dict[str, float], agreement: float | None, classes: bool, missed: str | None
) -> None:
    promises = Gate(floor=WRECKED).judge(outputs(decibels, agreement, classes=classes))
    assert next((promise.name for promise in promises if not promise.met), None) == missed
    assert not any(promise.stated for promise in promises)


@pytest.mark.parametrize(
    ("decibels", "agreement", "met"),
    [(20.0, None, True), (19.9, None, False), (12.0, 0.99, True), (12.0, 0.98, False)],
)
def test_where_nothing_is_asked_for(decibels: float, agreement: float | None, met: bool) -> None:
    found = outputs({"y": decibels}, agreement, classes=True, samples=1000)
    (promise,) = Gate(floor=ROUNDED).judge(found)
    assert promise.met is met


@pytest.mark.parametrize(("changed", "samples", "met"), [(1, 74, True), (2, 74, False), (2, 150, False)])
def test_one_prediction_of_a_few_may_change(changed: int, samples: int, met: bool) -> None:
    found = outputs({}, 1 - changed / samples, classes=True, samples=samples)
    (promise,) = Gate(floor=ROUNDED).judge(found)
    assert promise.met is met


def test_few_predictions_say_nothing() -> None:
    assert sentence(Gate(floor=WRECKED), outputs({"y": 12.0}, 0.0, classes=True, samples=3)) is None
    assert sentence(Gate(floor=WRECKED), outputs({"y": 12.0}, 0.0, classes=True, samples=4)) is not None


def test_a_larger_file() -> None:
    larger = Comparison(before=facts(file=400, nonzeros=9), after=facts(file=401, nonzeros=9))
    assert sentence(Gate(larger=False), larger) == (
        "the result is larger than the original; got 401 bytes; expected at most 400. "
        "Use the original, or another --format."
    )
    assert Gate().judge(larger) == ()


def test_a_slower_result_where_speed_was_asked_for() -> None:
    def timed(ratio: float) -> Comparison:
        timing = Timing(
            before_us=100.0,
            after_us=100 * ratio,
            ratio=ratio,
            before_load_ms=1.0,
            after_load_ms=1.0,
            threads=1,
        )
        return Comparison(**(vars(comparison()) | {"timing": timing}))

    assert sentence(Gate(slower=False), timed(1.1)) is None
    text = sentence(Gate(slower=False), timed(1.2)) or ""
    assert "slower than the original on this machine" in text
    assert "got 1.2 times the original's latency; expected at most 1.1" in text
    assert Gate().judge(timed(9.0)) == ()


def test_budgets_are_promises() -> None:
    figures = {"budget": {"macs": {"asked": 0.5, "reached": 0.49}, "latency": {"asked": 0.5, "reached": 0.6}}}
    met = PassReport(True, figures=figures)
    unmet = PassReport(True, unmet="not reachable: the best found is ...")
    result = PipelineResult(
        parse_text(HEAD + LINEAR), (StepReport("a", met, 0.0), StepReport("b", unmet, 0.0))
    )
    found = budget_promises(result)
    assert [(promise.required, promise.got, promise.met) for promise in found] == [
        (None, None, False), (0.5, 0.49, True), (0.5, 0.6, False),
    ]  # fmt: skip
    assert str(found[0].error()) == "not reachable: the best found is ..."
    here, elsewhere = (Recipe((), cost_model=name) for name in ("onnxruntime", "roofline:raspberry-pi-4"))
    assert asks_speed_here(result, here)
    assert not asks_speed_here(result, elsewhere)
    assert not asks_speed_here(PipelineResult(result.model, result.reports[1:]), here)


def test_the_report_carries_its_promises() -> None:
    kept = Promise(name="size", what="w", required=2.0, got=1.0, unit="bytes", met=True, stated=False)
    missed = Promise(name="budget", what="too much", met=False, stated=True)
    report().raise_if_missed()
    base = comparison(labelled(0.9, 0.9))
    for written, text in ((False, "too much. The result was not written"), (True, "The result was kept")):
        made = report(comparison=Comparison(**(vars(base) | {"promises": (kept, missed)})), written=written)
        with pytest.raises(BudgetExceeded, match=text) as caught:
            made.raise_if_missed()
        assert caught.value.exit_code == 3
        assert made.exceeded == "too much"
        assert Report.from_json(to_json(made)) == made
        listed = json.loads(to_json(made))["comparison"]["promises"]
        assert [(row["name"], row["required"], row["got"], row["met"]) for row in listed] == [
            ("size", 2.0, 1.0, True), ("budget", None, None, False),
        ]  # fmt: skip


def test_a_default_that_is_missed_is_no_budget() -> None:
    error = Promise(name="size", what="w", met=False, stated=False).error()
    assert isinstance(error, PromiseMissed)
    assert not isinstance(error, BudgetExceeded)
    assert error.exit_code == 3


# -- what is measured for it -------------------------------------------------------------------


def pair(folder: Path, text: str, factor: float) -> tuple[Path, Path]:
    """A model of the weight ``w``, and the same with every weight times ``factor``."""
    before, after = folder / "a.onnx", folder / "b.onnx"
    view = parse_text(text)
    view.save(before)
    view.write_back({"w": view.read("w") * np.float32(factor)})
    view.save(after)
    return before, after


def measured(folder: Path, text: str, factor: float) -> QualityFacts:
    before, after = pair(folder, text, factor)
    np.savez(folder / "d.npz", x=np.ones((8, 2), np.float32))
    data = open_dataset(folder / "d.npz", ModelView.load(before))
    found = Measurement(samples={"data": fit_dataset(data, ModelView.load(before))}, threads=1)
    return found.compare(before, after).quality[0]


def test_values_near_zero_are_judged_with_a_floor(tmp_path: Path) -> None:
    """Doubled outputs have 0 dB; those of 1e-9 change by less than the floor of 1e-6, by 60 dB."""
    weights = "<float[2,3] w = {%s}> { y = MatMul (x, w) }"
    large = measured(tmp_path, HEAD + weights % ", ".join(["1"] * 6), 2.0)
    small = measured(tmp_path, HEAD + weights % ", ".join(["5e-10"] * 6), 2.0)
    assert large.judged_db["y"] == pytest.approx(0.0, abs=1e-3)
    assert small.sqnr_by_output["y"] == pytest.approx(0.0, abs=1e-3)
    assert small.judged_db["y"] == pytest.approx(60.0, abs=0.1)


def test_probabilities_near_zero_have_a_floor_of_their_own(tmp_path: Path) -> None:
    """Sigmoid(-20) is 2e-9, Sigmoid(-10) 4.5e-5: against 1e-3 that is 27 dB."""
    text = HEAD + "<float[2,3] w = {-10, -10, -10, -10, -10, -10}> { s = MatMul (x, w) y = Sigmoid (s) }"
    assert measured(tmp_path, text, 0.5).judged_db["y"] == pytest.approx(26.9, abs=0.1)


def test_outputs_whose_shape_depends_on_the_data(tmp_path: Path) -> None:
    """NonZero finds values in one model and none in the other."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,2] x) => (float[M] y, float[1,3] z) '
        "<float[2,3] w = {1, 1, 1, 1, 1, 1}, int64[1] e = {-1}, int64[1] a = {0}> "
        "{ z = MatMul (x, w) r = Relu (z) n = NonZero (r) f = Cast <to = 1> (n) y = Reshape (f, e) }"
    )
    before, after = pair(tmp_path, text, -1.0)
    np.savez(tmp_path / "d.npz", x=np.ones((8, 2), np.float32))
    data = open_dataset(tmp_path / "d.npz", ModelView.load(before))
    found = Measurement(samples={"data": data}, threads=1).compare(before, after)
    assert found.quality[0].same_shape == {"y": 0.0}
    assert set(found.quality[0].judged_db) == {"z"}
    text = sentence(Gate(floor=WRECKED), found) or ""
    assert text.startswith("output y changes its shape on too many of 8 data samples; got 0 %")


def test_label_maps_are_judged_by_their_elements(tmp_path: Path) -> None:
    """Two of three columns of the weight decide for themselves; the sign of the third changes its label."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (bool[N,3] y) '
        "<float[2,3] w = {1, 1, 1, 1, 1, 1}, float z = {0}> { s = MatMul (x, w) y = Greater (s, z) }"
    )
    before, after = pair(tmp_path, text, 1.0)
    view = ModelView.load(after)
    view.write_back({"w": np.array([[1, 1, -1], [1, 1, -1]], np.float32)})
    view.save(after)
    np.savez(tmp_path / "d.npz", x=np.ones((8, 2), np.float32))
    data = open_dataset(tmp_path / "d.npz", ModelView.load(before))
    found = Measurement(samples={"data": data}, threads=1).compare(before, after)
    assert found.quality[0].same_elements == {"y": pytest.approx(2 / 3)}
    assert sentence(Gate(floor=WRECKED), found) is None
    assert "too many elements of output y change on 8 data samples; got 66.67 %" in (
        sentence(Gate(floor=ROUNDED), found) or ""
    )


@pytest.mark.parametrize(
    ("nodes", "classes", "squashed"),
    [
        ("s = MatMul (x, w) y = Softmax <axis = 1> (s)", True, {"y"}),
        ("s = MatMul (x, w) t = Softmax <axis = 1> (s) y = Identity (t)", True, {"y"}),
        ("s = MatMul (x, w) y = Sigmoid (s)", False, {"y"}),
        ("y = MatMul (x, w)", False, set()),
        ("s = MatMul (x, w) t = Softmax <axis = 1> (s) y = Mul (t, t)", False, set()),
    ],
)
def test_what_the_end_of_a_model_says(nodes: str, classes: bool, squashed: set[str]) -> None:
    view = parse_text(f"{HEAD}<float[2,3] w = {{1, 1, 1, 1, 1, 1}}> {{ {nodes} }}")
    assert (class_axis(view) is not None) is classes
    assert squashed_outputs(view) == squashed
