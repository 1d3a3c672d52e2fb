"""Samples of different lengths as one dataset."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.contracts import Batch
from onnx_admm.data import from_iterable, split_dataset
from onnx_admm.data.ragged import RaggedSamples
from onnx_admm.errors import DataError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.evaluation import evaluate

MODEL = parse_text(
    """<ir_version: 8, opset_import: ["" : 17]>
    g (int64[N,length] ids) => (float[N,length] y) { y = Cast <to = 1> (ids) }"""
)
LENGTHS = (3, 3, 5, 2, 5)


def texts(*, labels: bool = False) -> RaggedSamples:
    feeds = [
        {"ids": np.full((1, length), number)} | ({"labels": np.array([number])} if labels else {})
        for number, length in enumerate(LENGTHS)
    ]
    data = from_iterable(feeds, MODEL)
    assert isinstance(data, RaggedSamples)
    return data


def numbers(batches: list[Batch]) -> list[int]:
    return [int(number) for batch in batches for number in batch.feeds["ids"][:, 0]]


def test_samples_keep_their_order_and_neighbours_of_one_shape_are_a_batch() -> None:
    batches = list(texts().batches(16))
    assert [batch.feeds["ids"].shape for batch in batches] == [(2, 3), (1, 5), (1, 2), (1, 5)]
    assert numbers(batches) == [0, 1, 2, 3, 4]
    assert [len(batch) for batch in texts().batches(1)] == [1] * 5


def test_shuffled_samples_come_once_and_like_shapes_together() -> None:
    data = texts(labels=True)
    batches = list(data.batches(5, seed=1))
    assert sorted(batch.feeds["ids"].shape for batch in batches) == [(1, 2), (2, 3), (2, 5)]
    assert sorted(numbers(batches)) == [0, 1, 2, 3, 4]
    for batch in batches:
        np.testing.assert_array_equal(batch.labels, batch.feeds["ids"][:, 0])


def test_views_and_halves() -> None:
    data = texts()
    chosen = data.select(np.array([4, 0, 2]))
    assert numbers(list(chosen.batches(8))) == [4, 0, 2]
    train, validation = split_dataset(data, 0.4, 0)
    assert (len(train), len(validation)) == (3, 2)
    with pytest.raises(DataError, match="no such sample; got 5"):
        data.select(np.array([5]))


def test_a_model_is_compared_on_them() -> None:
    quality = evaluate(MODEL, texts(), reference=MODEL)
    assert (quality.samples, quality.sqnr_db) == (5, 200.0)


def test_labels_of_some_samples_only() -> None:
    feeds = [
        {"ids": np.zeros((1, 2), np.int64), "labels": np.array([1])},
        {"ids": np.zeros((1, 3), np.int64)},
    ]
    with pytest.raises(DataError, match="labels for some samples only"):
        from_iterable(feeds, MODEL)
