"""The range of a value by the error of the outputs: what a value's own distribution cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.contracts import Feeds, SilentProgress
from onnx_admm.data.anything import as_dataset
from onnx_admm.measurement.sensitivity import Effect, OutputProbe
from onnx_admm.measurement.staged_session import EditedSession
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.quantization.histograms import histograms_of
from onnx_admm.quantization.range_choice import ChosenRange, RangeChoice
from onnx_admm.quantization.ranges import RangeMethod

HEAD = '<ir_version: 8, opset_import: ["" : 17]> net (float[N,16] x) => (float[N,4] y) <float[16,4] w>'


def chosen(
    body: str, samples: np.ndarray, methods: frozenset[RangeMethod] = frozenset(RangeMethod)
) -> ChosenRange:
    view: ModelView = parse_text(f"{HEAD} {{ {body} }}")
    data = as_dataset({"x": samples}, view, preprocessing=None, part="train", label=None)
    histograms = histograms_of(view, ["x"], data, memory_bytes=1 << 20, threads=1)
    choice = RangeChoice(probe=OutputProbe(view, [], data, threads=1), steps=255, methods=methods)
    with SilentProgress().task("ranges", 1) as task:
        return choice.of(histograms, task)["x"]


NORMAL = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)


def test_a_side_that_the_next_operator_drops_gets_no_codes() -> None:
    samples = np.where(NORMAL < 0, NORMAL * 50, NORMAL).astype(np.float32)
    found = chosen("r = Relu (x) y = MatMul (r, w)", samples)
    assert found.range.method is RangeMethod.OUTPUT
    assert found.range.low == 0.0
    assert found.range.high > 0.9 * samples.max()
    assert found.error < 1e-2 * found.min_max_error


def test_values_that_count_in_full_keep_their_extremes() -> None:
    found = chosen("y = MatMul (x, w)", np.sign(NORMAL).astype(np.float32))
    assert found.range.low < -0.99
    assert found.range.high > 0.99


@pytest.mark.parametrize("method", [RangeMethod.MIN_MAX, RangeMethod.PERCENTILE, RangeMethod.MSE])
def test_a_stated_method_is_taken(method: RangeMethod) -> None:
    samples = NORMAL.copy()
    samples[0, 0] = 30.0
    found = chosen("y = MatMul (x, w)", samples, frozenset({method}))
    assert found.range.method in (method, RangeMethod.MIN_MAX)
    assert found.error <= found.min_max_error


def counted(
    monkeypatch: pytest.MonkeyPatch, samples: np.ndarray, negligible: float, few: int
) -> tuple[ChosenRange, list[int]]:
    """Return the chosen range, and the number of samples of each trial."""
    view: ModelView = parse_text(f"{HEAD} {{ r = Relu (x) y = MatMul (r, w) }}")
    data = as_dataset({"x": samples}, view, preprocessing=None, part="train", label=None)
    histograms = histograms_of(view, ["x"], data, memory_bytes=1 << 20, threads=1)
    probe, tried = OutputProbe(view, [], data, threads=1), list[int]()
    subset = probe.on(data.select(np.arange(few)))
    effect_of_edit = OutputProbe.effect_of_edit

    def counting(self: OutputProbe, edited: EditedSession, further: Feeds) -> Effect:
        tried.append(few if self is subset else len(samples))
        return effect_of_edit(self, edited, further)

    monkeypatch.setattr(OutputProbe, "effect_of_edit", counting)
    choice = RangeChoice(
        probe=probe, steps=255, methods=frozenset(RangeMethod),
        few=subset, negligible=negligible,
    )  # fmt: skip
    with SilentProgress().task("ranges", 1) as task:
        return choice.of(histograms, task)["x"], tried


def test_a_value_of_negligible_error_keeps_its_extremes_after_one_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = np.where(NORMAL < 0, NORMAL * 50, NORMAL).astype(np.float32)
    found, tried = counted(monkeypatch, samples, negligible=1.0, few=16)
    assert found.range == found.min_max
    assert tried == [64]


def test_ranges_are_compared_on_few_samples_and_the_best_is_confirmed_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = np.where(NORMAL < 0, NORMAL * 50, NORMAL).astype(np.float32)
    found, tried = counted(monkeypatch, samples, negligible=0.0, few=16)
    assert found.range.method is RangeMethod.OUTPUT
    assert found.range.low == 0.0
    assert tried.count(64) == 2
    assert tried[-1] == 64


def test_a_range_that_only_suits_the_few_samples_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.sign(NORMAL).astype(np.float32)
    samples[16:] *= 100.0
    found, tried = counted(monkeypatch, samples, negligible=0.0, few=16)
    assert found.range.high > 99
    assert tried.count(64) >= 1
