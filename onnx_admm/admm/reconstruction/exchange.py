"""Local search over supports: pairs of entries leave and enter, each exchange lowering the exact loss.

For one row with kept entries S, ``M = A_SS^-1``, weights ``w = M b_S`` and gradient ``g = b - A w``:

    dropping i in S costs      w_i^2 / M_ii
    adding j gains             g_j^2 / h_j,                  h_j = A_jj - A_jS M A_Sj
    exchanging i for j gains   (g_j + p w_i / M_ii)^2 / (h_j + p^2 / M_ii) - w_i^2 / M_ii,   p = A_jS M e_i

all with every other weight of the row at its new optimum. ``P = A_:S M`` makes the gains of all pairs
elementwise, and an exchange changes it by matrices of rank one (the sweep operator of stepwise regression).
For entries of different rows, the cost of dropping and the gain of adding add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.reconstruction.layer_problem import Floats, LayerProblem
from onnx_admm.admm.sets.supports import Mask

Ints = npt.NDArray[np.int64]

_LEAST = 1e-9
"""An exchange must lower the loss by this share of what the row's weights explain."""

_TRIED = 16

_LARGEST = 40
"""Most squared support size of a row that is searched, in units of d.

A search then costs at most a few dozen steps of the loop.
"""


class RowSearch:
    """Support of one row, the optimum on it, and the gain of each exchange.

    Args:
        normal: A, (d, d).
        linear: b, (d,).
        kept: flat indices of the support.
    """

    def __init__(self, normal: Floats, linear: Floats, kept: Ints) -> None:
        self.normal, self.linear, self.kept = normal, linear, kept.copy()
        inverse = np.linalg.inv(normal[np.ix_(kept, kept)])
        columns = normal[:, kept]
        self.table = columns @ inverse  # P off the support
        self.table[kept] = inverse  # M on it
        weights = inverse @ linear[kept]
        self.values = linear - columns @ weights  # g off the support
        self.values[kept] = weights  # w on it
        self.schur = np.diagonal(normal) - np.einsum("ij,ij->i", self.table, columns)
        self.outside = np.ones(len(linear), np.bool_)
        self.outside[kept] = False

    @property
    def pivots(self) -> Floats:
        """``M_ii`` of the kept entries."""
        pivots: Floats = self.table[self.kept, np.arange(len(self.kept))]
        return pivots

    def drop_costs(self) -> Floats:
        """Return the cost of dropping each kept entry, (kept,)."""
        costs: Floats = np.square(self.values[self.kept]) / self.pivots
        return costs

    def add_gains(self) -> Floats:
        """Return the gain of adding each entry, (d,); 0 for kept entries."""
        gains: Floats = np.divide(
            self.values**2, self.schur, out=np.zeros_like(self.schur), where=self.outside
        )
        return gains

    def best_exchange(self, exchange_groups: Ints) -> tuple[float, int, int]:
        """Return (gain, position in ``kept``, entry to add) of the best exchange within a group.

        Where all entries share one group only the entries that cost least are tried for dropping.
        """
        free, costs = np.flatnonzero(self.outside), self.drop_costs()
        tried = np.argsort(costs, kind="stable")
        tried = tried[: _TRIED if (exchange_groups == exchange_groups[0]).all() else None]
        dropped, pivots, through = self.kept[tried], self.pivots[tried], self.table[np.ix_(free, tried)]
        gradients = self.values[free, None] + through * (self.values[dropped] / pivots)
        gains = gradients**2 / (self.schur[free, None] + through**2 / pivots) - costs[tried]
        gains[exchange_groups[free, None] != exchange_groups[dropped]] = -np.inf
        row, column = divmod(int(np.argmax(gains)), len(tried))
        return float(gains[row, column]), int(tried[column]), int(free[row])

    def exchange(self, position: int, entry: int) -> None:
        """Replace the kept entry at ``position``."""
        self._drop(position)
        self._add(position, entry)

    def _drop(self, position: int) -> None:
        entry = int(self.kept[position])
        column, row = self.table[:, position].copy(), self.table[entry].copy()
        pivot, weight = column[entry], self.values[entry]
        self.table -= np.outer(column / pivot, row)
        self.table[entry] = -row / pivot
        self.values += np.where(self.outside, column, -column) * (weight / pivot)
        self.schur += column**2 / pivot
        self.values[entry], self.schur[entry], self.outside[entry] = weight / pivot, 1 / pivot, True
        self.table[:, position] = 0.0

    def _add(self, position: int, entry: int) -> None:
        row, pivot = self.table[entry].copy(), self.schur[entry]
        column = self.normal[:, entry] - self.table @ self.normal[self.kept, entry]
        column[self.kept] = np.where(self.outside[self.kept], column[self.kept], -row)
        weight = self.values[entry] / pivot
        self.table -= np.outer(column / pivot, row)
        self.table[:, position] = column / pivot
        self.table[entry] = -row / pivot
        self.table[entry, position] = 1 / pivot
        self.values -= np.where(self.outside, column, -column) * weight
        self.schur -= column**2 / pivot
        self.values[entry], self.outside[entry], self.kept[position] = weight, False, entry


