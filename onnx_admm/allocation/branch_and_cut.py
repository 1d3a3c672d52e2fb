"""Branch and cut for choices of one option in each row, by scipy's HiGHS."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GAP = 1e-3
"""Share by which the total found may exceed the least possible one."""


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
    found = milp(
        value,
        integrality=np.ones(len(rows), np.int64),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(weights, -np.inf, limit)],
        options={"mip_rel_gap": GAP, "presolve": False},  # with presolve it prints more often
    )
    return None if found.x is None else found.x > 0.5
