"""Labels under another name than ``labels``, in every form of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx_admm
from onnx_admm.contracts import Dataset
from onnx_admm.data.anything import as_dataset
from onnx_admm.errors import DataError
from onnx_admm.model.analysis.text import parse_text

MODEL = parse_text("""<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,3] x) => (float[N,3] y) { y = Relu (x) }""")
TWO_INPUTS = parse_text("""<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,3] x, float[N,3] labels) => (float[N,3] y) { y = Add (x, labels) }""")
X = np.arange(12, dtype=np.float32).reshape(4, 3)
CLASSES = np.array([2, 0, 1, 2])


def labels_of(data: Dataset) -> list[int]:
    (batch,) = data.batches(8)
    assert batch.labels is not None
    return list(batch.labels)


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "d.npz", **arrays)
    return folder / "d.npz"


@pytest.mark.parametrize(
    "form",
    [
        lambda folder: {"x": X, "target": CLASSES},
        lambda folder: [{"x": X[:2], "target": CLASSES[:2]}, {"x": X[2:], "target": CLASSES[2:]}],
        lambda folder: [(X, CLASSES)],
        lambda folder: npz(folder, x=X, target=CLASSES),
    ],
)
def test_labels_are_found_by_their_name(form: Callable[[Path], Any], tmp_path: Path) -> None:
    assert labels_of(as_dataset(form(tmp_path), MODEL, label="target")) == [2, 0, 1, 2]


def test_a_folder_and_a_description_take_the_name(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", X)
    np.save(tmp_path / "d" / "target.npy", CLASSES)
    (tmp_path / "d.toml").write_text('path = "d"\n')
    for place in ("d", "d.toml"):
        assert labels_of(as_dataset(tmp_path / place, MODEL, label="target")) == [2, 0, 1, 2]


def test_an_input_may_be_called_labels() -> None:
    data = {"x": X, "labels": X, "target": CLASSES}
    for form in (data, [data]):
        found = as_dataset(form, TWO_INPUTS, label="target")
        assert labels_of(found) == [2, 0, 1, 2]
        assert set(found.input_names) == {"x", "labels"}


def test_data_without_labels_has_none() -> None:
    assert not as_dataset({"x": X}, MODEL, label="target").has_labels


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("targte", "the data have no labels of that name; got targte; expected one of target, x"),
        ("x", "the array of labels is an input"),
    ],
)
def test_a_wrong_name_is_told(label: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        as_dataset({"x": X, "target": CLASSES}, MODEL, label=label)


def test_functions_and_commands_take_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnx_admm.cli import main

    monkeypatch.chdir(tmp_path)
    MODEL.save("net.onnx")
    npz(tmp_path, x=X, target=CLASSES)
    found = onnx_admm.compare("net.onnx", "net.onnx", data="d.npz", label="target")
    assert found.accuracy_after == 0.5  # the largest of each row is the last
    with pytest.raises(SystemExit) as left:
        main(["compare", "net.onnx", "net.onnx", "--data", "d.npz", "--label", "target"])
    assert left.value.code == 0
    assert "50.00 %" in capsys.readouterr().out
