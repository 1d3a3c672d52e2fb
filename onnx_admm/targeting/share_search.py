"""Search of the largest share of a model's work whose measured cost is within a budget.

The cost falls with the share, but no formula gives it: an evaluation builds a model and times it. So few
evaluations are made, each at the share where a power law through the nearest ones on both sides meets the
budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_LEAST = 0.02
"""Smallest share that is tried."""

_CLOSE = 0.95
"""Share of the budget that is close enough to it: timing is no more exact."""

_NARROW = 1.08
"""Ratio of two neighbouring shares between which no further one is tried."""

_FIRST_POWER = 1.3
"""Exponent of the first guess: part of the cost does not fall with the share."""

_STEP = 0.9
"""Least step down, as a factor, while no share within the budget is known."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Tried(Generic[Made]):
    """One share that was tried.

    Attributes:
        share: share of the work that was left, above 0 and at most 1.
        cost: measured cost, in units of the original's.
        made: what was built and measured.
    """

    share: float
    cost: float
    made: Made


def largest_share(
    build: Callable[[float], tuple[float, Made]], asked: float, most: int
) -> tuple[Tried[Made], ...]:
    """Return what was tried; the last is the largest share found within the budget, if any is.

    Args:
        build: builds a model of a share; returns its cost and the model. It is called with 1 first.
        asked: largest cost.
        most: number of shares to try, at most.

    Example:
        >>> tried = largest_share(lambda share: (0.1 + 0.6 * share, None), asked=0.4, most=6)
        >>> tried[-1].cost <= 0.4
        True
    """
    tried: list[Tried[Made]] = []
    slow: Tried[Made] | None = None
    fast: Tried[Made] | None = None
    share = 1.0
    while len(tried) < most:
        cost, made = build(share)
        found = Tried(share, cost, made)
        tried.append(found)
        if cost <= asked:
            fast = found
            if share == 1.0 or cost >= _CLOSE * asked:
                break
        else:
            slow = found
            if share <= _LEAST:
                break
        if slow is not None and fast is not None and slow.share / fast.share <= _NARROW:
            break
        if len(tried) == most:
            break
        share = _next_share(tried, slow, fast, asked)
    best = fast if fast is not None else min(tried, key=lambda each: each.cost)
    return (*(each for each in tried if each is not best), best)


def _next_share(
    tried: Sequence[Tried[Made]], slow: Tried[Made] | None, fast: Tried[Made] | None, asked: float
) -> float:
    """Return where a power law expects a cost a little below the budget."""
    aim = asked * (1 + _CLOSE) / 2
    if slow is None:
        raise ValueError("the whole model is within the budget")
    if fast is None:
        power = _power(tried[-2], slow) if len(tried) > 1 else 0.0
        power = power if power > 0 else 1 / _FIRST_POWER
        return max(_LEAST, min(_guess(slow, aim, power), _STEP * slow.share))
    narrow = math.sqrt(_NARROW)
    return min(max(_guess(slow, aim, _power(slow, fast)), fast.share * narrow), slow.share / narrow)


def _power(first: Tried[Made], second: Tried[Made]) -> float:
    """Return the exponent of the power law through two points; 0 where one does not run."""
    if not (math.isfinite(first.cost) and math.isfinite(second.cost)):
        return 0.0
    return math.log(first.cost / second.cost) / math.log(first.share / second.share)


def _guess(known: Tried[Made], aim: float, power: float) -> float:
    """Return the share at which the law through a known point costs ``aim``; 0 where cost does not fall."""
    if not power > 0:
        return 0.0
    if not math.isfinite(known.cost):
        return _STEP * known.share
    return known.share * math.exp(math.log(aim / known.cost) / power)
