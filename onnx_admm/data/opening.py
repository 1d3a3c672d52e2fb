"""open_dataset: from a path to samples that fit a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import numpy as np

from onnx_admm.contracts import Array, Dataset, ModelView, PortSpec
from onnx_admm.data.feeds import has_test_data_sets, read_test_data_sets, take_labels
from onnx_admm.data.fitting import check_names, check_shape, fit_samples
from onnx_admm.data.readers.idx import idx_part, is_idx_images, labels_file, read_idx
from onnx_admm.data.readers.images import ImageSource, open_image_tree
from onnx_admm.data.readers.npz import read_npy, read_npy_folder, read_npz
from onnx_admm.data.readers.parts import Part, choose_part
from onnx_admm.data.readers.pixels import PixelSource, colour_mode, stored_order
from onnx_admm.data.readers.preprocessing import Preprocessing
from onnx_admm.data.samples import SampleSet
from onnx_admm.data.sources import ArraySource, Source
from onnx_admm.data.stored_rows import StoredRows
from onnx_admm.errors import DataError, RecipeError
from onnx_admm.settings.tables import build, read_toml


def open_dataset(
    path: str | os.PathLike[str],
    model: ModelView,
    *,
    preprocessing: Preprocessing | None = None,
    part: Part = "train",
    label: str | None = None,
) -> Dataset:
    """Return samples for a model, from the file or folder at ``path``.

    | at ``path`` | read as |
    |---|---|
    | ``.npy`` | the samples of a model with one input |
    | ``.npz``, or a folder of ``.npy`` | one array per graph input, and ``labels`` if there are some |
    | ``*-images-idx3-ubyte[.gz]``, or a folder of them | images, with the ``labels`` file next to it |
    | a folder or ``.zip`` of ``class/name.jpg`` | images; class = index of the folder, alphabetically |
    | a folder of ``test_data_set_*/input_*.pb`` | one feed per set |
    | ``.toml`` | ``path`` (from the file's folder), ``part``, and the keys of ``Preprocessing`` |

    Everything is read on demand, except compressed ``.npz`` members and idx files.

    Args:
        path: file or folder.
        model: the model whose inputs are fed.
        preprocessing: from pixels to input; images for a float input need one. Applied to ``uint8`` arrays
            too; arrays of floats are taken as they are.
        part: which part, where train, validation and test data are found together.
        label: name of the labels among arrays; None: ``labels``. Images and idx files have their own.

    Raises:
        DataError: nothing there, nothing readable, or data that does not fit the model; names it.
        RecipeError: an unknown key or impossible value of the ``.toml``.
    """
    place = Path(path)
    if not place.exists():
        raise DataError("no such file or folder of data", where=path)
    if place.suffix == ".toml":
        return _open_described(place, model, preprocessing, part, label)
    if not place.is_dir() and not place.is_file():
        raise DataError("neither a plain file nor a folder", where=path)
    if place.is_dir():
        return _open_folder(place, model, preprocessing, part, label)
    if place.suffix == ".npz":
        return _open_arrays(read_npz(place), model, preprocessing, label)
    if place.suffix == ".npy":
        return _open_arrays({_only_input(model, place): read_npy(place)}, model, preprocessing)
    if is_idx_images(place):
        return _open_idx(place, model, preprocessing)
    if place.suffix == ".zip":
        return _open_images(place, model, preprocessing, part)
    raise DataError(
        "data of an unknown kind",
        where=path,
        expected=".npz, .npy, .zip, .toml, idx images (.gz) or a folder",
    )


def _only_input(model: ModelView, where: Path) -> str:
    names = [port.name for port in model.signature().inputs]
    if len(names) != 1:
        raise DataError(
            "one array feeds one input, but the model has another number of inputs",
            where=where,
            got=", ".join(names),
            hint="Give an .npz with one array per input.",
        )
    return names[0]


def _open_described(
    file: Path, model: ModelView, preprocessing: Preprocessing | None, part: Part, label: str | None
) -> Dataset:
    table = read_toml(file)
    where, part = table.pop("path", None), table.pop("part", part)
    if not isinstance(where, str):
        raise RecipeError("the path of the data is missing", where=file, expected='path = "..."')
    if part not in get_args(Part):
        raise RecipeError("no such part", where=file, got=repr(part), expected=", ".join(get_args(Part)))
    target = file.parent / where
    if target.suffix == ".toml":
        raise RecipeError("a data description that names another data description", where=file, got=where)
    described = build(Preprocessing, table, str(file)) if table else preprocessing
    return open_dataset(target, model, preprocessing=described, part=part, label=label)


def _open_folder(
    folder: Path, model: ModelView, preprocessing: Preprocessing | None, part: Part, label: str | None
) -> Dataset:
    idx = {idx_part(file): file for file in sorted(folder.iterdir()) if is_idx_images(file)}
    if idx:
        return _open_idx(choose_part(idx, part, folder), model, preprocessing)
    if any(folder.glob("*.npy")):
        return _open_arrays(read_npy_folder(folder), model, preprocessing, label)
    if has_test_data_sets(folder):
        return read_test_data_sets(folder, model)
    return _open_images(folder, model, preprocessing, part)


def _open_arrays(
    arrays: dict[str, Array | StoredRows],
    model: ModelView,
    preprocessing: Preprocessing | None,
    label: str | None = None,
) -> Dataset:
    ports = {port.name: port for port in model.signature().inputs}
    labels = take_labels(arrays, ports, label)
    for name, array in arrays.items():
        if array.ndim == 0:
            raise DataError(
                "a single number", where=name, expected="an array whose first axis counts samples"
            )
    check_names(tuple(arrays), ports)
    sources: dict[str, Source] = {
        name: array if isinstance(array, StoredRows) else ArraySource(array) for name, array in arrays.items()
    }
    if preprocessing is not None:
        for name, port in ports.items():
            if sources[name].dtype == np.uint8 and _takes_floats(port):
                stored = stored_order(sources[name].sample_shape, port, preprocessing)
                sources[name] = PixelSource(sources[name], stored, port, preprocessing)
    return fit_samples(SampleSet(sources, labels, ignore_label=_ignored(preprocessing)), model)


def _open_idx(images: Path, model: ModelView, preprocessing: Preprocessing | None) -> Dataset:
    port = _image_port(model, preprocessing, images)
    pixels = read_idx(images)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise DataError("not idx images", where=images, got=f"{pixels.dtype} of rank {pixels.ndim}")
    beside = labels_file(images)
    source = PixelSource(ArraySource(pixels), "NHW", port, preprocessing)
    labels = None if beside is None else read_idx(beside)
    return fit_samples(SampleSet({port.name: source}, labels, ignore_label=_ignored(preprocessing)), model)


def _open_images(path: Path, model: ModelView, preprocessing: Preprocessing | None, part: Part) -> Dataset:
    tree = open_image_tree(path, part)
    port = _image_port(model, preprocessing, path)
    size = None if preprocessing is None else preprocessing.size
    images = ImageSource(tree, colour_mode(port, preprocessing), size)
    source = PixelSource(images, "NHWC", port, preprocessing)
    hint = None if size else "Resize: size = [height, width] in the preprocessing"
    check_shape(source.sample_shape, port, hint)
    return fit_samples(
        SampleSet({port.name: source}, tree.labels, ignore_label=_ignored(preprocessing)), model
    )


def _image_port(model: ModelView, preprocessing: Preprocessing | None, where: Path) -> PortSpec:
    """Return the only input that images can feed."""
    ports = model.signature().inputs
    if len(ports) != 1:
        raise DataError(
            "images feed one input, but the model has another number of inputs",
            where=where,
            got=", ".join(port.name for port in ports),
            hint="Give an .npz with one array per input",
        )
    if preprocessing is None and _takes_floats(ports[0]):
        raise DataError(
            "the range of the inputs that the model was trained on is not known: pixels are 0 to 255",
            where=where,
            hint=f"State a preprocessing for the input {ports[0].name}: scale = {1 / 255:.10g} for 0 to 1, "
            "scale = 1 for the pixels themselves, mean and std where the model needs them",
        )
    return ports[0]


def _ignored(preprocessing: Preprocessing | None) -> int | None:
    return None if preprocessing is None else preprocessing.ignore_label


def _takes_floats(port: PortSpec) -> bool:
    return port.dtype.startswith("float")
