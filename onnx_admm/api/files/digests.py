"""Digests of files and samples, for reports and for comparing the data of two runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnx_admm.contracts import Batch, Dataset
from onnx_admm.data import data_files
from onnx_admm.model.writing.saving import ModelFiles
from onnx_admm.report import Report

_MOST_READ_BYTES = 2**30
"""Size up to which data is digested in full; of more: names, sizes, times of change, some samples."""

_SOME_SAMPLES = 256
_BATCH = 64


def file_digest(path: Path) -> str:
    """Return ``sha256:`` and the digest of a file's content, as ``sha256sum`` gives it."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def digests_of(paths: Iterable[Path]) -> dict[str, str]:
    """Return the digest of each file, and of each folder's files (``tree_digest``); skip missing ones."""
    found: dict[str, str] = {}
    for path in paths:
        if path.is_file():
            found[os.fspath(path)] = file_digest(path)
        elif path.is_dir():
            found[os.fspath(path)] = tree_digest(path)
    return found


def with_digests(report: Report, inputs: Iterable[Path], result: ModelFiles | None, target: Path) -> Report:
    """Return a report with the digests of the files of its run.

    Args:
        report: report of the run.
        inputs: files and folders that were read.
        result: the result; None where it is not written.
        target: path of the result; its digests are listed under the names it will have.
    """
    outputs: dict[str, str] = {}
    if result is not None:
        outputs[os.fspath(target)] = file_digest(result.model)
    if result is not None and result.data is not None:
        outputs[os.fspath(target.with_name(result.data.name))] = file_digest(result.data)
    return replace(report, inputs=digests_of(inputs), outputs=outputs)


def tree_digest(path: Path) -> str:
    """Return the digest of a file, or of the names and contents of all files in a folder.

    It is prefixed by ``sha256:``, or ``sha256-of-times:`` above a GiB: then sizes and times of the last
    change replace contents.
    """
    files = sorted(_files_in(path))
    whole = sum(file.stat().st_size for file in files) <= _MOST_READ_BYTES
    total = hashlib.sha256()
    for file in files:
        facts = file.stat()
        state = file_digest(file) if whole else f"{facts.st_size} {facts.st_mtime_ns}"
        total.update(f"{file.relative_to(path).as_posix()!r} {state}\n".encode())
    return f"{'sha256' if whole else 'sha256-of-times'}:{total.hexdigest()}"


def source_digest(source: object, data: Dataset | None) -> str:
    """Return the digest of the samples that a run takes.

    Args:
        source: a path, or a dataset, which is read in full.
        data: the samples as the model takes them; None: there are none.
    """
    if data is None:
        return ""
    if not isinstance(source, str | os.PathLike):
        return _samples_digest(data, np.arange(len(data), dtype=np.int64))
    parts = [tree_digest(path) for path in data_files(Path(source))]
    if any(not part.startswith("sha256:") for part in parts):
        some = np.linspace(0, len(data) - 1, min(_SOME_SAMPLES, len(data)))
        parts.append(_samples_digest(data, np.unique(some.astype(np.int64))))
    return " ".join(parts)


def _files_in(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for root, _, names in os.walk(path):
        yield from (file for name in names if (file := Path(root, name)).is_file())


def _samples_digest(data: Dataset, chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    digest = hashlib.sha256(str(len(data)).encode())
    for batch in data.select(chosen).batches(_BATCH):
        for name, array in _arrays(batch):
            digest.update(f"{name!r} {array.dtype} {array.shape}".encode())
            plain = array.astype(str) if array.dtype == object else array
            digest.update(np.ascontiguousarray(plain).tobytes())
    return f"samples:{digest.hexdigest()}"


def _arrays(batch: Batch) -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]]:
    yield from sorted(batch.feeds.items())
    if batch.labels is not None:
        yield "", batch.labels
