"""External files of a model, found without reading a weight."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import google.protobuf.message
import onnx

from onnx_admm.errors import ModelError
from onnx_admm.model.files.file_bytes import FileBytes
from onnx_admm.model.files.guards import stored_tensors
from onnx_admm.model.files.protobuf_wire import strip_tensors

_LENGTH_BYTES = 4
"""Bytes by which the lengths of a location and of its enclosing messages may grow."""

_LONGEST_STEM = 220  # characters; file names have 255 bytes at most

_MOST_NEIGHBOURS, _MOST_BYTES = 200, 64 << 20
"""Model files of a folder that are searched for a name, and bytes of each."""


def external_locations(path: Path) -> frozenset[str] | None:
    """Return the locations of a model file's external tensors; None where it cannot be read.

    The names are those in the file: relative to its folder, and not checked.
    """
    named = _locations(path)
    return None if named is None else frozenset(location for location in named if location)


def growth_by_names(before: Path, after: Path) -> int:
    """Return an upper bound on a model file's growth by a longer name of its data file, in bytes.

    Each external tensor has the name, and the lengths of the messages around it grow too.
    """
    old, new = _locations(before) or [], _locations(after) or []
    longer = sum(len(location.encode()) for location in new) - sum(len(location.encode()) for location in old)
    return longer + _LENGTH_BYTES * len(new) if longer > 0 else 0


def _locations(path: Path) -> list[str] | None:
    """Return the location of each external tensor; None where the file cannot be read."""
    try:
        with FileBytes(path) as data:
            proto = onnx.load_from_string(strip_tensors(data, ""))
    except (OSError, ValueError, ModelError, google.protobuf.message.DecodeError):
        return None
    return [
        entry.value
        for found in stored_tensors(proto)
        if found.tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in found.tensor.external_data
        if entry.key == "location"
    ]


def external_files(path: Path) -> tuple[Path, ...]:
    """Return the existing files that hold a model's external weights; empty where it cannot be read."""
    folder = path.absolute().parent
    locations = sorted(external_locations(path) or ())
    candidates = (folder / location for location in locations if "\0" not in location)
    return tuple(file for file in candidates if file.exists())


def bytes_on_disk(path: str | os.PathLike[str]) -> int:
    """Return the bytes of a model file and of the files that hold its external weights, each file once."""
    facts = [os.stat(file) for file in (Path(path), *external_files(Path(path)))]
    return sum({(fact.st_dev, fact.st_ino): fact.st_size for fact in facts}.values())


def data_files_of_output(target: Path) -> tuple[Path, ...]:
    """Return the data files of an earlier output that have its name and that it refers to.

    ``NAME.data``, as exporters call it, and ``NAME.<8 hex digits>.data``, as this package does.
    """
    if not target.is_file():
        return ()
    own = re.compile(rf"{re.escape(data_stem(target))}\.[0-9a-f]{{8}}\.data|{re.escape(target.name)}\.data")
    names = (name for name in external_locations(target) or () if own.fullmatch(name))
    files = (target.parent / name for name in sorted(names))
    return tuple(file for file in files if file.is_file() and not file.is_symlink())


def data_stem(target: Path) -> str:
    """Return the beginning of the names of an output's data files: its own name, if a model can store it.

    A model file stores UTF-8 alone, and a data file's name is longer than the output's.
    """
    name = target.name
    if not name.isascii():
        name = name.encode("ascii", "replace").decode().replace("?", "_")
    return name[:_LONGEST_STEM]


def is_used_nearby(data: Path) -> bool:
    """Return whether a model file of the same folder names the data file, or may do so."""
    needle = os.fsencode(data.name)
    try:
        models = [entry for entry in os.scandir(data.parent) if entry.name.endswith(".onnx")]
        if len(models) > _MOST_NEIGHBOURS:
            return True
        return any(_mentions(Path(model.path), needle) for model in models if model.is_file())
    except OSError:
        return True


def same_file(path: Path, others: Iterable[Path]) -> bool:
    """Return whether a path leads to one of several existing files, by any name."""
    for other in others:
        try:
            if os.path.samefile(path, other):
                return True
        except OSError:
            continue
    return False


def _mentions(model: Path, needle: bytes) -> bool:
    """Return whether a file names another one; large weights inside it are skipped."""
    with FileBytes(model) as data:
        if len(data) <= _MOST_BYTES:
            return needle in data[:]
        try:
            return needle in strip_tensors(data, "")
        except ValueError:
            return True
