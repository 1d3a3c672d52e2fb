"""Histograms of inner values, streamed: whatever the batches, within the memory allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.data.anything import as_dataset
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.quantization import histograms as histograms_module
from onnx_admm.quantization.histograms import Histogram, histograms_of

NET = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N,8] x) => (float[N,4] y) <float[8,16] w1, float[16,4] w2>
    { a = MatMul (x, w1) r = Relu (a) y = MatMul (r, w2) }"""


@pytest.fixture
def net() -> tuple[ModelView, Dataset, np.ndarray]:
    view = parse_text(NET)
    samples = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    return view, as_dataset({"x": samples}, view, preprocessing=None, part="train", label=None), samples


def test_inputs_and_inner_values_have_the_histograms_of_all_samples(
    net: tuple[ModelView, Dataset, np.ndarray],
) -> None:
    view, data, samples = net
    found = histograms_of(view, ["x", "a", "r"], data, memory_bytes=1 << 20, threads=1)
    inner = samples @ view.read("w1")
    assert (found["x"].low, found["x"].high) == (samples.min(), samples.max())
    assert found["a"].high == pytest.approx(float(inner.max()), rel=1e-5)
    assert found["r"].low == 0.0
    assert [found[name].counts.sum() for name in ("x", "a", "r")] == [800, 1600, 1600]
    assert found["a"].rank == 2


def test_little_memory_means_more_runs_and_the_same_histograms(
    net: tuple[ModelView, Dataset, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    view, data, _ = net
    sizes: list[int] = []
    batch_size = histograms_module._batch_size

    def noted(*arguments: Any) -> int:
        sizes.append(batch_size(*arguments))
        return sizes[-1]

    monkeypatch.setattr(histograms_module, "_batch_size", noted)
    much = histograms_of(view, ["a", "r"], data, memory_bytes=1 << 20, threads=1)
    little = histograms_of(view, ["a", "r"], data, memory_bytes=1, threads=1)
    assert sizes == [32, 32, 1, 1]  # extremes, then counts
    for name in much:
        assert much[name].high == pytest.approx(little[name].high, rel=1e-6)
        assert np.abs(much[name].counts - little[name].counts).sum() <= 8  # rounding at the edges of bins


def test_inputs_alone_need_no_run(net: tuple[ModelView, Dataset, np.ndarray]) -> None:
    view, data, samples = net
    found = histograms_of(view, ["x"], data, memory_bytes=1 << 20, threads=1)
    assert found["x"].high == samples.max()


def test_a_value_beside_the_extremes_counts_at_the_end() -> None:
    """What follows the size of a batch may lie a little outside of what the first run saw."""
    found = Histogram()
    found.widen(np.array([-1.0, 1.0], np.float32))
    found.count(np.array([-1.1, 0.9, 1.2], np.float32))
    assert (found.counts[0], found.counts[-1], found.counts.sum()) == (1, 1, 3)
