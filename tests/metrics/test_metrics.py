"""Metrics: the values of the built-in ones, the user's own, and where they take the place of accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx_admm
from onnx_admm.cli import main
from onnx_admm.contracts import Array, ModelView, PassContext
from onnx_admm.contracts.metrics import Metric, ScoredDataset, is_scored, metric_of
from onnx_admm.data import from_arrays
from onnx_admm.errors import BudgetExceeded, DataError, UsageError
from onnx_admm.metrics import BUILT_IN, as_metric
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.training.phases import validation_score

RNG = np.random.default_rng(0)
SCORES = np.array([[5, 1, 3], [1, 4, 2], [0, 1, 2], [7, 7, 7]], np.float32)
LABELS = np.array([2, 1, 0, 2])


Arrays = Mapping[str, Array]


def value(metric: Metric, outputs: Arrays, labels: Array | None, reference: Arrays | None = None) -> float:
    """The metric fed in two runs."""
    state, count = metric.start(), len(next(iter(outputs.values())))
    for part in (slice(0, 1), slice(1, count)):
        got, right = ({n: a[part] for n, a in side.items()} for side in (outputs, reference or outputs))
        state.update(got, None if labels is None else labels[part], right, len(range(count)[part]))
    return state.compute()


# -- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("top-1", 0.5), ("top-2", 0.75), ("top3", 1.0)])
def test_top_k_is_the_share_of_labels_among_the_highest(name: str, expected: float) -> None:
    assert value(as_metric(name), {"y": SCORES}, LABELS) == expected


def test_top_k_takes_pixels_and_leaves_out_what_counts_for_nothing() -> None:
    scores = np.zeros((2, 3, 2, 2), np.float32)
    scores[:, 1] = 1
    labels = np.array([[[1, 1], [0, -1]], [[-1, -1], [-1, 2]]])
    assert value(as_metric("top-1"), {"y": scores}, labels) == pytest.approx(2 / 4)


def test_mean_iou_is_over_the_classes_that_occur() -> None:
    found, labels = np.array([[0, 0, 1], [1, 1, 3]]), np.array([[0, 1, 1], [1, -1, 3]])
    expected = (1 / 2 + 2 / 3 + 1) / 3
    assert value(as_metric("miou"), {"y": found}, labels) == pytest.approx(expected)
    scores = np.eye(4, dtype=np.float32)[found].transpose(0, 2, 1)  # (n, classes, places)
    assert value(as_metric("miou"), {"y": scores}, labels) == pytest.approx(expected)


def test_log_likelihood_takes_scores_and_probabilities() -> None:
    probabilities = np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]] * 2, np.float32)
    labels = np.array([[0, 1], [2, -1]])
    expected = (math.log(0.5) + math.log(0.8) + math.log(0.25)) / 3
    for scores in (probabilities, np.log(probabilities) + 7):
        assert value(as_metric("log-likelihood"), {"y": scores}, labels) == pytest.approx(expected, abs=1e-6)


def test_cosine_and_sqnr_are_against_the_original() -> None:
    before = {"y": np.array([[1, 0], [0, 2], [0, 0]], np.float32)}
    after = {"y": np.array([[1, 1], [0, 5], [0, 0]], np.float32)}
    assert value(as_metric("cosine"), before, None) == 1
    assert value(as_metric("cosine"), after, None, before) == pytest.approx((math.sqrt(0.5) + 1 + 1) / 3)
    assert value(as_metric("sqnr"), before, None) == 1
    near = {"y": before["y"] * np.float32(1.01)}
    assert value(as_metric("sqnr"), near, None, before) == pytest.approx(0.99, abs=1e-5)  # 40 dB


@pytest.mark.parametrize("name", ["top-1", "miou", "log-likelihood"])
def test_labels_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="needs labels"):
        value(as_metric(name), {"y": SCORES}, None)
    with pytest.raises(DataError, match=r"does not fit the labels.*\(1, 3\).*\(1, 5\)"):
        value(as_metric(name), {"y": SCORES}, np.zeros((4, 5), int))
    with pytest.raises(DataError, match=r"no class for.*got 3; expected below 3"):
        value(as_metric(name), {"y": SCORES}, LABELS + 1)


# -- the user's own ---------------------------------------------------------------------------


def test_a_function_sees_everything_at_once() -> None:
    seen: list[Any] = []

    def own(outputs: Any, labels: Any) -> np.float32:
        seen.append((outputs, labels))
        return np.float32(0.25)

    assert value(as_metric(own), {"y": SCORES}, LABELS) == 0.25
    np.testing.assert_array_equal(seen[0][0], SCORES)
    np.testing.assert_array_equal(seen[0][1], LABELS)
    value(as_metric(own), {"y": SCORES, "z": SCORES}, None)
    assert sorted(seen[1][0]) == ["y", "z"]
    assert seen[1][1] is None


def test_outputs_that_cannot_be_stacked_come_run_by_run() -> None:
    state = as_metric(lambda outputs, labels: [a.shape for a in outputs] == [(3, 6), (1, 6)]).start()
    for detections in (3, 1):
        state.update({"boxes": np.zeros((detections, 6))}, None, {}, 2)
    with pytest.raises(UsageError, match=r"returns no number.*got True"):
        state.compute()


def test_a_class_is_fed_run_by_run() -> None:
    class Counted:
        def __init__(self) -> None:
            self.runs: list[int] = []

        def update(self, outputs: Array, labels: Array) -> None:
            self.runs.append(len(outputs))

        def compute(self) -> float:
            return sum(self.runs) + len(self.runs) / 10

    assert value(as_metric(Counted), {"y": SCORES}, LABELS) == pytest.approx(4.2)


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metric_of_mine.py").write_text(
        "class A:\n  def f(outputs, labels): return len(labels)\nx = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    metric = as_metric("my_metric_of_mine:A.f")
    assert (metric.name, value(metric, {"y": SCORES}, LABELS)) == ("A.f", 4)
    with pytest.raises(UsageError, match=r"no such function.*got g"):
        as_metric("my_metric_of_mine:g")
    with pytest.raises(UsageError, match="expected a callable"):
        as_metric("my_metric_of_mine:x")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("top-0", "no such metric; in --metric; got top-0"),
        ("f1", "one of top-1, miou"),
        ("no_such_module:f", "cannot be imported.*ModuleNotFoundError"),
        (3, "not a metric.*got 3"),
    ],
)
def test_what_is_no_metric_is_told(given: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence.replace("; in --metric;", ".*")):
        as_metric(given)


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (lambda outputs, labels: 1 / 0, "the metric failed.*ZeroDivisionError"),
        (lambda outputs: 1.0, "the metric failed.*TypeError.*called as metric"),
        (lambda outputs, labels: "good", "returns no number.*'good'"),
        (lambda outputs, labels: math.nan, "a number that is not finite"),
    ],
)
def test_mistakes_of_a_users_metric_are_sentences(own: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        value(as_metric(own), {"y": SCORES}, LABELS)


# -- in place of accuracy ---------------------------------------------------------------------

NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,24] x) => (float[N,6] y) { h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"""
X = RNG.normal(size=(40, 24)).astype(np.float32)
Y = RNG.integers(0, 6, 40)


