"""Samples of iterables: written to a temporary folder as they come, and read back as they are asked for."""

from __future__ import annotations

import array
import math
import shutil
import weakref
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array
from onnx_admm.data.sources import Index
from onnx_admm.data.stored_rows import as_bytes, read_exactly
from onnx_admm.errors import DataError, LimitReached
from onnx_admm.local_files.temporary_folder import TemporaryFolder

MOST_BYTES = 32 << 30
"""Bytes that the samples of one iterable may take on disk."""

MOST_SAMPLES = 2**24
"""Samples of one iterable: 8 to 40 bytes of memory each tell where a sample lies."""

LEAST_FREE_BYTES = 1 << 30
"""Bytes that stay free on the disk of the temporary folder, where samples take more than a little of it."""

LOOK_EVERY_BYTES = 64 << 20
"""The system is asked for the free bytes each time so many were written: fewer are a little."""

_INSTEAD = "Give fewer samples, or an .npz file, which is read where it lies."
_ELSEWHERE = f"Name a folder on a larger disk in TMPDIR. {_INSTEAD}"


class Spool:
    """A temporary folder with one file for each array name; it is removed with the last `SpooledRows` of it.

    Raises:
        LimitReached: the system refuses the folder.
    """

    def __init__(self) -> None:
        try:
            self._folder = TemporaryFolder()
        except OSError as error:
            raise _refused(error) from error
        self._files: dict[str, IO[bytes]] = {}
        self._bytes = self._samples = 0
        self._next_look = LOOK_EVERY_BYTES
        self._remove = weakref.finalize(self, _remove, self._files, self._folder)

    def rows(self, name: str, sample_shape: tuple[int, ...]) -> SpooledRows:
        """Return rows, none yet, in the file of a name.

        Args:
            name: of the array; any text.
            sample_shape: of one sample.

        Raises:
            LimitReached: the system refuses the file.
        """
        if name not in self._files:
            path = Path(self._folder.name, str(len(self._files)))
            try:
                self._files[name] = path.open("w+b")
            except OSError as error:
                raise _refused(error) from error
        return SpooledRows(self, self._files[name], name, sample_shape)

    def count(self, samples: int) -> None:
        """Count samples.

        Raises:
            LimitReached: more than `MOST_SAMPLES`.
        """
        self._samples += samples
        if self._samples > MOST_SAMPLES:
            raise LimitReached(
                "an iterable gives more samples than a run keeps",
                got=f"over {MOST_SAMPLES:,}",
                hint="Check that it ends. " + _INSTEAD,
            )

    def write(self, file: IO[bytes], rows: Array) -> int:
        """Write an array behind what a file holds, and return the offset of its first byte.

        Raises:
            LimitReached: more than `MOST_BYTES`, or less than `LEAST_FREE_BYTES` would stay free.
        """
        self._bytes += rows.nbytes
        if self._bytes > MOST_BYTES:
            raise LimitReached(
                "the samples of an iterable take more disk than a run uses for them",
                got=f"over {MOST_BYTES >> 20:,} MiB in {self._samples:,} samples",
                hint=_INSTEAD,
            )
        try:
            if self._bytes >= self._next_look:
                self._next_look = self._bytes + LOOK_EVERY_BYTES
                self._check_free(rows.nbytes)
            offset = file.tell()
            file.write(as_bytes(np.ascontiguousarray(rows)))
        except OSError as error:
            raise _refused(error) from error
        return offset

    def finish(self) -> None:
        """Hand what is written to the system; from here on rows are read.

        Raises:
            LimitReached: the system refuses more disk.
        """
        try:
            for file in self._files.values():
                file.flush()
        except OSError as error:
            raise _refused(error) from error

    def close(self) -> None:
        """Remove the folder."""
        self._remove()

    def _check_free(self, coming: int) -> None:
        free = shutil.disk_usage(self._folder.name).free
        if free - coming < LEAST_FREE_BYTES:
            raise LimitReached(
                "the samples of an iterable leave too little free disk",
                where=self._folder.name,
                got=f"{free >> 20:,} MiB free after {self._samples:,} samples",
                expected=f"at least {LEAST_FREE_BYTES >> 20:,} MiB",
                hint=_ELSEWHERE,
            )


