"""Budgets over layers: against brute force, at their edges, and to the last weight."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnx_admm.allocation import allocation
from onnx_admm.allocation.allocation import Curve, Option, densities, least_cost, least_error
from onnx_admm.allocation.branch_and_cut import GAP
from onnx_admm.errors import PassRefused

figure = st.one_of(st.integers(0, 50).map(float), st.floats(1e-6, 1e6))
layer = st.lists(st.tuples(figure, figure), min_size=1, max_size=5)
Layers = dict[str, list[Option[int]]]


def options_of(layers: list[list[tuple[float, float]]]) -> Layers:
    return {
        f"layer{i}": [Option(cost, error, j) for j, (cost, error) in enumerate(pairs)]
        for i, pairs in enumerate(layers)
    }


def best_error(options: Layers, budget: float) -> float:
    """Return the least total error within the budget, by trying everything."""
    combinations = itertools.product(*options.values())
    sums = ((sum(o.error for o in row), sum(o.cost for o in row)) for row in combinations)
    return min(error for error, cost in sums if cost <= budget)


def curve(scale: float, rate: float, at: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)) -> Curve:
    return Curve(at, tuple(scale * float(np.exp(-rate * density)) for density in at))


@settings(max_examples=150, deadline=None)
@given(st.lists(layer, min_size=1, max_size=4), st.floats(0, 1))
@example([[(0.0, 1.0), (0.0, 1.0), (1.0, 0.5)], [(1.0 + 2**-52, 0.0)]], 1.0)
def test_choice_is_the_best_there_is(layers: list[list[tuple[float, float]]], share: float) -> None:
    options = options_of(layers)
    least = sum(min(o.cost for o in row) for row in options.values())
    most = sum(max(o.cost for o in row) for row in options.values())
    budget = least + share * (most - least)
    chosen = least_error(options, budget)
    assert list(chosen) == list(options)
    assert sum(o.cost for o in chosen.values()) <= budget * (1 + 1e-12)
    # What fits only by the rounding of a sum need not be found.
    tighter = max(budget * (1 - 1e-12), least)
    found, best = sum(o.error for o in chosen.values()), best_error(options, tighter)
    assert found <= best * (1 + GAP)


@settings(max_examples=50, deadline=None)
@given(st.lists(layer, min_size=1, max_size=4), st.floats(0, 1))
def test_the_dual_question_is_the_same_one(layers: list[list[tuple[float, float]]], share: float) -> None:
    options = options_of(layers)
    swapped = {name: [Option(o.error, o.cost, o.what) for o in row] for name, row in options.items()}
    least = sum(min(o.error for o in row) for row in options.values())
    most = sum(max(o.error for o in row) for row in options.values())
    tolerance = least + share * (most - least)
    chosen = least_cost(options, tolerance)
    assert {name: o.what for name, o in chosen.items()} == {
        name: o.what for name, o in least_error(swapped, tolerance).items()
    }


def test_of_no_layers_nothing_is_chosen() -> None:
    assert least_cost({}, 1.0) == {}
    assert least_error({}, 1.0) == {}


def test_an_option_off_the_convex_hull_is_found() -> None:
    """What prices alone cannot: the middle option fits, and lies above the line between the others."""
    options = {"a": [Option(0.0, 10.0, "none"), Option(5.0, 6.0, "some"), Option(10.0, 0.0, "all")]}
    assert least_error(options, 9.0)["a"].what == "some"


def test_many_layers_take_moments_and_fill_the_budget() -> None:
    rng = np.random.default_rng(0)
    widths, sizes = (2, 3, 4, 5, 6, 7, 8), 10 ** rng.uniform(3, 6, 200)
    options = {
        str(i): [Option(size * bits / 8, scale * 4.0**-bits, bits) for bits in widths]
        for i, (size, scale) in enumerate(zip(sizes, 10 ** rng.uniform(-5, 0, 200), strict=True))
    }
    budget = float(sizes.sum()) / 2
    chosen = least_error(options, budget)
    assert 0.999 * budget < sum(o.cost for o in chosen.values()) <= budget
    uniform = sum(row[2].error for row in options.values())
    assert sum(o.error for o in chosen.values()) < 0.3 * uniform


def test_an_impossible_budget_says_what_is_possible() -> None:
    options = {"a": [Option(3.0, 1.0, 0), Option(7.0, 0.5, 1)], "b": [Option(4.0, 0.25, 0)]}
    with pytest.raises(PassRefused, match=r"budget.*got 6; expected at least 7"):
        least_error(options, 6.0)
    with pytest.raises(PassRefused, match=r"tolerance.*got 0\.5; expected at least 0\.75"):
        least_cost(options, 0.5)


# -- densities -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6), st.floats(0.06, 1.0), st.integers(0, 9))
def test_kept_weights_add_up_to_the_budget(extents: list[int], keep: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {f"w{i}": extent for i, extent in enumerate(extents)}
    curves = {
        name: curve(10 ** rng.uniform(-4, 0), rng.uniform(2, 10), (0.0, 0.1, 0.3, 0.7)) for name in sizes
    }
    shares = densities(curves, sizes, keep)
    kept = {name: share * sizes[name] for name, share in shares.items()}
    assert kept.keys() == sizes.keys()
    assert all(
        count == pytest.approx(round(count)) and 0 <= count <= sizes[name] for name, count in kept.items()
    )
    assert sum(map(round, kept.values())) == round(keep * sum(extents))


def test_weights_left_over_go_where_each_of_them_helps_most() -> None:
    """``full`` has room for one weight more, worth 0.5; ten more of ``steep`` are worth 1 together."""
    curves = {"flat": Curve((0.0, 1.0), (1.0, 1.0)), "full": Curve((0.9, 1.0), (0.5, 0.0))}
    curves["steep"] = Curve((0.1, 0.11, 1.0), (2.0, 1.0, 0.0))
    kept = {"flat": 100, "full": 9, "steep": 100}
    allocation._spend(kept, curves, {"flat": 1000, "full": 10, "steep": 1000}, budget=219)
    assert kept == {"flat": 100, "full": 10, "steep": 109}


def test_no_density_below_the_lowest_measured_is_chosen() -> None:
    curves, sizes = {"a": Curve((0.1, 1.0), (1.0, 0.0))}, {"a": 15}
    assert densities(curves, sizes, 2 / 15) == {"a": 2 / 15}
    with pytest.raises(PassRefused, match=r"expected at least 0\.1333"):
        densities(curves, sizes, 1 / 15)


def test_the_sensitive_layer_keeps_more() -> None:
    """With error a exp(-r d) and equal sizes, equal slopes: the densities differ by log(a1 / a2) / r."""
    curves = {"tough": curve(0.01, 8.0), "tender": curve(0.04, 8.0)}
    shares = densities(curves, {"tough": 10_000, "tender": 10_000}, 0.4)
    assert shares["tender"] - shares["tough"] == pytest.approx(np.log(4) / 8, abs=0.02)


def test_a_curve_goes_through_what_was_measured_and_never_rises() -> None:
    measured = Curve((0.1, 0.2, 0.4, 0.6), (1.0, 0.3, 0.5, 0.01))
    fine = measured.at(np.linspace(0.1, 1.0, 500))
    assert measured.at(np.array([0.1, 0.2, 0.4, 0.6, 1.0])) == pytest.approx(
        [1.0, 0.3, 0.3, 0.01, 0.0], abs=1e-12
    )
    assert np.all(np.diff(fine) <= 0)
    halfway = float(measured.at(np.array([0.8]))[0])
    assert halfway == pytest.approx(0.01 / 8, rel=0.5)


def test_flat_and_single_point_curves_have_values() -> None:
    assert Curve((0.5,), (0.0,)).at(np.array([0.5, 1.0])) == pytest.approx(0, abs=1e-12)
    assert Curve((1.0,), (0.25,)).at(np.array([1.0])).tolist() == [0.25]


def test_a_share_below_every_measurement_is_refused() -> None:
    curves = {"a": curve(1.0, 5.0), "b": curve(1.0, 5.0)}
    with pytest.raises(PassRefused, match=r"a share of 0\.01; expected at least 0\.05"):
        densities(curves, {"a": 1000, "b": 1000}, 0.01)