@pytest.fixture(scope="module")
def net() -> bytes:
    arrays = {n: RNG.normal(0, 0.3, s).astype(np.float32) for n, s in {"w": (24, 40), "v": (40, 6)}.items()}
    return parse_text(NET, constants=arrays).to_bytes()


def test_samples_keep_their_metric_when_some_are_chosen() -> None:
    metric = as_metric("cosine")
    data = ScoredDataset(from_arrays({"x": X}, None), metric)
    assert metric_of(data.select(np.arange(3))) is metric
    assert is_scored(data)
    assert not data.has_labels
    assert not is_scored(data.data)


def test_top_1_is_the_accuracy(net: bytes) -> None:
    data = from_arrays({"x": X}, Y)
    plain = evaluate(net, data, reference=net)
    named = evaluate(net, ScoredDataset(data, as_metric("top-1")), reference=net)
    assert plain.accuracy == named.accuracy
    assert (plain.agreement, plain.sqnr_db) == (named.agreement, named.sqnr_db)


@pytest.mark.parametrize("name", [*BUILT_IN, "top-2"])
def test_every_built_in_metric_judges_a_result(name: str, net: bytes) -> None:
    found = onnx_admm.compare(net, net, data={"x": X, "labels": Y}, metric=name)
    assert found.quality[0].metric == name
    assert found.accuracy_before == found.accuracy_after
    assert f"| {name} (data, 40 samples) |" in found.to_markdown()


