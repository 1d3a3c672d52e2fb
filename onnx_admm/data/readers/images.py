"""Images in class-named folders, on disk or in a zip, decoded on demand."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array
from onnx_admm.data.readers.inflation import check_inflated, open_zip
from onnx_admm.data.readers.parts import Part, choose_part
from onnx_admm.data.sources import Index
from onnx_admm.errors import DataError, reading

CACHE_BYTES = 512 * 2**20
"""Size up to which decoded pixels are kept; a larger set is decoded again at every pass."""

MOST_FILE_BYTES = 256 * 2**20
"""Largest size of an encoded image file, in bytes."""

MOST_PIXELS = 89_478_485
"""Most pixels of an image, as its header states them: a quarter of a GiB at three bytes each."""

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
"""Formats that are opened. Pillow knows many more, some through other programs (Ghostscript for EPS)."""

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
_OTHER_SUFFIXES = {".avif", ".eps", ".gif", ".heic", ".jp2", ".pgm", ".ppm", ".tga", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True)
class ImageTree:
    """Images under one root, in order, with their classes.

    Attributes:
        read: returns the bytes of a file by its name.
        names: names sorted by class, then by name.
        labels: index of each image's folder among the folders in alphabetical order; None with one folder.
    """

    read: Callable[[str], bytes]
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64] | None


def open_image_tree(path: Path, part: Part) -> ImageTree:
    """Find the images of ``[.../]class/name.jpg`` in a folder or a zip.

    Where there are several folders of classes (``train/``, ``test/``) ``part`` chooses one.

    Raises:
        DataError: not a zip, no images, or no such part.
    """
    if path.is_dir():
        files = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return _tree(path, files, lambda name: _read_file(path / name), part)
    archive = open_zip(path)
    return _tree(path, archive.namelist(), lambda name: _read_member(archive, name), part)


def _read_file(file: Path) -> bytes:
    with file.open("rb") as stream:
        _check_size(os.fstat(stream.fileno()).st_size, file)
        return stream.read(MOST_FILE_BYTES)


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    member = archive.getinfo(name)
    _check_size(member.file_size, name)
    check_inflated(member.file_size, member.compress_size, name)
    return archive.read(member)


def _check_size(size: int, where: object) -> None:
    if size > MOST_FILE_BYTES:
        raise DataError(
            "an image file too large", where=where, got=size, expected=f"at most {MOST_FILE_BYTES}"
        )


class ImageSource:
    """The images of a tree as uint8 ``(n, h, w, c)``; decoded pixels are kept up to ``CACHE_BYTES``."""

    def __init__(
        self, tree: ImageTree, mode: Literal["RGB", "BGR", "L"], size: tuple[int, int] | None
    ) -> None:
        self._tree = tree
        self._mode = mode
        self._size = size
        self._shape = self._decode(0).shape
        total = len(tree.names) * math.prod(self._shape)
        self._cache = np.empty((len(tree.names), *self._shape), np.uint8) if total <= CACHE_BYTES else None
        self._decoded = np.zeros(len(tree.names), np.bool_)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """See `Source.dtype`."""
        return np.dtype(np.uint8)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See `Source.sample_shape`."""
        return self._shape

    def __len__(self) -> int:
        return len(self._tree.names)

    def take(self, index: Index) -> Array:
        """See `Source.take`."""
        if self._cache is None:
            return np.stack([self._image(int(i)) for i in index])
        for i in index[~self._decoded[index]]:
            self._cache[i] = self._image(int(i))
            self._decoded[i] = True
        return self._cache[index]

    def _image(self, i: int) -> Array:
        pixels = self._decode(i)
        if pixels.shape != self._shape:
            raise DataError(
                "images of different sizes",
                where=self._tree.names[i],
                got=_spelt(pixels.shape),
                expected=_spelt(self._shape),
                hint="State the size they are resized to: size = [height, width] in the preprocessing",
            )
        return pixels

    def _decode(self, i: int) -> npt.NDArray[np.uint8]:
        image = _pillow()
        name = self._tree.names[i]
        with reading(name, DataError, "not a readable image"), warnings.catch_warnings():
            warnings.simplefilter("ignore", image.DecompressionBombWarning)  # an error below
            with _opened(image, self._tree.read(name), name) as picture:
                _check_pixels(picture.size, name)
                picture = picture.convert("L" if self._mode == "L" else "RGB")
                if self._size is not None and picture.size != self._size[::-1]:
                    picture = picture.resize(self._size[::-1], image.Resampling.BILINEAR)
                pixels = np.asarray(picture, dtype=np.uint8)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return pixels[:, :, ::-1] if self._mode == "BGR" else pixels


def _opened(image: ModuleType, content: bytes, name: str) -> Any:
    try:
        return image.open(io.BytesIO(content), formats=_FORMATS)
    except image.UnidentifiedImageError as error:
        raise DataError(
            "not a readable image", where=name, got="another kind of file", expected=", ".join(_FORMATS)
        ) from error


def _check_pixels(size: tuple[int, int], where: str) -> None:
    """Refuse an image by the size in its header, before its pixels are decoded."""
    if math.prod(size) > MOST_PIXELS:
        raise DataError(
            "an image of too many pixels",
            where=where,
            got=f"{size[1]} x {size[0]}",
            expected=f"at most {MOST_PIXELS} pixels",
        )


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("reading images needs Pillow", hint='pip install "onnx-admm[images]"') from error
    return Image


def _tree(path: Path, files: Iterable[str], read: Callable[[str], bytes], part: Part) -> ImageTree:
    roots: dict[str, list[PurePosixPath]] = {}
    for name in files:
        file = PurePosixPath(name)
        if any(p.startswith((".", "__MACOSX")) for p in file.parts):
            continue
        if file.suffix.lower() in _OTHER_SUFFIXES:
            raise DataError(
                "an image of a format that is not read",
                where=f"{path}: {name}",
                expected=", ".join(sorted(_SUFFIXES)),
                hint="Convert it, or move it elsewhere.",
            )
        if file.suffix.lower() in _SUFFIXES:
            roots.setdefault(str(file.parent.parent), []).append(file)
    if not roots:
        raise DataError(
            "the folder has no data of a known kind",
            where=path,
            expected="class/name.jpg, *.npy, *-images-idx3-ubyte or test_data_set_*/input_*.pb",
        )
    chosen = sorted(choose_part(roots, part, path), key=lambda file: (file.parent.name, file.name))
    classes = sorted({file.parent.name for file in chosen})
    labels = np.array([classes.index(file.parent.name) for file in chosen], dtype=np.int64)
    return ImageTree(read, tuple(map(str, chosen)), labels if len(classes) > 1 else None)


def _spelt(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[:2]))
