"""Widths: the budget is met with the error that is least, as brute force finds it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from onnx_admm.removal.widths import WidthOptions, choose_widths


def options(seed: int) -> tuple[dict[int, WidthOptions], dict[str, float]]:
    """Three groups of a chain of four layers; the cost of a layer falls with both of its groups."""
    rng = np.random.default_rng(seed)
    costs = {f"n{i}": float(rng.uniform(1, 5)) for i in range(4)}
    groups = {}
    for key in range(3):
        widths = tuple(range(8, 0, -1))
        errors = np.cumsum(np.sort(rng.exponential(size=8))) - 0.0
        errors -= errors[0]
        ratios = {name: np.array(widths) / 8 for name in (f"n{key}", f"n{key + 1}")}
        groups[key] = WidthOptions(widths, errors, ratios)
    return groups, costs


def cost(groups: dict[int, WidthOptions], costs: dict[str, float], places: tuple[int, ...]) -> float:
    total = 0.0
    for name, own in costs.items():
        for (_, group), place in zip(groups.items(), places, strict=True):
            own *= float(group.ratios[name][place]) if name in group.ratios else 1.0
        total += own
    return total / sum(costs.values())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.75, 0.4, 0.2])
def test_close_to_the_best_of_all_choices(seed: int, share: float) -> None:
    groups, costs = options(seed)
    best = min(
        sum(float(groups[key].errors[place]) for key, place in enumerate(places))
        for places in product(range(8), repeat=3)
        if cost(groups, costs, places) <= share
    )
    found = choose_widths(groups, costs, share)
    places = tuple(groups[key].widths.index(found.kept[key]) for key in range(3))
    assert found.share == pytest.approx(cost(groups, costs, places))
    assert found.share <= share + 1e-9
    assert best - 1e-9 <= found.error <= 1.35 * best + 0.05


def test_a_share_out_of_reach_gives_the_narrowest() -> None:
    groups, costs = options(0)
    found = choose_widths(groups, costs, 1e-6)
    assert set(found.kept.values()) == {1}
    assert found.share > 1e-6


def test_everything_stays_where_all_may_be_left() -> None:
    groups, costs = options(0)
    assert set(choose_widths(groups, costs, 1.0).kept.values()) == {8}


def test_a_width_that_saves_nothing_is_not_taken() -> None:
    steps = np.array([1.0, 1.0, 0.5])
    groups = {0: WidthOptions((32, 24, 16), np.array([0.0, 0.1, 0.3]), {"n": steps})}
    assert choose_widths(groups, {"n": 1.0}, 0.9).kept == {0: 16}
