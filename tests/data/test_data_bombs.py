"""Data files that state, or expand to, far more than they hold: refused before anything is expanded."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnx_admm.data.readers import inflation
from onnx_admm.data.readers.idx import read_idx
from onnx_admm.data.readers.images import ImageSource, open_image_tree
from onnx_admm.data.readers.npz import read_npy_folder, read_npz
from onnx_admm.data.samples import SampleSet
from onnx_admm.data.sources import ArraySource
from onnx_admm.errors import DataError
from onnx_admm.model.files.tensor_files import read_tensor


@pytest.fixture(autouse=True)
def little_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files may expand to 64 kB, so that bombs of the tests are small."""
    monkeypatch.setattr(inflation, "FREE_BYTES", 1 << 16)


def npy(shape: tuple[int, ...], dtype: str = "<f4", content: bytes = b"") -> bytes:
    """Return a ``.npy`` file whose header states this, whatever follows it."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def zipped(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def huge_shape(folder: Path) -> Path:
    return zipped(folder / "d.npz", x=npy((2**40, 3)))


def huge_shape_stored(folder: Path) -> Path:
    return zipped(folder / "d.npz", zipfile.ZIP_STORED, x=npy((2**40, 3)))


def negative_shape(folder: Path) -> Path:
    return zipped(folder / "d.npz", x=npy((-2, -3), content=bytes(24)))


def zeros(folder: Path) -> Path:
    return zipped(folder / "d.npz", x=npy((1 << 20,), content=bytes(4 << 20)))


def many_members(folder: Path) -> Path:
    """Each of them is small enough, all together are not."""
    return zipped(folder / "d.npz", **{f"x{i}": npy((1 << 13,), content=bytes(1 << 15)) for i in range(64)})


def understated(folder: Path) -> Path:
    """The archive's directory says 1 kB; the member expands to 1 MB."""
    path = zipped(folder / "d.npz", x=npy((1 << 18,), content=bytes(1 << 20)))
    with zipfile.ZipFile(path) as archive:
        size = struct.pack("<L", archive.getinfo("x.npy").file_size)
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<L", 1024)))
    return path


def lzma_member(folder: Path) -> Path:
    return zipped(folder / "d.npz", zipfile.ZIP_LZMA, x=npy((3,), content=bytes(12)))


def nested_header(folder: Path) -> Path:
    header = b"(" * 9000
    return zipped(folder / "d.npz", x=b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            huge_shape,
            r"x.npy: the stored bytes do not fit shape and type; got 0 bytes; expected 13194139533312",
        ),
        (huge_shape_stored, r"x.npy: the stored bytes do not fit shape and type; got 0 bytes"),
        (negative_shape, r"x.npy: an impossible shape; got \(-2, -3\)"),
        (
            zeros,
            r"d.npz: compressed data that would expand out of proportion.*got 419\d{4} bytes from \d{4}; ",
        ),
        (many_members, r"d.npz: compressed data that would expand out of proportion"),
        (understated, r"x.npy: not a readable array \(Bad CRC-32"),
        (lzma_member, r"x.npy: a member .* compressed by another method"),
        (nested_header, r"x.npy: not a readable array"),
    ],
)
def test_npz_files(tmp_path: Path, make: Callable[[Path], Path], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_npz(make(tmp_path))


def test_what_compresses_well_is_read_within_the_bound(tmp_path: Path) -> None:
    found = read_npz(zipped(tmp_path / "d.npz", x=npy((1 << 13,), content=bytes(1 << 15))))
    np.testing.assert_array_equal(found["x"], np.zeros(1 << 13, np.float32))
    assert inflation.inflated_limit(1 << 20) == 100 << 20


def test_npy_files_that_state_more_than_they_hold(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(npy((2**50,), content=bytes(8)))
    with pytest.raises(DataError, match=r"x.npy: the stored bytes do not fit shape and type; got 8 bytes"):
        read_npy_folder(tmp_path)


def test_samples_without_values_are_not_counted_for_ever() -> None:
    with pytest.raises(DataError, match=r"samples that hold no values; got 1099511627776 of them"):
        SampleSet({"x": ArraySource(np.broadcast_to(np.zeros((1, 0), np.float32), (2**40, 0)))})


IDX_BOMB = b"\0\0\x08\x03" + struct.pack(">3L", 2**31, 28, 28)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.gz",
            gzip.compress(IDX_BOMB),
            r"a.gz: compressed data that would expand .*got 1683627180032 bytes",
        ),
        (
            "b.gz",
            gzip.compress(b"\0\0\x08\x01\0\0\0\x04" + bytes(1 << 20)),
            r"wrong length; got more; expected 4",
        ),
        ("c", IDX_BOMB, r"c: compressed data that would expand out of proportion"),
        ("d", b"\0\0\x08\xff" + bytes(1020), r"d: an idx file of too many axes; got 255"),
    ],
    ids=["stated", "kept", "stored", "axes"],
)
def test_idx_files(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_idx(tmp_path / name)


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a grey PNG whose header states this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))
        )

    header = struct.pack(">2L5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 3), 7).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "0.png",
            png(2**17, 2**16, zlib.compress(bytes(100))),
            r"0.png: not a readable image \(Image size \(8589934592 pixels\) exceeds limit",
        ),
        (
            "0.png",
            png(12000, 12000, zlib.compress(bytes(100))),
            r"0.png: an image of too many pixels; got 12000 x 12000",
        ),
        ("0.png", png(0, 4, b""), r"0.png: not a readable image"),
        ("0.png", POSTSCRIPT, r"0.png: not a readable image"),
        ("0.png", encoded("TIFF"), r"0.png: not a readable image"),
        ("0.jpg", encoded("GIF"), r"0.jpg: not a readable image"),
        ("0.tif", encoded("TIFF"), r"0.tif: an image of a format that is not read; .* Convert it"),
    ],
    ids=["huge", "large", "empty", "PostScript", "TIFF", "GIF", "suffix"],
)
@pytest.mark.parametrize("in_zip", [False, True])
def test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, sentence: str, in_zip: bool
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("another program was to be run")

    monkeypatch.setattr("subprocess.Popen", refuse)
    place = tmp_path / "d.zip"
    if in_zip:
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr(f"a/{name}", content)
    else:
        place = tmp_path / "d"
        (place / "a").mkdir(parents=True)
        (place / "a" / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        ImageSource(open_image_tree(place, "train"), "L", None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_the_four_formats_are_read_by_their_content(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(encoded(kind))
    pixels = ImageSource(open_image_tree(tmp_path, "train"), "L", None).take(np.array([0]))
    np.testing.assert_allclose(pixels, np.full((1, 3, 4, 1), 7), atol=1)


def test_a_member_of_an_image_zip_is_bounded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.bmp", bytes(1 << 20))
    tree = open_image_tree(tmp_path / "d.zip", "train")
    with pytest.raises(DataError, match=r"a/0.bmp: compressed data that would expand out of proportion"):
        ImageSource(tree, "L", None)


def test_a_tensor_file_refers_to_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(bytes(8))
    tensor = onnx.TensorProto(name="x", dims=[2], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    onnx.save_tensor(tensor, "input_0.pb")
    with pytest.raises(DataError, match=r"input_0.pb: a tensor whose values lie in another file"):
        read_tensor(Path("input_0.pb"))
