"""Files that a reader of data opens for a path."""

from __future__ import annotations

from pathlib import Path

from onnx_admm.data.readers.idx import is_idx_images, labels_file
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.settings.tables import read_toml


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files and folders that `open_dataset` reads for ``path``; skip missing ones."""
    if not path.exists():
        return ()
    if path.suffix == ".toml" and path.is_file():
        return (path, *_described(path))
    labels = labels_file(path) if is_idx_images(path) else None
    return (path,) if labels is None else (path, labels)


def _described(file: Path) -> tuple[Path, ...]:
    """Return the data that a description names; none where it cannot be read (its reader reports that)."""
    try:
        where = read_toml(file).get("path")
    except OnnxAdmmError:
        return ()
    target = file.parent / where if isinstance(where, str) else file
    return () if target.suffix == ".toml" else data_files(target)