class SpooledRows:
    """Samples of one input and one shape. A `Source`, once the spool is finished.

    What was written in one piece and in one type is one segment, so that memory grows with the changes of
    shape and type, not with the samples.

    Args:
        spool: that the file belongs to.
        file: open for writing and reading.
        name: of the input, for errors.
        sample_shape: of one sample.
    """

    def __init__(self, spool: Spool, file: IO[bytes], name: str, sample_shape: tuple[int, ...]) -> None:
        self._spool, self._file, self._name, self._sample_shape = spool, file, name, sample_shape
        self._elements = math.prod(sample_shape)
        self._dtypes: list[np.dtype[np.generic]] = []
        self._starts, self._offsets, self._types = (array.array("q") for _ in range(3))
        self._count = self._end = 0

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type that every sample is read in: the smallest one that holds all that were written."""
        return np.result_type(*self._dtypes)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self._sample_shape

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Array) -> None:
        """Write samples behind those that are there.

        Args:
            rows: (n, ...) of a type with a fixed size; a sample's shape may not change.

        Raises:
            DataError: another shape, Python objects, or a type that no common one holds with those before.
            LimitReached: no more disk.
        """
        if rows.shape[1:] != self._sample_shape:
            got = f"{self._sample_shape} and {rows.shape[1:]}"
            raise DataError("feeds of different shapes", where=self._name, got=got)
        number = self._number_of(rows.dtype)
        offset = self._spool.write(self._file, rows)
        if not self._types or self._types[-1] != number or self._end != offset:
            self._starts.append(self._count)
            self._offsets.append(offset)
            self._types.append(number)
        self._count += len(rows)
        self._end = offset + rows.nbytes

    def take(self, index: Index) -> Array:
        """Read the samples at ``index``; neighbours in one piece.

        Raises:
            DataError: the file cannot be read.
            IndexError: a sample that is not there.
        """
        rows = np.arange(self._count)[index]
        starts, offsets, types = (_numbers(one) for one in (self._starts, self._offsets, self._types))
        segments = np.searchsorted(starts, rows, side="right") - 1
        out = np.empty((len(rows), *self._sample_shape), self.dtype)
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(segments) != 0)) + 1
        for first, stop in pairwise([0, *breaks.tolist(), len(rows)] if len(rows) else []):
            segment = int(segments[first])
            dtype = self._dtypes[types[segment]]
            into = out[first:stop] if dtype == out.dtype else np.empty(out[first:stop].shape, dtype)
            if into.nbytes:
                skipped = int(rows[first] - starts[segment]) * self._elements * dtype.itemsize
                read_exactly(self._file.fileno(), as_bytes(into), int(offsets[segment]) + skipped, self._name)
            if dtype != out.dtype:
                out[first:stop] = into
        return out

    def _number_of(self, dtype: np.dtype[np.generic]) -> int:
        if dtype.hasobject:
            expected = "numbers of one type, or texts alone"
            raise DataError("an array of Python objects", where=self._name, expected=expected)
        if dtype not in self._dtypes:
            try:
                np.result_type(*self._dtypes, dtype)
            except TypeError as error:
                got = ", ".join(map(str, [*self._dtypes, dtype]))
                raise DataError("feeds of different types", where=self._name, got=got) from error
            self._dtypes.append(dtype)
        return self._dtypes.index(dtype)


def _numbers(packed: array.array[int]) -> npt.NDArray[np.int64]:
    return np.frombuffer(packed, np.int64) if len(packed) else np.empty(0, np.int64)


def _remove(files: dict[str, IO[bytes]], folder: TemporaryFolder) -> None:
    try:
        for file in files.values():
            file.close()
    finally:
        folder.cleanup()


def _refused(error: OSError) -> LimitReached:
    return LimitReached(
        f"the system refuses disk for the samples of an iterable ({error.strerror})", hint=_ELSEWHERE
    )
