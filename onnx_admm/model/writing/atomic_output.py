"""The one way to write a user's file: prepared in a work folder, moved in place by one rename.

`prepare_output` takes the lock on an output file and gives a folder on the same file system. A file prepared
there is moved in place by `OutputFile.commit`: the rename of that file is the commit point. Before it the
earlier file is there, after it the new one, complete, and both are synchronised with the disk. A file that
belongs to it (external weights) is placed before, under an unused name, and is removed if the commit point is
not reached, even if the process dies: the next run that writes the same file removes it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx_admm.errors import OutputError, UsageError
from onnx_admm.model.writing.external_files import external_locations, is_used_nearby
from onnx_admm.model.writing.output_lock import OutputLock

_UNLESS_USED = ".unless-used"
"""Ending of an empty file in the work folder that names a data file of the output.

The data file is removed at the end of the work, unless the output refers to it then: one that was placed for
a commit that did not happen, or one that the earlier output used.
"""


@dataclass(frozen=True)
class _Commit:
    """A rename that was started: its target, and the file that is there once it is done."""

    named: Path
    target: Path
    device: int
    inode: int

    def is_done(self) -> bool:
        try:
            there = os.stat(self.target)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (self.device, self.inode)


_COMMITS: list[_Commit] = []


def written_files() -> tuple[Path, ...]:
    """Return the output files that this process has put in place, in order, as the user named them.

    True at every moment, also during a rename: each is compared with the disk.
    """
    return tuple(dict.fromkeys(commit.named for commit in _COMMITS if commit.is_done()))


def forget_written() -> None:
    """Reset the list of `written_files`."""
    _COMMITS.clear()


class OutputFile:
    """An output file in preparation.

    Attributes:
        named: its path as the user gave it.
        target: the same with links followed; a link stays a link.
        folder: folder to prepare it in; always removed afterwards.
    """

    def __init__(self, named: Path, target: Path, lock: OutputLock) -> None:
        self.named = named
        self.target = target
        self.folder = lock.folder
        self._lock = lock

    def commit(self, file: Path, *, data: Path | None = None, obsolete: tuple[Path, ...] = ()) -> None:
        """Move a prepared file in place; afterwards it is there complete, whatever happens.

        Mode and ownership are those of the file that it replaces.

        Args:
            file: the prepared file, in ``folder``.
            data: a prepared data file, in ``folder`` and under its final name.
            obsolete: files that the earlier file used; removed afterwards, unless another model uses them.

        Raises:
            OutputError: the disk refuses; the error says whether the file is in place.
        """
        try:
            for prepared in (file, data):
                if prepared is not None:
                    _take_over(prepared, self.target)
                    _synchronise(prepared)
            for path in obsolete:
                self._remove_unless_used(path.name)
            if data is not None:
                self._place(data)
            facts = os.stat(file)
            _COMMITS.append(_Commit(self.named, self.target, facts.st_dev, facts.st_ino))
            os.replace(file, self.target)
        except OSError as error:
            raise OutputError(f"cannot write ({error.strerror or error})", where=self.named) from error
        try:
            _synchronise(self.target.parent)
        except OSError as error:
            raise OutputError(
                f"the file is in place, but the disk did not confirm it ({error.strerror or error})",
                where=self.named,
            ) from error

    def _place(self, data: Path) -> None:
        """Move a data file to its name next to the target; an existing one has the same content."""
        place = self.target.parent / data.name
        if os.path.lexists(place):
            return
        self._remove_unless_used(data.name)
        try:
            os.link(data, place)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(place):
                raise
            os.rename(data, place)
        else:
            data.unlink()
        _synchronise(self.target.parent)

    def _remove_unless_used(self, name: str) -> None:
        """Mark a data file for removal at the end of the work, or by the next run."""
        (self.folder / f"{name}{_UNLESS_USED}").touch()


@contextmanager
def prepare_output(path: str | os.PathLike[str]) -> Iterator[OutputFile]:
    """Take the lock on an output file and give a folder to prepare it in.

    Example:
        >>> with prepare_output("figures.csv") as output:
        ...     prepared = output.folder / "figures.csv"
        ...     _ = prepared.write_text("a,b")
        ...     output.commit(prepared)
        >>> Path("figures.csv").read_text()
        'a,b'

    Raises:
        UsageError: another run writes the file, or something that is no regular file stands there.
        OutputError: the disk refuses.
    """
    named = Path(path)
    target = followed(named)
    lock = OutputLock(target, named)
    try:
        lock.acquire()
        _remove_unreferenced(lock, target)
        lock.clear()
        yield OutputFile(named, target, lock)
    finally:
        _release(lock, target)


def followed(path: Path) -> Path:
    """Return the final target of ``path``, with links followed.

    Raises:
        UsageError: links form a circle, or the target is no regular file.
    """
    try:
        target = path.resolve()
        facts = target.stat()
    except FileNotFoundError:
        return target
    except (OSError, RuntimeError) as error:
        raise UsageError("cannot be written to", where=path, got=str(error)) from error
    if stat.S_ISDIR(facts.st_mode):
        raise UsageError("the path of the output file is a folder", where=path)
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(
            "the path of the output file is a device, pipe or socket; only a regular file can be written",
            where=path,
        )
    return target


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, completely or not at all; raises as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, completely or not at all.

    Raises:
        UsageError, OutputError: as `prepare_output` and `OutputFile.commit`.
    """
    with prepare_output(path) as output:
        output.commit(write_content(output, content))


def write_content(output: OutputFile, content: bytes) -> Path:
    """Write the content of an output file into its folder; return the file to commit.

    Raises:
        OutputError: the disk refuses.
    """
    prepared = output.folder / "content"
    try:
        prepared.write_bytes(content)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror or error})", where=output.named) from error
    return prepared


# -- inside ----------------------------------------------------------------------------------


def _release(lock: OutputLock, target: Path) -> None:
    try:
        _remove_unreferenced(lock, target)
    finally:
        lock.release()


def _remove_unreferenced(lock: OutputLock, target: Path) -> None:
    """Remove the marked data files that neither the output nor another model of the folder uses."""
    if not lock.is_ours():
        return
    notes = (path.name for path in lock.leftovers() if path.name.endswith(_UNLESS_USED))
    noted = [name.removesuffix(_UNLESS_USED) for name in notes]
    used = external_locations(target) if noted and target.exists() else frozenset()
    for name in noted:
        path = target.parent / name
        if used is not None and name not in used and not is_used_nearby(path):
            with contextlib.suppress(OSError):
                path.unlink()


def _take_over(file: Path, earlier: Path) -> None:
    """Give a file the mode and ownership of the one it replaces, as far as the system allows."""
    try:
        facts = os.stat(earlier)
    except FileNotFoundError:
        return
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(file, facts.st_uid, facts.st_gid)
    os.chmod(file, stat.S_IMODE(facts.st_mode))


def _synchronise(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
