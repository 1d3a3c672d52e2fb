"""Memory and time of one run: the limits, and the budget that counts against them.

Everything that a small file can request without storing it (decoded weights, folded constants, sparse tensors
made dense, made-up samples) counts against the budget of the run, so that limits apply to the sum of it.
``docs/security.md`` states the figures.
"""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass
from typing import Protocol, TypeVar

from onnx_admm.errors import LimitReached, UsageError
from onnx_admm.limits.memory import machine_bytes, resident_bytes

MOST_NODES = 200_000
"""Most nodes, initializers and other values of one model, with functions in place of their calls."""

NODES_PER_MIB = 180
"""The same for each MiB of a stated memory limit: a node takes about 5 kB."""

FREE_BYTES = 128 << 20
"""Bytes of values computed from stored constants that any run may keep."""

BYTES_PER_STORED_BYTE = 4000
"""Further bytes for each byte of the files that the run loads."""

FREE_OPERATIONS = 1 << 30
"""Elements that any run may compute from stored constants."""

OPERATIONS_PER_STORED_BYTE = 1 << 16
"""Further elements for each byte of the files that the run loads."""

_UNLIMITED = 1 << 62

RAISE_MEMORY = "Raise the limit with --max-memory MB (max_memory_mb in Python)."
RAISE_TIME = "Set a time limit with --timeout S (timeout_s in Python). It replaces this limit."


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Limits of a run.

    Attributes:
        max_memory_mb: MiB of resident memory of this process and its worker together; None for half of the
            machine's, and for stricter defaults where a small file requests much.
        timeout_s: seconds; None for no limit on the run, and for defaults on its single steps.

    Raises:
        UsageError: a limit that is not positive.

    Example:
        >>> from onnx_admm.api import RunLimits
        >>> RunLimits(max_memory_mb=4000, timeout_s=600).timeout_s
        600
        >>> RunLimits(timeout_s=0)
        Traceback (most recent call last):
            ...
        onnx_admm.errors.UsageError: an impossible timeout; got 0; expected a positive number
    """

    max_memory_mb: int | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max memory", self.max_memory_mb), ("timeout", self.timeout_s)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"an impossible {name}", got=value, expected="a positive number")


_LOOK_EVERY_S = 0.01
"""Seconds between two queries of the memory in use: small steps are checked far more often."""


class RunBudget:
    """Memory, time and operations of one run, counted against its limits. Threads of the run share it.

    Args:
        limits: limits of the run.
        outer: the budget of an enclosing run; its deadline applies too.
        in_proportion: whether values computed from stored constants must be in proportion to them; only where
            the budget counts the files that are loaded.
    """

    def __init__(
        self,
        limits: RunLimits | None = None,
        outer: RunBudget | None = None,
        *,
        in_proportion: bool = True,
    ) -> None:
        self.limits = limits or RunLimits()
        self._in_proportion = in_proportion
        self._started = time.monotonic()
        self._deadline: float | None = None if outer is None else outer._deadline
        self._timeout_s: float = 0.0 if outer is None else outer._timeout_s
        if self.limits.timeout_s is not None:
            own = self._started + self.limits.timeout_s
            if self._deadline is None or own < self._deadline:
                self._deadline, self._timeout_s = own, self.limits.timeout_s
        self._memory_limit = _memory_limit(self.limits)
        self._lock = threading.RLock()
        self._stored = self._kept = self._operations = 0
        self._next_look = 0.0

    # -- limits ----------------------------------------------------------------------------

    @property
    def memory_limit(self) -> int | None:
        """Most bytes of resident memory of the run; None where the machine's memory is unknown."""
        return self._memory_limit

    @property
    def keep_limit(self) -> int:
        """Most bytes of values computed from stored constants at any moment."""
        limit = _UNLIMITED if self.memory_limit is None else self.memory_limit
        if self.limits.max_memory_mb is not None or not self._in_proportion:
            return limit
        return min(FREE_BYTES + BYTES_PER_STORED_BYTE * self._stored, limit)

    @property
    def operation_limit(self) -> int | None:
        """Most elements computed from stored constants; None where the run has a time limit instead."""
        if self._deadline is not None or not self._in_proportion:
            return None
        return FREE_OPERATIONS + OPERATIONS_PER_STORED_BYTE * self._stored

    @property
    def node_limit(self) -> int:
        """Most nodes and values of one model."""
        stated = self.limits.max_memory_mb
        return MOST_NODES if stated is None else max(MOST_NODES, NODES_PER_MIB * stated)

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the time limit of the run; None without one."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    @property
    def kept_bytes(self) -> int:
        """Bytes of values computed from stored constants that are kept now."""
        return self._kept

    @property
    def operations(self) -> int:
        """Number of elements computed from stored constants so far."""
        return self._operations

    # -- counting --------------------------------------------------------------------------

    def add_stored(self, nbytes: int) -> None:
        """Count the bytes of a loaded file: they raise the limits of what is computed from it.

        Raises:
            LimitReached: a limit of the run is reached.
        """
        with self._lock:
            self._stored += nbytes
        self.check()

    def keep(self, array: T, what: str) -> T:
        """Count an array until it is freed; return it.

        Raises:
            LimitReached: more than the run may keep.
        """
        self.reserve(array.nbytes, what)
        self.keep_with(array, array.nbytes)
        return array

    def keep_with(self, owner: object, nbytes: int) -> None:
        """Count bytes that live as long as ``owner``; `reserve` them before."""
        with self._lock:
            self._kept += nbytes
        weakref.finalize(owner, self._release, nbytes).atexit = False

    def reserve(self, nbytes: int, what: str) -> None:
        """Refuse bytes that the run may not keep in addition; call before they are allocated.

        Raises:
            LimitReached: more than the run may keep.
        """
        kept = self._kept
        if kept + nbytes > self.keep_limit:
            raise LimitReached(
                f"{what} takes more memory than a model of this size may use",
                got=f"{_mib(nbytes)} in addition to {_mib(kept)} in use",
                expected=f"at most {_mib(self.keep_limit)} in all",
                hint=RAISE_MEMORY,
            )
        self.check(nbytes)

    def operate(self, elements: int, what: str) -> None:
        """Count elements that will be computed from stored constants.

        Raises:
            LimitReached: more than the run may compute.
        """
        with self._lock:
            self._operations += elements
        limit = self.operation_limit
        if limit is not None and self._operations > limit:
            raise LimitReached(
                f"{what} takes more operations than a model of this size may use",
                got=f"more than {limit:,} elements computed from stored constants",
                hint=RAISE_TIME,
            )
        self.check()

    def check(self, coming: int = 0) -> None:
        """Check the clock and the memory of the process.

        Args:
            coming: bytes about to be allocated.

        Raises:
            LimitReached: a limit of the run is reached.
        """
        reached = self.reached(coming)
        if reached is not None:
            raise reached

    def reached(self, coming: int = 0) -> LimitReached | None:
        """Return the limit that the run has reached, or that ``coming`` more bytes would reach."""
        remaining = self.remaining_s
        if remaining is not None and remaining < 0:
            return LimitReached(
                f"the time limit of {self._timeout_s:g} s is reached",
                hint="Raise the limit with --timeout S (timeout_s in Python).",
            )
        if not coming and time.monotonic() < self._next_look:
            return None
        limit, taken = self.memory_limit, process_bytes()
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        if limit is None or taken is None or taken + coming <= limit:
            return None
        more = f", and {_mib(coming)} more are needed" if coming else ""
        return LimitReached(
            f"the memory limit of {_mib(limit)} is reached",
            got=f"{_mib(taken)} in use{more}",
            hint=RAISE_MEMORY,
        )

    def _release(self, nbytes: int) -> None:
        with self._lock:
            self._kept -= nbytes


def _memory_limit(limits: RunLimits) -> int | None:
    if limits.max_memory_mb is not None:
        return limits.max_memory_mb << 20
    machine = machine_bytes()
    return None if machine is None else machine // 2


def process_bytes() -> int | None:
    """Return the resident memory of this process and its workers; None where unknown."""
    own = resident_bytes()
    if own is None:
        return None
    return own + sum(resident_bytes(pid) or 0 for pid in tuple(worker_pids))


worker_pids: set[int] = set()
"""Processes whose memory counts as this one's."""


def refused_memory(error: MemoryError) -> LimitReached:
    """Return the error for memory that the system refused."""
    detail = f" ({error})" if str(error) else ""
    return LimitReached(
        f"the system refuses more memory{detail}",
        hint="Close other programs, raise the limit it sets (ulimit -v, a container's), or take a machine "
        "with more.",
    )


def _mib(nbytes: int) -> str:
    return f"{-(-nbytes // (1 << 20)):,} MiB"