def test_a_metric_without_labels_decides_about_a_drop(net: bytes) -> None:
    spread: list[float] = []

    def own(outputs: Array, labels: None) -> float:
        spread.append(float(outputs.std()))
        return spread[-1]

    settings: dict[str, Any] = {"data": {"x": X}, "bits": 8, "fine_tune": False, "max_drop": 5, "threads": 1}
    result = onnx_admm.compress(net, metric=own, **settings)
    quality = result.report.comparison.quality[0]
    assert quality.metric.endswith("own")
    assert quality.accuracy_before in spread
    assert quality.accuracy_before != quality.accuracy_after
    assert result.report.accuracy_after == quality.accuracy_after
    falling = itertools.count(0, -10)
    with pytest.raises(BudgetExceeded, match=r"metric drops too much.*got 1,000 points.*at most 5"):
        onnx_admm.compress(net, metric=lambda outputs, labels: next(falling), **settings)


def test_the_best_epoch_is_chosen_by_the_metric(net: bytes) -> None:
    reference = ModelView.from_bytes(net)
    worse = reference.fork()
    worse.replace("w", 0.5 * reference.read("w"))
    for name, expected in (("cosine", 1.0), ("sqnr", 0.5)):
        validation = ScoredDataset(from_arrays({"x": X}, Y), as_metric(name))
        score = validation_score(PassContext(reference=reference, validation=validation))
        assert score is not None
        assert score(reference).value == 1.0
        assert score(worse).value == pytest.approx(expected, abs=1e-5)


def test_the_command_line_takes_a_function(
    net: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(net)
    np.savez("d.npz", x=X)
    Path("own_score.py").write_text("def mean(outputs, labels): return 3 + abs(outputs).mean() * 0\n")
    command = ["compare", "net.onnx", "net.onnx", "--data", "d.npz", "--max-drop", "0"]
    with pytest.raises(SystemExit) as left:
        main([*command, "--metric", "own_score:mean"])
    assert left.value.code == 0
    assert "mean (data, 40 samples)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main([*command, "--metric", "own_score:none"])
    assert left.value.code == 2
    assert "no such function" in capsys.readouterr().err


def test_a_metric_below_zero_is_not_taken_for_a_fallen_accuracy(net: bytes) -> None:
    settings: dict[str, Any] = {"data": {"x": X}, "bits": 8, "fine_tune": False, "threads": 1}
    report = onnx_admm.compress(net, metric=lambda outputs, labels: -1.0, **settings).report
    assert (report.accuracy_before, report.accuracy_after) == (-1, -1)
    assert not any("falls from" in note or "accuracy" in note.lower() for note in report.notes)


def test_a_metric_without_samples_is_refused(net: bytes) -> None:
    with pytest.raises(UsageError, match="no samples to measure on"):
        onnx_admm.compress(net, metric="cosine")
    with pytest.raises(UsageError, match="no samples to measure on"):
        onnx_admm.compare(net, net, metric="cosine")
