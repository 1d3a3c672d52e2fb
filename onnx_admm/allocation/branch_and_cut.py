"""Branch and cut for choices of one option in each row, by scipy's HiGHS, without its messages."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GAP = 1e-3
"""Share by which the total found may exceed the least possible one."""

_lock = threading.Lock()


def best_choice(
    value: Floats, rows: Ints, count: int, weights: Floats, limit: float
) -> npt.NDArray[np.bool_] | None:
    """Return which options are taken: one of each row, least total value; None where no choice fits.

    Args:
        value: value of each option, (options,).
        rows: row of each option, (options,).
        count: number of rows.
        weights: weights of each option, (limits, options); their sums stay within ``limit``.
        limit: largest sum of each weight.
    """
    one_each = csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(count, len(rows)))
    with _lock, _no_native_output():
        found = milp(
            value,
            integrality=np.ones(len(rows), np.int64),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(weights, -np.inf, limit)],
            options={"mip_rel_gap": GAP, "presolve": False},  # presolve prints more
        )
    return None if found.x is None else found.x > 0.5


@contextlib.contextmanager
def _no_native_output() -> Iterator[None]:
    """Keep what C++ code prints out of standard output, which may be a file that a program reads."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
    except (OSError, ValueError, AttributeError):  # closed, or not there
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
