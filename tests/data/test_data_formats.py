"""Every format of data that is read, written by hand here and read back through ``open_dataset``."""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
from PIL import Image

from onnx_admm.contracts import Batch, Dataset
from onnx_admm.data import Preprocessing, fit_dataset, from_arrays, from_iterable, open_dataset
from onnx_admm.data.readers import images
from onnx_admm.data.readers.npz import read_npz
from onnx_admm.data.stored_rows import StoredRows
from onnx_admm.errors import DataError, RecipeError
from onnx_admm.model import ModelView
from onnx_admm.settings.tables import build

UNIT = Preprocessing(scale=1 / 255)
Array = npt.NDArray[np.generic]


def model_of(inputs: str) -> ModelView:
    """A model with these inputs, and one constant output."""
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
        g ({inputs}) => (float[1] y) {{ y = Constant <value = float[1] {{0}}> () }}"""
    return ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString())


def everything(data: Dataset) -> Batch:
    """The whole dataset as one batch, in order."""
    [batch] = data.batches(len(data))
    return batch


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def grey_images(n: int, side: int = 4) -> npt.NDArray[np.uint8]:
    return np.arange(n * side * side, dtype=np.uint32).astype(np.uint8).reshape(n, side, side)


# -- arrays by name --------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_one_array_per_input_and_labels(tmp_path: Path, save: Callable[..., None]) -> None:
    a, b = np.random.default_rng(0).random((2, 5, 3), np.float32)
    save(tmp_path / "d.npz", b=np.asfortranarray(b), a=a, labels=np.arange(5, dtype=np.uint8))
    data = open_dataset(tmp_path / "d.npz", model_of("float[N,3] a, float[N,3] b"))
    batch = everything(data)
    assert data.input_names == ("a", "b")
    np.testing.assert_array_equal(batch.feeds["a"], a)
    np.testing.assert_array_equal(batch.feeds["b"], b)
    assert batch.labels is not None
    assert batch.labels.dtype == np.int64
    np.testing.assert_array_equal(batch.labels, np.arange(5))


def test_members_stored_plain_stay_in_the_file_and_compressed_ones_are_read(tmp_path: Path) -> None:
    x = np.random.default_rng(1).random((4, 2))
    np.savez(tmp_path / "plain.npz", first=np.zeros(3), x=x, f=np.asfortranarray(x))
    np.savez_compressed(tmp_path / "packed.npz", x=x)
    plain, packed = read_npz(tmp_path / "plain.npz"), read_npz(tmp_path / "packed.npz")
    assert isinstance(plain["x"], StoredRows)
    for array in (plain["x"].take(np.arange(4)), plain["f"], packed["x"]):
        np.testing.assert_array_equal(array, x)


@pytest.mark.parametrize("index", [[0, 1, 2], [3, 1, 1, 2], [-1, 0], []])
def test_stored_rows_are_those_of_the_array(tmp_path: Path, index: list[int]) -> None:
    x = np.random.default_rng(1).random((4, 2, 3))
    np.savez(tmp_path / "d.npz", x=x)
    rows = read_npz(tmp_path / "d.npz")["x"]
    assert isinstance(rows, StoredRows)
    chosen = np.asarray(index, np.int64)
    np.testing.assert_array_equal(rows.take(chosen), x[chosen])
    with pytest.raises(IndexError):
        rows.take(np.array([4]))


def test_a_file_that_becomes_shorter_is_told_and_kills_nobody(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((64, 1024)))
    rows = read_npz(tmp_path / "d.npz")["x"]
    os.truncate(tmp_path / "d.npz", 4096)
    with pytest.raises(DataError, match="has become shorter"):
        rows.take(np.arange(64))  # type: ignore[union-attr]


def test_an_input_called_labels_is_fed(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 1), np.float32), labels=np.ones((2, 1), np.float32))
    data = open_dataset(tmp_path / "d.npz", model_of("float[N,1] x, float[N,1] labels"))
    assert not data.has_labels
    np.testing.assert_array_equal(everything(data).feeds["labels"], np.ones((2, 1)))


def test_a_folder_of_npy_files_reads_as_npz(tmp_path: Path) -> None:
    x = np.random.default_rng(2).random((3, 2), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", np.array([2, 0, 1]))
    batch = everything(open_dataset(tmp_path, model_of("float[N,2] x")))
    np.testing.assert_array_equal(batch.feeds["x"], x)
    np.testing.assert_array_equal(batch.labels, [2, 0, 1])


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("uint8", "float"),
        ("float64", "float"),
        ("float32", "float16"),
        ("int64", "int32"),
        ("uint8", "int64"),
    ],
)
def test_types_that_lose_nothing_that_matters_are_cast(tmp_path: Path, given: str, target: str) -> None:
    values = np.array([[0, 7], [200, 31]]).astype(given)
    np.savez(tmp_path / "d.npz", x=values)
    fed = everything(open_dataset(tmp_path / "d.npz", model_of(f"{target}[N,2] x"))).feeds["x"]
    assert fed.dtype == np.dtype("float32" if target == "float" else target)
    np.testing.assert_array_equal(fed, values)


def test_a_whole_feed_per_sample_where_an_input_has_no_sample_axis(tmp_path: Path) -> None:
    state = np.random.default_rng(3).random((4, 2, 1, 3), np.float32)
    rate = np.full(4, 16000)
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 5), np.float32), state=state, rate=rate)
    data = open_dataset(tmp_path / "d.npz", model_of("float[1,5] x, float[2,B,3] state, int64 rate"))
    batch = everything(data)
    np.testing.assert_array_equal(batch.feeds["state"], state)
    assert batch.feeds["rate"].shape == (4,)


def test_fitting_twice_changes_nothing() -> None:
    model = model_of("float[N,2] x")
    once = fit_dataset(from_arrays({"x": np.arange(6).reshape(3, 2)}, [0, 1, 2]), model)
    twice = fit_dataset(once.select(np.array([2, 0])), model)
    assert everything(twice).feeds["x"].dtype == np.float32
    np.testing.assert_array_equal(everything(twice).feeds["x"], [[4, 5], [0, 1]])
    np.testing.assert_array_equal(everything(twice).labels, [2, 0])


@pytest.mark.parametrize(
    ("port", "stored"),
    [
        ("float[N,3,4,5] x", (3, 4, 5)),
        ("float[N,3,4,5] x", (4, 5, 3)),
        ("float[N,4,5,3] x", (4, 5, 3)),
        ("float[N,1,4,5] x", (4, 5)),
        ("float[N,20] x", (20,)),
    ],
)
def test_bytes_in_an_npz_are_pixels_where_there_is_a_preprocessing(
    tmp_path: Path, port: str, stored: tuple[int, ...]
) -> None:
    model = model_of(port)
    pixels = np.random.default_rng(6).integers(0, 256, (2, *stored), np.uint8)
    np.savez(tmp_path / "d.npz", x=pixels)
    fed = everything(open_dataset(tmp_path / "d.npz", model, preprocessing=Preprocessing(scale=2))).feeds["x"]
    shape = tuple(size for size in model.signature().inputs[0].shape or () if isinstance(size, int))
    expected = pixels.transpose(0, 3, 1, 2) if shape[0] == 3 and stored[-1] == 3 else pixels
    np.testing.assert_array_equal(fed, 2.0 * expected.reshape(2, *shape))


# -- MNIST's idx -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_images_with_their_labels(tmp_path: Path, suffix: str) -> None:
    images = grey_images(3)
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([5, 0, 4], np.uint8))
    data = open_dataset(
        tmp_path / f"train-images-idx3-ubyte{suffix}", model_of("float[N,1,4,4] x"), preprocessing=UNIT
    )
    batch = everything(data)
    np.testing.assert_allclose(batch.feeds["x"], images[:, None] / 255.0, rtol=1e-6)
    assert batch.feeds["x"].dtype == np.float32
    np.testing.assert_array_equal(batch.labels, [5, 0, 4])


def test_a_folder_of_idx_files_gives_the_part_that_is_asked_for(tmp_path: Path) -> None:
    for part, n in (("train", 3), ("t10k", 2)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", grey_images(n))
    model = model_of("float[N,1,4,4] x")
    assert len(open_dataset(tmp_path, model, preprocessing=UNIT)) == 3
    assert len(open_dataset(tmp_path, model, preprocessing=UNIT, part="test")) == 2
    with pytest.raises(DataError, match=r"no validation part among the data; got t10k, train"):
        open_dataset(tmp_path, model, preprocessing=UNIT, part="validation")


@pytest.mark.parametrize(
    ("port", "shape"),
    [
        ("float[N,4,4,1] x", (4, 4, 1)),
        ("float[N,4,4] x", (4, 4)),
        ("float[N,16] x", (16,)),
        ("uint8[N,1,4,4] x", (1, 4, 4)),
    ],
)
def test_pixels_follow_the_axes_of_the_input(tmp_path: Path, port: str, shape: tuple[int, ...]) -> None:
    images = grey_images(2)
    write_idx(tmp_path / "images-idx3-ubyte", images)
    raw = None if port.startswith("uint8") else Preprocessing()
    fed = everything(open_dataset(tmp_path, model_of(port), preprocessing=raw)).feeds["x"]
    np.testing.assert_array_equal(fed, images.reshape(2, *shape))


# -- images by class -------------------------------------------------------------------------


def colours() -> dict[str, Array]:
    rng = np.random.default_rng(4)
    names = ("cat/1.png", "cat/0.png", "ant/0.png", "dog/0.PNG")
    return {name: rng.integers(0, 256, (4, 6, 3), np.uint8) for name in names}


def write_images(folder: Path, images: dict[str, Array]) -> None:
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, format="PNG")


def zip_folder(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as stream:
        for file in sorted(folder.rglob("*"), reverse=True):
            stream.write(file, file.relative_to(folder))
    return archive


MEAN, STD = np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])
CIFAR = Preprocessing(mean=tuple(MEAN), std=tuple(STD))


@pytest.mark.parametrize("level", ["", "test/"])
@pytest.mark.parametrize("zipped", [False, True])
def test_images_by_class_on_disk_or_zipped(tmp_path: Path, level: str, zipped: bool) -> None:
    images = {level + name: pixels for name, pixels in colours().items()}
    write_images(tmp_path / "set", images)
    (tmp_path / "set" / "notes.txt").write_text("not an image")
    place = zip_folder(tmp_path / "set", tmp_path / "set.zip") if zipped else tmp_path / "set"
    batch = everything(open_dataset(place, model_of("float[N,3,4,6] x"), preprocessing=CIFAR))
    order = [level + name for name in ("ant/0.png", "cat/0.png", "cat/1.png", "dog/0.PNG")]
    expected = np.stack([(images[name] - MEAN) / STD for name in order]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch.feeds["x"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batch.labels, [0, 1, 1, 2])


def test_train_and_test_folders_side_by_side(tmp_path: Path) -> None:
    for part, names in (("train", ("a/0.png", "b/0.png", "b/1.png")), ("test", ("a/0.png", "b/0.png"))):
        write_images(tmp_path / part, {name: np.zeros((2, 2, 3), np.uint8) for name in names})
    model = model_of("float[N,3,2,2] x")
    assert len(open_dataset(tmp_path, model, preprocessing=UNIT, part="train")) == 3
    assert len(open_dataset(tmp_path, model, preprocessing=UNIT, part="test")) == 2


def test_images_in_one_folder_have_no_labels(tmp_path: Path) -> None:
    write_images(tmp_path, {"0.png": np.zeros((2, 2, 3), np.uint8), "1.png": np.ones((2, 2, 3), np.uint8)})
    data = open_dataset(tmp_path, model_of("float[N,3,2,2] x"), preprocessing=UNIT)
    assert (len(data), data.has_labels) == (2, False)


def test_bgr_grey_nhwc_and_resizing(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:] = (10, 20, 30)
    write_images(tmp_path, {"a/0.png": image, "b/0.png": image})

    def first(port: str, **keys: object) -> Array:
        data = open_dataset(tmp_path, model_of(port), preprocessing=build(Preprocessing, keys, "keys"))
        return everything(data).feeds["x"][0]

    np.testing.assert_array_equal(first("float[N,3,4,4] x", channels="BGR")[:, 0, 0], [30, 20, 10])
    np.testing.assert_array_equal(first("float[N,4,4,3] x")[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(first("float[N,3,2,5] x", size=[2, 5])[:, 0, 0], [10, 20, 30])
    assert first("float[N,1,4,4] x")[0, 0, 0] == np.asarray(Image.fromarray(image).convert("L"))[0, 0]


def test_a_set_too_large_to_keep_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, colours())
    model = model_of("float[N,3,4,6] x")
    kept = everything(open_dataset(tmp_path, model, preprocessing=UNIT))
    monkeypatch.setattr(images, "CACHE_BYTES", 1)
    again = open_dataset(tmp_path, model, preprocessing=UNIT)
    for _ in range(2):
        np.testing.assert_array_equal(everything(again).feeds["x"], kept.feeds["x"])


# -- feeds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_onnx_test_data_sets_by_number_or_by_name(tmp_path: Path, named: bool) -> None:
    a, b = np.random.default_rng(5).random((2, 3, 2), np.float32)
    for number in range(2):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        for file, name, array in (("input_0", "a", a + number), ("input_1", "b", b + number)):
            swapped = {"input_0": "input_1", "input_1": "input_0"}[file] if named else file
            (folder / f"{swapped}.pb").write_bytes(
                onnx.numpy_helper.from_array(array, name if named else None).SerializeToString()
            )
    model = model_of("float[N,2] a, float[N,2] b")
    batch = everything(open_dataset(tmp_path, model))
    np.testing.assert_array_equal(batch.feeds["a"], np.concatenate([a, a + 1]))
    np.testing.assert_array_equal(batch.feeds["b"], np.concatenate([b, b + 1]))
    assert len(open_dataset(tmp_path / "test_data_set_0", model)) == 3


def test_dicts_are_stacks_whole_feeds_or_bare_samples() -> None:
    model = model_of("float[N,2] x, int64[N] k")
    x, k = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3)
    stacks = everything(from_iterable([{"x": x, "k": k}, {"x": x, "k": k}], model))
    bare = everything(from_iterable(({"x": row, "k": i} for row, i in zip(x, k, strict=True)), model))
    np.testing.assert_array_equal(stacks.feeds["x"], np.concatenate([x, x]))
    np.testing.assert_array_equal(bare.feeds["x"], x)
    rows = everything(from_iterable(({"x": row} for row in x), model_of("float[N,2] x")))
    np.testing.assert_array_equal(rows.feeds["x"], x)
    state = model_of("float[B,2] x, float[2,B,3] h")
    unequal = everything(from_iterable([{"x": np.ones((1, 2)), "h": np.ones((2, 1, 3))}] * 4, state))
    assert (unequal.feeds["x"].shape, unequal.feeds["h"].shape) == ((4, 1, 2), (4, 2, 1, 3))
    whole = everything(
        from_iterable([{"h": np.ones((2, 1, 3)), "r": 8}] * 4, model_of("float[2,1,3] h, int64 r"))
    )
    assert (whole.feeds["h"].shape, whole.feeds["r"].shape) == ((4, 2, 1, 3), (4,))


def test_a_calibration_data_reader_and_labels_in_its_feeds() -> None:
    class Reader:
        def __init__(self) -> None:
            self._feeds = iter(
                [{"x": np.zeros((1, 2), np.float32), "labels": np.array([i])} for i in range(3)]
            )

        def get_next(self) -> dict[str, Array] | None:
            return next(self._feeds, None)

    data = from_iterable(Reader(), model_of("float[N,2] x"))
    np.testing.assert_array_equal(everything(data).labels, [0, 1, 2])


# -- described in TOML -----------------------------------------------------------------------


def test_a_toml_names_the_data_and_its_preprocessing(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    for part, n in (("train", 3), ("t10k", 2)):
        write_idx(tmp_path / "mnist" / f"{part}-images-idx3-ubyte", grey_images(n))
    file = tmp_path / "data.toml"
    file.write_text('path = "mnist"\npart = "test"\nscale = 0.5\nmean = [1]\n')
    fed = everything(open_dataset(file, model_of("float[N,1,4,4] x"))).feeds["x"]
    np.testing.assert_array_equal(fed, grey_images(2)[:, None] * 0.5 - 1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("scale = 1", 'the path of the data is missing; expected path = "..."'),
        ('path = "d.npz"\nscael = 1', r"data.toml: unknown key 'scael'; .* Did you mean 'scale'?"),
        ('path = "d.npz"\npart = "tset"', "no such part; got 'tset'; expected train, validation, test"),
        ("path = ", "not TOML"),
    ],
)
def test_a_toml_with_a_mistake_says_which(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "data.toml").write_text(text)
    np.savez(tmp_path / "d.npz", x=np.zeros((1, 1)))
    with pytest.raises(RecipeError, match=sentence):
        open_dataset(tmp_path / "data.toml", model_of("float[N,1] x"))
