"""Data that does not fit: each mistake gets its sentence, and exit code 2."""

from __future__ import annotations

import builtins
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from PIL import Image

from onnx_admm.contracts import Batch
from onnx_admm.data import Preprocessing, fit_dataset, fitting, from_arrays, from_iterable, open_dataset
from onnx_admm.errors import DataError, OnnxAdmmError
from onnx_admm.local_files.named_arrays import write_npz
from onnx_admm.model import ModelView


def model_of(inputs: str) -> ModelView:
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
        g ({inputs}) => (float[1] y) {{ y = Constant <value = float[1] {{0}}> () }}"""
    return ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString())


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def with_nan(*shape: int) -> np.ndarray[Any, Any]:
    array = floats(*shape)
    array[-2, 0] = np.nan
    return array


ONE, TWO = "float[N,2] x", "float[N,2] left, float[N,2] right"


@pytest.mark.parametrize(
    ("inputs", "arrays", "sentence"),
    [
        (
            ONE,
            {"X": floats(3, 2)},
            "x: no data for an input of the model; got arrays named X; expected one per input: x. "
            "Rename X to x?",
        ),
        (
            ONE,
            {"images": floats(3, 2)},
            "x: no data for an input of the model; got arrays named images; expected one per input: x. "
            "Rename images to x?",
        ),
        (
            ONE,
            {"labels": np.zeros(3, int)},
            "x: no data for an input of the model; got no arrays; expected one per input: x",
        ),
        (
            TWO,
            {"left": floats(3, 2)},
            "right: no data for an input of the model; got arrays named left; "
            "expected one per input: left, right",
        ),
        (
            ONE,
            {"x": floats(3, 2), "y": floats(3, 2)},
            "y: the model has no such input; expected only x, and labels",
        ),
        (ONE, {"x": floats(3, 4)}, "x: data of another shape than the input; got [n, 4]; expected [N, 2]"),
        (
            ONE,
            {"x": floats(3, 2, 1, 1)},
            "x: data of another shape than the input; got [n, 2, 1, 1]; expected [N, 2]",
        ),
        (ONE, {"x": np.array(3.0)}, "x: a single number; expected an array whose first axis counts samples"),
        (
            "int32[N,2] x",
            {"x": floats(3, 2)},
            "x: data of another type than the input; got float32; expected int32",
        ),
        (
            ONE,
            {"x": np.zeros((3, 2), bool)},
            "x: data of another type than the input; got bool; expected float32",
        ),
        (
            ONE,
            {"x": np.array([["a", "b"]])},
            "x: data of another type than the input; got <U1; expected float32",
        ),
        (
            "int32[N,2] x",
            {"x": np.array([[1, 2**40]])},
            "x: a number out of the input's range; got 1 to 1099511627776; expected int32",
        ),
        (ONE, {"x": floats(0, 2)}, "the data holds no samples"),
        (ONE, {"x": with_nan(5, 2)}, "x, sample 3: a value that is not finite; got nan"),
        (ONE, {"x": np.full((2, 2), 1e300)}, "x, sample 0: a value that is not finite; got inf"),
        (
            TWO,
            {"left": floats(3, 2), "right": floats(4, 2)},
            "inputs with different numbers of samples; got left 3, right 4",
        ),
        (
            ONE,
            {"x": floats(3, 2), "labels": np.zeros(4, int)},
            "labels: labels of the wrong length; got 4; expected 3",
        ),
        (
            ONE,
            {"x": floats(3, 2), "labels": floats(3)},
            "labels: not class labels; got float32 of shape (3,); expected integers of shape (samples,), "
            "or (samples, ...) where each place has a class",
        ),
        (
            ONE,
            {"x": floats(3, 2), "labels": np.array([0, -1, 2])},
            "labels: a negative label; got -1; expected 0 or more. `ignore_label` in [preprocessing] "
            "names a label that is ignored.",
        ),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, inputs: str, arrays: dict[str, np.ndarray[Any, Any]], sentence: str
) -> None:
    write_npz(tmp_path / "d.npz", arrays)
    with pytest.raises(DataError) as caught:
        for _ in open_dataset(tmp_path / "d.npz", model_of(inputs)).batches(2):
            pass
    assert str(caught.value) == sentence
    assert caught.value.exit_code == 2


def test_a_nan_in_data_too_large_to_read_at_opening_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKED_AT_OPENING_BYTES", 10)
    np.savez(tmp_path / "d.npz", x=with_nan(5, 2))
    batches = open_dataset(tmp_path / "d.npz", model_of(ONE)).batches(2)
    assert len(next(batches)) == 2
    with pytest.raises(DataError, match="x, sample 3: a value that is not finite"):
        next(batches)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "d.npz", x=objects)
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f" / "x.npy", objects)
    with pytest.raises(DataError, match=r"d.npz: x.npy: an array of Python objects"):
        open_dataset(tmp_path / "d.npz", model_of(ONE))
    with pytest.raises(DataError, match=r"x.npy: an array of Python objects"):
        open_dataset(tmp_path / "f", model_of(ONE))
    with pytest.raises(DataError, match="x: an array of Python objects"):
        from_arrays({"x": objects})


SHORT_IDX = struct.pack(">HBB3I", 0, 8, 3, 2, 2, 2) + b"1234567"
FLAT_IDX = struct.pack(">HBBI", 0, 8, 1, 2) + b"12"


def cut_npz(folder: Path) -> Path:
    np.savez(folder / "d.npz", x=floats(3, 2))
    (folder / "cut.npz").write_bytes((folder / "d.npz").read_bytes()[:100])
    return folder / "cut.npz"


def file_of(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def image_file(folder: Path) -> Path:
    (folder / "a").mkdir()
    (folder / "a" / "0.png").write_bytes(b"no image")
    return folder


def empty_folder(folder: Path) -> Path:
    return folder


def tensor_of_nothing(folder: Path) -> Path:
    (folder / "test_data_set_0").mkdir()
    (folder / "test_data_set_0" / "input_0.pb").write_bytes(b"\xff\xff\xff")
    return folder


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "none.npz", "none.npz: no such file or folder of data"),
        (file_of("d.csv", b"1,2"), "d.csv: data of an unknown kind; expected .npz, .npy, .zip"),
        (file_of("d.npz", b"1,2"), r"d.npz: not a readable .npz file \(File is not a zip file\)"),
        (cut_npz, r"cut.npz: not a readable .npz file"),
        (file_of("d.zip", b"1,2"), r"d.zip: not a readable zip \(File is not a zip file\)"),
        (empty_folder, "the folder has no data of a known kind; expected class/name.jpg"),
        (image_file, "a/0.png: not a readable image"),
        (tensor_of_nothing, "input_0.pb: not a serialised tensor"),
        (file_of("images-idx3-ubyte.gz", b"1,2"), "images-idx3-ubyte.gz: cannot be read"),
        (file_of("images-idx3-ubyte", b"1,2,"), "images-idx3-ubyte: not an idx file"),
        (file_of("images-idx3-ubyte", b"\0\0\x08\x03\0\0"), "an idx file cut short"),
        (file_of("images-idx3-ubyte", SHORT_IDX), "wrong length; got 7; expected 8 bytes"),
        (file_of("images-idx3-ubyte", FLAT_IDX), "not idx images; got uint8 of rank 1"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], Path], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        open_dataset(make(tmp_path), model_of("float[N,1,2,2] x"), preprocessing=Preprocessing())


def idx_images(folder: Path, n: int = 2, labels: int | None = None) -> Path:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, n, 2, 2) + bytes(4 * n))
    if labels is not None:
        (folder / "train-labels-idx1-ubyte").write_bytes(
            struct.pack(">HBBI", 0, 8, 1, labels) + bytes(labels)
        )
    return path


def test_pixels_for_a_float_input_need_a_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the range of the inputs .* scale = 0.003921568627 for 0 to 1"):
        open_dataset(idx_images(tmp_path), model_of("float[N,1,2,2] x"))


def test_images_feed_one_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images feed one input, .* got left, right"):
        open_dataset(idx_images(tmp_path), model_of(TWO), preprocessing=Preprocessing())


def test_idx_labels_of_the_wrong_length(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels of the wrong length; got 3; expected 2"):
        open_dataset(
            idx_images(tmp_path, labels=3), model_of("float[N,1,2,2] x"), preprocessing=Preprocessing()
        )


def test_images_of_another_size_than_the_input(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i, side in enumerate((4, 4, 5)):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "a" / f"{i}.png")
    with pytest.raises(DataError, match=r"got \[n, 3, 4, 4\]; expected \[N, 3, 8, 8\]. Resize: size = "):
        open_dataset(tmp_path, model_of("float[N,3,8,8] x"), preprocessing=Preprocessing())
    mixed = open_dataset(tmp_path, model_of("float[N,3,H,W] x"), preprocessing=Preprocessing())
    with pytest.raises(DataError, match=r"a/2.png: images of different sizes; got 5 x 5; expected 4 x 4"):
        next(mixed.batches(3))


def test_only_image_files_are_resized(tmp_path: Path) -> None:
    sized = Preprocessing(size=(4, 4))
    with pytest.raises(DataError, match=r"preprocessing.size: only image files are resized; got \(2, 2\)"):
        open_dataset(idx_images(tmp_path), model_of("float[N,1,H,W] x"), preprocessing=sized)


def test_means_for_another_number_of_channels(tmp_path: Path) -> None:
    three = Preprocessing(mean=(1.0, 2.0, 3.0))
    with pytest.raises(DataError, match=r"preprocessing.mean: .* got 3; expected 1"):
        open_dataset(idx_images(tmp_path), model_of("float[N,1,2,2] x"), preprocessing=three)


def test_images_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(DataError, match=r'needs Pillow. pip install "onnx-admm\[images\]"'):
        open_dataset(image_file(tmp_path), model_of("float[N,3,2,2] x"), preprocessing=Preprocessing())


@pytest.mark.parametrize(
    ("feeds", "sentence"),
    [
        ([], "the iterable: the data holds no samples"),
        ([{"y": floats(1, 2)}], "x: no data for an input"),
        ([{"x": floats(1, 2)}, {"x": floats(1, 3)}], r"x: .*another shape.*got \[n, 3\]; expected \[N, 2\]"),
        ([{"x": floats(1, 3)}], r"got \[n, 3\]; expected \[N, 2\]"),
    ],
)
def test_feeds_that_do_not_fit(feeds: list[dict[str, np.ndarray[Any, Any]]], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        from_iterable(feeds, model_of(ONE))


def test_a_dataset_of_ones_own_is_checked_by_its_names() -> None:
    class Own:
        input_names = ("z",)
        has_labels = False

        def __len__(self) -> int:
            return 1

        def batches(self, size: int, *, seed: int | None = None) -> Any:
            yield Batch({"z": floats(1, 2)})

        def select(self, indices: Any) -> Any:
            return self

    with pytest.raises(OnnxAdmmError, match="x: no data for an input of the model; got arrays named z"):
        fit_dataset(Own(), model_of(ONE))
    own = Own()
    own.input_names = ("x",)
    assert fit_dataset(own, model_of(ONE)) is own


@pytest.mark.parametrize("name", ["d.npz", "d.zip", "images-idx3-ubyte"])
def test_a_pipe_is_no_file_of_data(tmp_path: Path, name: str) -> None:
    """It cannot be read twice, and nobody may ever write into it."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: neither a plain file nor a folder"):
        open_dataset(tmp_path / name, model_of(ONE))
