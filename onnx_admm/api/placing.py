"""Where results are put: checked before the work, written beside their place, moved there whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_admm.errors import OutputError, UsageError


def check_place(path: Path, what: str, inputs: Iterator[Path] | tuple[Path, ...] = ()) -> None:
    """Refuse a place that cannot hold a result, before any work is done for it.

    Args:
        path: where the result is to go.
        what: what to call it in the sentence.
        inputs: files that must not be overwritten.

    Raises:
        UsageError: the folder is missing or closed, the place is a folder, or it is an input.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"{what} cannot go where a folder is", where=path)
    if not folder.is_dir():
        raise UsageError(f"no folder to put {what} into", where=path, hint=f"Create it: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder for {what} is not writable", where=folder)
    for other in inputs:
        if path.resolve() == other.resolve():
            raise UsageError(f"{what} would overwrite an input; nothing was done", where=path)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` to write in, gone afterwards whatever happens.

    Raises:
        OutputError: the folder cannot be made.
    """
    try:
        folder = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.absolute().parent)
        )
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", where=target) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(folder: Path, target: Path) -> None:
    """Move every file of a staging folder beside ``target``, the one of its name last.

    Raises:
        OutputError: the disk refuses.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
    try:
        for file in files:
            os.replace(file, target.absolute().parent / file.name)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", where=target) from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", where=target) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raises as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: the disk refuses.
    """
    with staged(path) as folder:
        try:
            (folder / path.name).write_bytes(content)
        except OSError as error:
            raise OutputError(f"cannot write ({error.strerror})", where=path) from error
        move_into_place(folder, path)
