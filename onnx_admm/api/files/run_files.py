"""The files that a run reads and writes: no run may write what it reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx_admm.data import data_files
from onnx_admm.errors import UsageError, WorkError
from onnx_admm.model.writing.atomic_output import followed
from onnx_admm.model.writing.external_files import external_files

_DATA_ENDINGS = (".npy", ".npz", ".gz", ".pb", ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".zip", "-ubyte")
"""Endings of files that a reader takes from a folder of data."""

_State = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Named:
    """A file or folder, and its name in messages."""

    path: Path
    what: str
    is_fixed: bool = True


class RunFiles:
    """The files of one run.

    Every command lists what it reads and what it will write, then calls `check` before any work is done, and
    `raise_if_changed` before it relies on having read one and the same content.

    Example:
        >>> files = RunFiles()
        >>> files.read_model("net.onnx", "the model")
        >>> files.write("small.onnx", "the result")
        >>> files.check()
    """

    def __init__(self) -> None:
        self._reads: list[_Named] = []
        self._writes: list[_Named] = []
        self._states: dict[Path, _State | None] = {}

    def read(self, path: object, what: str, *, is_fixed: bool = True) -> None:
        """Add a file, or a folder whose files are data; ignore anything that is no path.

        Args:
            path: path of the file or folder.
            what: its name in messages.
            is_fixed: whether it must not change during the run.
        """
        if isinstance(path, str | os.PathLike) and os.fspath(path) != "":
            self._reads.append(_Named(Path(path), what, is_fixed))

    def read_model(self, path: str | os.PathLike[str], what: str) -> None:
        """Add a model file, and the files that hold its weights."""
        self.read(path, what)
        if os.path.isfile(path):
            for file in external_files(Path(path)):
                self.read(file, f"the weights of {what}")

    def read_data(self, source: object, what: str) -> None:
        """Add samples: the path of a file or folder, and files read along with it; a dataset has none."""
        if isinstance(source, str | os.PathLike):
            for file in data_files(Path(source)):
                self.read(file, what)

    def write(self, path: str | os.PathLike[str] | None, what: str) -> None:
        """Add a file that will be written; None is ignored."""
        if path is not None:
            self._writes.append(_Named(Path(path), what))

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Every file and folder that is read."""
        return tuple(named.path for named in self._reads)

    @property
    def fixed_inputs(self) -> tuple[Path, ...]:
        """Files and folders that are read and must not change during the run."""
        return tuple(named.path for named in self._reads if named.is_fixed)

    def check(self) -> None:
        """Refuse outputs that cannot be written or would overwrite a file of this run; record the inputs.

        Raises:
            UsageError: an output is no regular file, has no writable folder, is read by this run, or is
                written twice.
        """
        for number, output in enumerate(self._writes):
            self._check_place(output)
            for other in self._reads:
                if _is_read(output.path, other.path):
                    raise UsageError(
                        f"{output.what} would overwrite {other.what}; nothing was done",
                        where=output.path,
                        hint="Name another file.",
                    )
            for other in self._writes[:number]:
                if _is_one_place(output.path, other.path):
                    raise UsageError(
                        f"{output.what} and {other.what} would be one file; nothing was done",
                        where=output.path,
                        hint="Name two files.",
                    )
        self._states = {named.path: _state(named.path) for named in self._reads if named.is_fixed}

    def raise_if_changed(self) -> None:
        """Raise an error where an input has changed since `check`.

        Raises:
            WorkError: another process replaced, changed or removed it.
        """
        names = {named.path: named.what for named in self._reads}
        for path, state in self._states.items():
            if _state(path) != state:
                raise WorkError(
                    f"{names[path]} changed during the run, so the result is not valid",
                    where=path,
                    hint="Run again while no other process writes the file.",
                )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Add to a failure the name of an input that changed meanwhile: it is the likely cause."""
        try:
            yield
        except Exception:
            self.raise_if_changed()
            raise

    def _check_place(self, output: _Named) -> None:
        target = followed(output.path)
        folder = target.parent
        if not folder.is_dir():
            hint = f"Create it: mkdir -p {folder}"
            raise UsageError(f"the folder for {output.what} does not exist", where=output.path, hint=hint)
        if not os.access(folder, os.W_OK):
            raise UsageError(f"the folder for {output.what} is not writable", where=folder)


def _is_read(target: Path, source: Path) -> bool:
    """Return whether writing ``target`` changes what is read from ``source``."""
    target = followed(target)  # what is written, even where a folder on the way is missing
    try:
        facts = target.stat()
    except OSError:
        return False  # a file that does not exist yet is not read
    if not source.is_dir():
        try:
            return os.path.samestat(facts, source.stat())
        except OSError:
            return False
    is_data = target.resolve().name.lower().endswith(_DATA_ENDINGS)
    return is_data and target.resolve().is_relative_to(source.resolve())


def _is_one_place(left: Path, right: Path) -> bool:
    """Return whether two paths lead to one file; names that differ in case alone count as one."""
    try:
        return os.path.samefile(left, right)
    except OSError:
        return os.fspath(left.resolve()).casefold() == os.fspath(right.resolve()).casefold()


def _state(path: Path) -> _State | None:
    """Return identity, size and time of change of a file, or of a folder's files; None: missing."""
    try:
        facts = path.stat()
        if not stat.S_ISDIR(facts.st_mode):
            return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
        return facts.st_dev, facts.st_ino, *_sum_states(_files_below(path))
    except OSError:
        return None


def _sum_states(files: Iterable[os.stat_result]) -> tuple[int, int]:
    """Return a size and a number that change when a file comes, goes or is written."""
    size, times = 0, 0
    for facts in files:
        size += facts.st_size
        times ^= hash((facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return size, times


def _files_below(folder: Path) -> Iterator[os.stat_result]:
    """Yield facts of the data files of a folder; files that a run writes meanwhile are no data."""
    for root, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(_DATA_ENDINGS):
                yield os.stat(os.path.join(root, name))
