"""The search of a share: few evaluations, the budget kept, the best found where it cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnx_admm.targeting.share_search import largest_share


def counted(cost: Callable[[float], float]) -> tuple[list[float], Callable[[float], tuple[float, float]]]:
    """Return the shares that are asked for, and a builder that keeps them."""
    asked: list[float] = []

    def build(share: float) -> tuple[float, float]:
        asked.append(share)
        return cost(share), share

    return asked, build


@pytest.mark.parametrize("asked", [0.9, 0.5, 0.3, 0.15])
@pytest.mark.parametrize(
    "cost",
    [
        lambda share: share,
        lambda share: 0.1 + 0.9 * share,
        lambda share: share**1.7,
        lambda share: 0.02 + 0.35 * share,
    ],
)
def test_the_budget_is_nearly_used(cost: Callable[[float], float], asked: float) -> None:
    shares, build = counted(cost)
    tried = largest_share(build, asked, 8)
    best = tried[-1]
    assert best.cost <= asked
    assert best.made == best.share
    assert best.share == 1.0 or cost(best.share * 1.1) > 0.95 * asked
    assert shares[0] == 1.0
    assert len(shares) == len(tried) <= 6
    assert {each.share for each in tried} == set(shares)


def test_a_staircase_is_searched_too() -> None:
    tried = largest_share(counted(lambda share: round(share * 8) / 8)[1], 0.3, 8)
    assert tried[-1].cost == 0.25


def test_the_whole_is_enough_where_it_is_fast() -> None:
    shares, build = counted(lambda share: 0.3 * share)
    assert largest_share(build, 0.4, 8)[-1].share == 1.0
    assert shares == [1.0]


def test_out_of_reach_the_fastest_is_returned() -> None:
    shares, build = counted(lambda share: 0.5 + share)
    tried = largest_share(build, 0.4, 20)
    assert tried[-1].cost == min(each.cost for each in tried) > 0.4
    assert tried[-1].share == min(shares)
    assert len(shares) < 20


def test_no_more_are_tried_than_allowed() -> None:
    shares, build = counted(lambda share: share)
    largest_share(build, 0.1, 2)
    assert len(shares) == 2


def test_forms_that_do_not_run_are_too_slow() -> None:
    tried = largest_share(counted(lambda share: float("inf") if share > 0.8 else share)[1], 0.5, 8)
    assert tried[-1].cost <= 0.5
    assert len(largest_share(counted(lambda share: float("inf"))[1], 0.5, 1)) == 1
