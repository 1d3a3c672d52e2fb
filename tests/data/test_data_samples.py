"""Batches, views and splits: every sample once, the same by seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_admm.contracts import Dataset
from onnx_admm.data import SampleSet, from_arrays, split_dataset
from onnx_admm.data.sources import ArraySource
from onnx_admm.errors import DataError


def numbered(n: int, classes: int | None = None) -> SampleSet:
    labels = None if classes is None else np.arange(n) % classes
    return from_arrays({"x": np.arange(n, dtype=np.float32)[:, None]}, labels)


def numbers(data: Dataset, size: int = 4, seed: int | None = None) -> list[int]:
    return [int(x) for batch in data.batches(size, seed=seed) for x in batch.feeds["x"][:, 0]]


def test_from_arrays_is_a_dataset() -> None:
    data = numbered(10, 3)
    assert isinstance(data, Dataset)
    assert (data.input_names, data.has_labels, len(data)) == (("x",), True, 10)
    assert [len(batch) for batch in data.batches(4)] == [4, 4, 2]


def test_order_without_a_seed_and_shuffled_by_it() -> None:
    data = numbered(50)
    assert numbers(data) == list(range(50))
    assert numbers(data, seed=3) == numbers(data, size=7, seed=3) != list(range(50))
    assert numbers(data, seed=3) != numbers(data, seed=4)
    assert sorted(numbers(data, seed=3)) == list(range(50))


def test_labels_go_with_their_samples() -> None:
    batches = list(numbered(20, 7).batches(6, seed=1))
    assert len(batches) == 4
    for batch in batches:
        np.testing.assert_array_equal(batch.labels, batch.feeds["x"][:, 0].astype(int) % 7)


def test_select_is_a_view_in_the_order_asked_for() -> None:
    data = numbered(10, 5).select(np.array([8, 3, 5]))
    assert numbers(data) == [8, 3, 5]
    assert numbers(data.select(np.array([2, 0]))) == [5, 8]
    np.testing.assert_array_equal(data.labels, [3, 3, 0])
    assert sorted(numbers(data, seed=1)) == [3, 5, 8]


@pytest.mark.parametrize(
    ("indices", "sentence"),
    [([3], "no such sample; got 3; expected 0 to 2"), ([-1], "got -1"), ([], "no samples")],
)
def test_select_of_what_is_not_there(indices: list[int], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        numbered(3).select(np.array(indices, np.int64))


@settings(max_examples=60)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=80),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_disjoint_complete_and_of_the_size_asked_for(
    labels: list[int], fraction: float, seed: int
) -> None:
    n = len(labels)
    data = from_arrays({"x": np.arange(n)[:, None]}, labels)
    train, validation = split_dataset(data, fraction, seed)
    assert sorted(numbers(train) + numbers(validation)) == list(range(n))
    assert len(validation) == min(max(round(fraction * n), 1), n - 1)
    assert numbers(split_dataset(data, fraction, seed)[1]) == numbers(validation)
    validation_labels = np.array([labels[i] for i in numbers(validation)])
    for label in set(labels):
        share = len(validation) / n * labels.count(label)
        assert abs(np.count_nonzero(validation_labels == label) - share) < 1


def test_split_differs_by_seed_and_reads_nothing() -> None:
    class Unread(ArraySource):
        def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
            raise AssertionError("a sample was read")

    data = SampleSet({"x": Unread(np.zeros((100, 1)))}, np.arange(100) % 3)
    first, second = (split_dataset(data, 0.1, seed)[1] for seed in (0, 1))
    assert isinstance(first, SampleSet)
    assert isinstance(second, SampleSet)
    assert len(first) == len(second) == 10
    assert numbers(split_dataset(numbered(100), 0.1, 0)[1]) != numbers(
        split_dataset(numbered(100), 0.1, 1)[1]
    )


@pytest.mark.parametrize(("n", "fraction"), [(1, 0.5), (10, 0.0), (10, 1.0), (10, 1.5)])
def test_splits_that_make_no_sense(n: int, fraction: float) -> None:
    with pytest.raises(DataError):
        split_dataset(numbered(n), fraction, 0)
