"""Budgets on a target: planted optima, restoring to dense, rounds of the search, and their sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_admm.allocation.allocation import Curve, Surface, least_error_within
from onnx_admm.allocation.knapsack import GAP
from onnx_admm.contracts import CompressionOption, Cost, LayerProfile
from onnx_admm.errors import BudgetExceeded, PassRefused, UsageError
from onnx_admm.pricing.pricing import price_layers
from onnx_admm.targeting.quantities import parse_budgets, require_given
from onnx_admm.targeting.reasons import by_operator, explain
from onnx_admm.targeting.search import CandidateResult, not_reachable, search
from onnx_admm.targeting.search_space import SearchSpace, build_search_space


@dataclass(frozen=True)
class Macs:
    """Nonzero MACs, times bits."""

    name: ClassVar[str] = "test-macs"
    assumes: ClassVar[str] = "zeros are skipped"
    quantities: ClassVar[tuple[str, ...]] = ("macs", "mac_bits")

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        macs = layer.known_macs() * (option.density if layer.weight else 1.0)
        return Cost(macs=macs, mac_bits=macs * option.bits)


@dataclass(frozen=True)
class Accelerator:
    """Zeros pay above a pruning ratio of two: latency = 2 x density, dense: 1; in units of MACs."""

    name: ClassVar[str] = "test-accelerator"
    assumes: ClassVar[str] = "a sparse engine of half the speed"
    quantities: ClassVar[tuple[str, ...]] = ("latency_s",)

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        slowness = 1.0 if option.density == 1 or not layer.weight else 2 * option.density
        return Cost(latency_s=layer.known_macs() * slowness * 1e-9)


@dataclass(frozen=True)
class Flat:
    """Time goes by bits alone: zeros save none of it."""

    name: ClassVar[str] = "test-flat"
    assumes: ClassVar[str] = "zeros are multiplied like any other weight"
    quantities: ClassVar[tuple[str, ...]] = ("latency_s",)

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        return Cost(latency_s=layer.known_macs() * (1.0 if option.bits > 8 else 0.6) * 1e-9)


def layer(name: str, macs: int, size: int = 1000, op_type: str = "Conv") -> LayerProfile:
    return LayerProfile(
        node=name,
        op_type=op_type,
        weight=name,
        weight_shape=(size,),
        parameters=size,
        nonzeros=size,
        macs=macs,
    )


def surface(scale: float, bits: Mapping[int, float] | None = None) -> Surface:
    """Relative error falling tenfold for each third of the weights that is kept, and what levels add."""
    at = (0.01, 0.05, 0.1, 0.2, 0.4, 0.7)
    pruned = Curve(at, tuple(scale * 10 ** (-3 * density) for density in at))
    return Surface(pruned, {width: Curve((1.0,), (added,)) for width, added in (bits or {}).items()})


def search_space(
    layers: list[LayerProfile],
    cost_model: object,
    budgets: dict[str, float],
    surfaces: dict[str, Surface],
) -> SearchSpace:
    return build_search_space(
        layers,
        cost_model,  # type: ignore[arg-type]
        budgets,
        surfaces,
        original=price_layers(layers, cost_model),  # type: ignore[arg-type]
        least_density=0.01,
    )


def chosen(found: SearchSpace, shares: tuple[float, ...] | None = None) -> dict[str, CompressionOption]:
    shares = tuple(found.budgets.values()) if shares is None else shares
    return found.options(found.choose(shares, dict.fromkeys(found.candidates, 1.0)))


# -- several budgets at once -----------------------------------------------------------------

rows = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4), st.floats(0.05, 1), st.floats(0.05, 1))
def test_two_budgets_at_once_against_trying_everything(
    layers: list[list[tuple[float, float, float]]], first: float, second: float
) -> None:
    errors = {str(i): np.array([row[0] for row in each]) for i, each in enumerate(layers)}
    costs = {str(i): np.array([row[1:] for row in each]) for i, each in enumerate(layers)}
    limits = np.array([first, second]) * sum(cost.max(axis=0) for cost in costs.values()) + 1e-9
    best = math.inf
    for pick in itertools.product(*(range(len(each)) for each in layers)):
        total = sum(costs[str(i)][index] for i, index in enumerate(pick))
        if (total <= limits * (1 - 1e-5)).all():
            best = min(best, sum(errors[str(i)][index] for i, index in enumerate(pick)))
    try:
        found = least_error_within(errors, costs, [float(limit) for limit in limits])
    except PassRefused:
        assert best == math.inf
        return
    total = sum(costs[name][index] for name, index in found.items())
    assert (total <= limits * (1 + 1e-9)).all()
    assert sum(errors[name][index] for name, index in found.items()) <= best * (1 + 2 * GAP) + 1e-9


# -- flags -----------------------------------------------------------------------------------


def test_a_share_and_how_many_times_less_are_the_same() -> None:
    assert parse_budgets(["latency=0.5x", "size=20x"]) == {"latency": 0.5, "size": 0.05}
    assert parse_budgets(["latency=2x"]) == parse_budgets(["latency=0.5x"])


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["latency"], "not a budget; got 'latency'; expected such as latency=0.5x"),
        (["latency=0.5"], "not a budget"),
        (["latncy=0.5x"], "Did you mean 'latency'"),
        (["latency=1x"], "impossible budget"),
        (["latency=0x"], "impossible budget"),
        (["latency=nanx"], "impossible budget"),
        (["size=2x", "size=3x"], "two budgets for one quantity"),
    ],
)
def test_what_is_no_budget(texts: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_budgets(texts)


def test_a_quantity_the_cost_model_does_not_tell() -> None:
    with pytest.raises(
        UsageError, match="'test-macs' does not give that quantity; got latency; expected one of macs"
    ):
        require_given({"latency": 0.5}, Macs(), "--budget")
    require_given({"weights": 0.5, "macbits": 0.1}, Macs(), "--budget")


# -- what is chosen --------------------------------------------------------------------------


def test_work_is_saved_where_it_is_spent_and_bytes_where_they_lie() -> None:
    """Computation before storage is what the prices say: nobody tells a convolution from a Gemm."""
    layers = [layer("conv", macs=100_000, size=1000), layer("fc", macs=5_000, size=5000, op_type="Gemm")]
    surfaces = {"conv": surface(1.0), "fc": surface(1.0)}
    by_work = chosen(search_space(layers, Macs(), {"macs": 0.3}, surfaces))
    by_weights = chosen(search_space(layers, Macs(), {"weights": 0.3}, surfaces))
    assert by_work["conv"].density < 0.31 < 2 * by_work["conv"].density < by_work["fc"].density
    assert by_weights["fc"].density < by_weights["conv"].density


def test_a_planted_optimum_over_density_and_bits() -> None:
    """One layer tolerates zeros and no levels, the other levels and no zeros."""
    layers = [layer("zeros", macs=1000), layer("levels", macs=1000)]
    surfaces = {"zeros": surface(1e-6, {4: 10.0}), "levels": surface(10.0, {4: 1e-6})}
    found = chosen(search_space(layers, Macs(), {"macbits": 0.1}, surfaces))
    assert found["zeros"].bits == 32
    assert found["zeros"].density < 0.1
    assert found["levels"] == CompressionOption(1.0, 4)


def test_weights_and_work_are_limits_together() -> None:
    layers = [layer("conv", macs=100_000, size=1000), layer("fc", macs=5_000, size=5000, op_type="Gemm")]
    both = search_space(
        layers, Macs(), {"macs": 0.3, "weights": 0.2}, {"conv": surface(1.0), "fc": surface(1.0)}
    )
    choice = both.choose((0.3, 0.2), dict.fromkeys(both.candidates, 1.0))
    cost = both.cost(choice)
    assert cost[0] <= 0.3
    assert 0.17 < cost[1] <= 0.2


def test_a_layer_under_its_break_even_ratio_goes_back_to_dense() -> None:
    """A split by MACs prunes the sensitive layer under its break-even ratio; the target leaves it dense."""
    layers = [layer("sensitive", macs=1000), layer("robust", macs=4000)]
    surfaces = {"sensitive": surface(0.3), "robust": surface(0.1)}
    by_macs = chosen(search_space(layers, Macs(), {"macs": 0.5}, surfaces))
    assert 0.5 < by_macs["sensitive"].density < 1  # under the break-even ratio of 2
    target = search_space(layers, Accelerator(), {"latency": 0.5}, surfaces)
    treated = chosen(target)
    assert treated["sensitive"] == CompressionOption()
    assert treated["robust"].density < 0.2
    assert target.candidates["sensitive"].break_even(32) == pytest.approx(2, rel=0.01)
    assert target.candidates["sensitive"].dominated > 0
    assert len(target.candidates) == 2
    for candidates in target.candidates.values():
        assert candidates.options
        assert all(each.density == 1 or each.density < 0.5 for each in candidates.options)


def test_zeros_are_never_chosen_where_they_save_no_time() -> None:
    layers = [layer("a", macs=1000), layer("b", macs=2000), layer("plain", macs=100)]
    surfaces = {name: surface(0.0, {8: 1e-3}) for name in ("a", "b")}
    flat = search_space(layers, Flat(), {"latency": 0.8}, surfaces)
    treated = chosen(flat)
    assert {each.density for each in treated.values()} == {1.0}
    assert any(each.bits == 8 for each in treated.values())
    assert flat.never() == ("latency",)
    choice = flat.choose((0.8,), dict.fromkeys(flat.candidates, 1.0))
    whys = [row["why"] for row in explain(flat, choice).values()]
    assert len(whys) == 2
    assert all("zeros never pay here on 'test-flat'" in why for why in whys)


def test_a_budget_that_no_option_reaches_says_why() -> None:
    flat = search_space([layer("a", macs=1000)], Flat(), {"latency": 0.3}, {"a": surface(0.1, {8: 1e-3})})
    with pytest.raises(BudgetExceeded, match="zeros save no latency") as caught:
        chosen(flat)
    assert "got latency=0.3x; expected at least latency=0.6x" in str(caught.value)
    assert caught.value.exit_code == 3


def test_what_a_total_adds_to_its_rows_is_paid_for() -> None:
    @dataclass(frozen=True)
    class WithACall(Macs):
        @property
        def composition(self) -> str:
            return "the sum of the rows and 500 for the call"

        def compose(self, rows: list[Cost]) -> Cost:
            return Cost(macs=500 + sum(row.macs or 0 for row in rows), mac_bits=0.0)

    found = search_space([layer("a", macs=1000)], WithACall(), {"macs": 0.5}, {"a": surface(1.0)})
    assert found.fixed == (pytest.approx(1 / 3),)
    assert chosen(found)["a"].density == pytest.approx(0.25, rel=0.1)
    with pytest.raises(BudgetExceeded, match=r"expected at least macs=0\.34"):
        chosen(found, (0.3,))


def test_limits_are_drawn_in_where_the_whole_costs_more_than_its_rows() -> None:
    @dataclass(frozen=True)
    class Congested(Macs):
        @property
        def composition(self) -> str:
            return "the root of a thousand times the sum of the rows"

        def compose(self, rows: list[Cost]) -> Cost:
            return Cost(macs=(1000 * sum(row.macs or 0 for row in rows)) ** 0.5, mac_bits=0.0)

    found = search_space([layer("a", macs=1000)], Congested(), {"macs": 0.5}, {"a": surface(1.0)})
    assert chosen(found)["a"].density == pytest.approx(0.25, rel=0.1)
    assert found.cost(found.choose((0.5,), {"a": 1.0}))[0] <= 0.5


def test_the_reasons_name_the_alternatives_and_their_prices() -> None:
    layers = [layer("conv", macs=100_000), layer("fc", macs=5_000, size=5000, op_type="Gemm")]
    found = search_space(layers, Macs(), {"macs": 0.3}, {"conv": surface(1.0), "fc": surface(1.0)})
    choice = found.choose((0.3,), dict.fromkeys(found.candidates, 1.0))
    row = explain(found, choice)["conv"]
    assert row["cost"]["macs"] == pytest.approx(100_000 * row["density"])
    assert row["dense_cost"] == {"macs": pytest.approx(100_000)}
    assert row["alternatives"][0]["density"] == 1.0
    assert len(row["alternatives"]) == 3
    assert "pruned 3" in row["why"]
    assert "less relative error" in row["why"]
    assert "the marginal cost is" in row["why"]
    before, after = by_operator(found, choice)["Conv"]["macs"]
    assert after / before == pytest.approx(row["density"])


# -- rounds ----------------------------------------------------------------------------------


def two_layers(budget: float) -> SearchSpace:
    layers = [layer("first", macs=1000), layer("second", macs=1000)]
    return search_space(layers, Macs(), {"macs": budget}, {"first": surface(1.0), "second": surface(1.0)})


def test_one_round_where_the_accuracy_holds_or_nobody_asked() -> None:
    for max_drop, drop in ((0.5, 0.4), (None, None)):
        found = search(
            two_layers(0.3), lambda _, d=drop: CandidateResult("model", d), max_drop=max_drop, most_rounds=8
        )
        assert (found.result, found.is_met, len(found.rounds)) == ("model", True, 1)
        assert not_reachable(two_layers(0.3), found, max_drop) is None


def test_what_was_measured_among_the_others_moves_the_split() -> None:
    """The first layer is more sensitive than it was alone: only keeping more of it holds the accuracy."""
    asked = two_layers(0.3)

    def attempt(choice: Mapping[str, int]) -> CandidateResult[str]:
        kept = {name: asked.candidates[name].options[index].density for name, index in choice.items()}
        alone = {name: float(asked.candidates[name].relative_errors[index]) for name, index in choice.items()}
        recovered = {"first": 4 * alone["first"], "second": alone["second"] / 4}
        return CandidateResult(
            "good" if kept["first"] > 0.4 else "bad", 0.1 if kept["first"] > 0.4 else 3.0, recovered
        )

    found = search(asked, attempt, max_drop=0.5, most_rounds=8)
    assert found.is_met
    assert found.result == "good"
    assert len(found.rounds) == 2
    assert found.rounds[1].cost[0] <= 0.3


def test_out_of_reach_the_best_found_is_near_the_least_the_accuracy_allows() -> None:
    """Planted: the drop is a point for each tenth of the work that is saved; four points allow 0.6."""
    asked = two_layers(0.3)

    def attempt(choice: Mapping[str, int]) -> CandidateResult[float]:
        left = asked.cost(choice)[0]
        return CandidateResult(left, 10 * (1 - left))

    found = search(asked, attempt, max_drop=4.0, most_rounds=12)
    assert not found.is_met
    assert found.result == pytest.approx(0.6, abs=0.03)
    assert found.best is not None
    assert found.best.drop is not None
    assert found.best.drop <= 4.0
    sentence = not_reachable(asked, found, 4.0)
    assert sentence is not None
    assert sentence.startswith("macs=0.3x within a drop of 4 points is not reachable: the best found after")
    assert f"is macs={found.best.cost[0]:.4g}x at a drop of" in sentence


def test_where_every_round_loses_too_much_the_model_stays() -> None:
    found = search(two_layers(0.3), lambda _: CandidateResult("model", 50.0), max_drop=0.5, most_rounds=4)
    assert found.result is None
    assert not found.is_met
    assert len(found.rounds) <= 4
    sentence = not_reachable(two_layers(0.3), found, 0.5)
    assert sentence is not None
    assert "is the original model; the result of least drop lost 50.00 points" in sentence
