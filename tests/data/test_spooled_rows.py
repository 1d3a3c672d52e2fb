"""Samples of iterables lie on disk, within bounds, and are what was given."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.data import from_iterable, spooled_rows
from onnx_admm.data.anything import as_dataset
from onnx_admm.data.ragged import RaggedSamples
from onnx_admm.data.spooled_rows import Spool, SpooledRows
from onnx_admm.errors import DataError, LimitReached
from onnx_admm.model.analysis.text import parse_text

MODEL = parse_text("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,L] x) => (float[N,L] y) { y = Relu (x) }""")
PIXELS = parse_text("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu (x) }""")

PEAK = """
import resource, sys
import numpy as np
from onnx_admm.data.anything import as_dataset
from onnx_admm.model.analysis.text import parse_text

MODEL = parse_text('''<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,1,65536] x) => (float[N,1,65536] y) { y = Relu (x) }''')

def samples(count):
    for number in range(count):
        yield {"x": np.full((1, 1, 65536), number, np.float32), "labels": np.full((1, 65536), number)}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

sum(len(batch) for batch in as_dataset(samples(8), MODEL).batches(8, seed=1))
before = peak()
read = sum(len(batch) for batch in as_dataset(samples(256), MODEL).batches(8, seed=1))
print(read, peak() - before)
"""
"""192 MiB of samples and dense labels."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def rows(count: int, width: int = 4) -> npt.NDArray[np.float32]:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def spooled(*parts: npt.NDArray[Any]) -> SpooledRows:
    spool = Spool()
    found, other = spool.rows("x", parts[0].shape[1:]), spool.rows("x", (2,))
    for number, part in enumerate(parts):
        found.append(part)
        if number % 2:
            other.append(np.zeros((1, 2)))  # so that the next part lies apart
    spool.finish()
    return found


@pytest.mark.parametrize(
    "parts",
    [
        [rows(5)],
        [rows(3), -rows(2), rows(4)],
        [rows(2), rows(3).astype(np.float64), rows(2).astype(np.int8), rows(1)],
        [np.array(["a", "bb"]), np.array(["longer"]), np.array(["", "c"])],
        [rows(2)[:, ::2], rows(6).reshape(4, 6)[:, :2]],
        [np.empty((3, 0), np.float32), np.empty((2, 0), np.float32)],
        [np.array([True, False]), np.array([True])],
    ],
)
def test_what_is_taken_is_what_was_written(parts: list[npt.NDArray[Any]]) -> None:
    found, expected = spooled(*parts), np.concatenate(parts)
    assert (len(found), found.sample_shape, found.dtype) == (
        len(expected),
        expected.shape[1:],
        expected.dtype,
    )
    orders = [
        np.arange(len(expected)),
        np.random.default_rng(0).permutation(len(expected)),
        np.array([1, 1, 0]),
    ]
    for order in orders:
        taken = found.take(order)
        assert taken.dtype == expected.dtype
        np.testing.assert_array_equal(taken, expected[order])
    with pytest.raises(IndexError):
        found.take(np.array([len(expected)]))


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage on this system")
def test_the_peak_of_memory_does_not_grow_with_the_samples() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    read, grown_mib = map(int, done.stdout.split())
    assert read == 256
    assert grown_mib < 130


def test_the_folder_goes_with_the_samples(place: Path) -> None:
    data = from_iterable([{"x": rows(2)}, {"x": rows(3)}], MODEL)
    (folder,) = place.iterdir()
    view = data.select(np.array([4, 1]))
    del data
    gc.collect()
    assert folder.is_dir()
    (batch,) = view.batches(8)
    np.testing.assert_array_equal(batch.feeds["x"], [rows(3)[2], rows(2)[1]])
    del view
    gc.collect()
    assert list(place.iterdir()) == []


def endless() -> Iterator[dict[str, Any]]:
    for number in itertools.count():
        yield {"x": np.full((4, 8), number, np.float32)}


@pytest.mark.parametrize(
    ("bound", "value", "sentence"),
    [
        ("MOST_SAMPLES", 100, "an iterable gives more samples than a run keeps; got over 100. Check that"),
        ("MOST_BYTES", 1 << 20, r"take more disk than a run uses for them; got over 1 MiB in 32,\d+ samples"),
        ("LEAST_FREE_BYTES", 1 << 60, "too little free disk; got .* MiB free after .*TMPDIR"),
    ],
)
def test_an_iterable_without_an_end_ends_at_a_bound(
    bound: str, value: int, sentence: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled_rows, "LOOK_EVERY_BYTES", 1 << 16)
    monkeypatch.setattr(spooled_rows, bound, value)
    with pytest.raises(LimitReached, match=sentence):
        as_dataset(endless(), MODEL)
    assert list(place.iterdir()) == []


def test_a_few_samples_fit_a_disk_that_is_nearly_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled_rows, "LEAST_FREE_BYTES", 1 << 60)
    assert len(from_iterable([{"x": rows(2)}, {"x": rows(3)}], MODEL)) == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_a_sentence() -> None:
    spool = Spool()
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(LimitReached, match=r"refuses disk .*No space left on device.*TMPDIR"),
    ):
        SpooledRows(spool, full, "x", (4,)).append(rows(1))  # type: ignore[arg-type]
    spool.close()


def test_no_temporary_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(LimitReached, match="refuses disk for the samples of an iterable"):
        from_iterable([{"x": rows(2)}], MODEL)


def test_the_first_sample_of_a_wrong_shape_is_told_before_the_next_is_read() -> None:
    def once() -> Iterator[dict[str, Any]]:
        yield {"x": np.zeros((1, 8, 8, 3), np.float32)}
        pytest.fail("read on")

    with pytest.raises(DataError, match=r"another shape than the input.*\(0, 3, 1, 2\)"):
        from_iterable(once(), PIXELS)


@pytest.mark.parametrize(
    ("feeds", "sentence"),
    [
        ([{"x": rows(1)}, {"x": np.array([[1, None, 2, 3]])}], "x: an array of Python objects"),
        ([{"x": rows(2)}, {"x": np.array([[1, 2, 3, np.inf]])}], "sample 2: a value that is not finite"),
        ([{"x": rows(2), "labels": [0, 1]}, {"x": rows(1)}], "labels of the wrong length; got 2; expected 3"),
        ([{"x": rows(1), "labels": [0]}, {"x": rows(1), "labels": [[0, 1]]}], "feeds of different shapes"),
        ([{"x": rows(1), "labels": [0]}, {"x": rows(1), "labels": [-7]}], "a negative label; got -7"),
    ],
)
def test_later_samples_that_do_not_fit_are_told(feeds: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        from_iterable(feeds, MODEL)


def test_samples_of_several_shapes_keep_their_order_and_their_labels() -> None:
    widths = [3, 5, 3, 3, 5, 2]
    feeds = [
        {"x": np.full((2, width), number), "labels": [number] * 2} for number, width in enumerate(widths)
    ]
    data = from_iterable(iter(feeds), MODEL)
    assert isinstance(data, RaggedSamples)
    found = [(batch.feeds["x"][0, 0], batch.labels) for batch in data.batches(1)]
    assert [value for value, _ in found] == np.repeat(range(6), 2).tolist()
    assert [label for _, labels in found if labels is not None for label in labels] == [v for v, _ in found]