def exchange_entries(problem: LayerProblem, mask: Mask, exchange_groups: Ints, *, rounds: int) -> Mask:
    """Return a support of the same set whose optimum is no worse, and mostly better.

    Rows are searched one by one until no exchange within a group helps. Where all entries share one group,
    entries then move between rows: rows that would gain most by one more entry receive it from rows that
    would lose least, and these rows are searched again. Rows with too large supports (the work grows with
    their square) stay as they are.

    Args:
        problem: the layer.
        mask: bool (rows, d), the support.
        exchange_groups: (rows, d), equal for entries that may replace one another.
        rounds: rounds of moves between rows at most.
    """
    mask, candidates = mask.copy(), dict[int, _SwapCandidate]()
    run = len(mask) // problem.groups
    pending = [row for row, kept in enumerate(mask.sum(axis=1)) if kept**2 <= _LARGEST * mask.shape[1]]
    trading = bool(exchange_groups.size) and int(exchange_groups.min()) == int(exchange_groups.max())
    for _ in range(rounds + 1):
        for row in pending:
            search = RowSearch(problem.normal[row // run], problem.linear[row], np.flatnonzero(mask[row]))
            _search_row(search, exchange_groups[row])
            mask[row] = ~search.outside
            candidates[row] = _swap_candidate(search)
        pending = _swap_between_rows(mask, candidates) if trading else []
        if not pending:
            break
    return mask


@dataclass(frozen=True)
class _SwapCandidate:
    """Cheapest entry that a row could lose, and best entry that it could gain; -1 where none."""

    cost: float
    drop: int
    gain: float
    add: int


def _swap_candidate(search: RowSearch) -> _SwapCandidate:
    gains = search.add_gains()
    add = int(np.argmax(gains)) if len(gains) else -1
    if not len(search.kept):
        return _SwapCandidate(np.inf, -1, float(gains[add]), add)
    costs = search.drop_costs()
    cheapest = int(np.argmin(costs))
    return _SwapCandidate(float(costs[cheapest]), int(search.kept[cheapest]), float(gains[add]), add)


def _search_row(search: RowSearch, exchange_groups: Ints) -> None:
    """Make the best exchange until none lowers the loss."""
    for _ in range(len(exchange_groups)):
        if not len(search.kept) or not search.outside.any():
            return
        gain, position, entry = search.best_exchange(exchange_groups)
        explained = float(search.values[search.kept] @ search.linear[search.kept])
        if gain <= _LEAST * explained:
            return
        search.exchange(position, entry)


def _swap_between_rows(mask: Mask, candidates: dict[int, _SwapCandidate]) -> list[int]:
    """Move entries from rows that lose little to rows that gain more; return the changed rows."""
    donors = sorted(candidates, key=lambda row: (candidates[row].cost, row))
    recipients = sorted(candidates, key=lambda row: (-candidates[row].gain, row))
    changed: list[int] = []
    while donors and recipients:
        donor, recipient = donors[0], recipients[0]
        if donor == recipient:  # exchanges within a row are done: the row takes part on one side only
            (donors if len(donors) > 1 else recipients).pop(0)
            continue
        if candidates[recipient].gain <= candidates[donor].cost * (1 + _LEAST):
            break
        mask[donor, candidates[donor].drop], mask[recipient, candidates[recipient].add] = False, True
        changed += [donor, recipient]
        donors = [row for row in donors if row not in (donor, recipient)]
        recipients = [row for row in recipients if row not in (donor, recipient)]
    return sorted(changed)
