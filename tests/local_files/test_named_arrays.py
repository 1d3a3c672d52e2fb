"""Writing and reading arrays under arbitrary names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_admm.errors import DataError
from onnx_admm.local_files.named_arrays import read_npz, write_npz

NAMES = [
    "x",
    "file",
    "allow_pickle",
    "args",
    "kwds",
    "self",
    "arr_0",
    "x.npy",
    "input:0",
    "a/b",
    "../up",
    "..",
    "/etc/passwd",
    "back\\slash",
    "",
    " ",
    "Größe 数",
    "new\nline",
]


def test_every_name_comes_back_with_its_own_array(tmp_path: Path) -> None:
    arrays = {name: np.arange(number + 1) for number, name in enumerate(NAMES)}
    write_npz(tmp_path / "d.npz", arrays)
    found = read_npz(tmp_path / "d.npz")
    assert list(found) == NAMES
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]


@pytest.mark.parametrize(
    "array",
    [
        np.float32(2.5),
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([True, False]),
        np.array(["a", "Größe"]),
        np.arange(8, dtype=">i4")[::2],
    ],
    ids=["scalar", "empty", "fortran", "bool", "text", "strided"],
)
def test_shape_dtype_and_values_come_back(tmp_path: Path, array: np.ndarray) -> None:
    write_npz(tmp_path / "d.npz", {"x": array})
    found = read_npz(tmp_path / "d.npz")["x"]
    assert (found.shape, found.dtype) == (np.shape(array), array.dtype)
    np.testing.assert_array_equal(found, array)
    with np.load(tmp_path / "d.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["x"], array)


def test_path_gets_no_suffix_and_is_replaced(tmp_path: Path) -> None:
    for value in (1, 2):
        write_npz(tmp_path / "feeds", {"x": np.array([value])})
    assert [path.name for path in tmp_path.iterdir()] == ["feeds"]
    assert read_npz(tmp_path / "feeds")["x"] == [2]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 65_532], ids=["nul", "surrogate", "long"])
def test_name_that_no_archive_holds_is_refused_before_writing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"a name that an \.npz file cannot hold"):
        write_npz(tmp_path / "d.npz", {"x": np.zeros(1), name: np.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_longest_name_fits(tmp_path: Path) -> None:
    write_npz(tmp_path / "d.npz", {"x" * 65_531: np.ones(2)})
    assert list(read_npz(tmp_path / "d.npz")) == ["x" * 65_531]


def test_python_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an array of numbers or text"):
        write_npz(tmp_path / "d.npz", {"x": np.array([{}], dtype=object)})
