"""Write MNIST and CIFAR-10 as the `.npz` files the recipes are run with: pixels as bytes, labels.

    python benchmarks/prepare.py DATASETS OUT

DATASETS holds `mnist/` (idx files) and `cifar10/` (zips of class folders). OUT receives
`mnist-train.npz`, `mnist-test.npz`, `cifar10-train.npz` and `cifar10-test.npz`; the recipes' [preprocessing]
turns bytes into what the models take.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def read_idx(path: Path) -> Pixels:
    """An idx file of bytes (MNIST's own format): big-endian extents behind a four-byte head."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_class_folders(path: Path) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Images of a zip of class folders as (n, 3, height, width), and alphabetical class numbers."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".png")))
        classes = sorted({name.split("/")[-2] for name in names})
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    labels = np.array([classes.index(name.split("/")[-2]) for name in names], np.int64)
    return np.stack(images).transpose(0, 3, 1, 2), labels


def main(datasets: Path, out: Path) -> None:
    """Write the four files."""
    out.mkdir(parents=True, exist_ok=True)
    for part, stem in (("train", "train"), ("test", "t10k")):
        images = read_idx(datasets / "mnist" / f"{stem}-images-idx3-ubyte.gz")[:, None]
        labels = read_idx(datasets / "mnist" / f"{stem}-labels-idx1-ubyte.gz").astype(np.int64)
        np.savez(out / f"mnist-{part}.npz", x=images, labels=labels)
        images, labels = read_class_folders(datasets / "cifar10" / f"cifar10-{part}.zip")
        np.savez(out / f"cifar10-{part}.npz", input=images, labels=labels)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
