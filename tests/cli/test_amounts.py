"""Amounts as users write them: percentages, factors, several bindings at once, both names of a quantity."""

from __future__ import annotations

from typing import Any

import pytest

from onnx_admm.cli.target import parse_bindings
from onnx_admm.config.flags import parse_prune
from onnx_admm.config.registry import cost_model
from onnx_admm.errors import RecipeError, UsageError
from onnx_admm.pricing.pricing import chosen_quantity
from onnx_admm.settings.amounts import parse_points, parse_share, parse_times
from onnx_admm.targeting.quantities import parse_budgets


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("90%", {"keep": 0.1}),
        (" 90 % ", {"keep": 0.1}),
        ("99.5%", {"keep": 0.005}),
        ("10X", {"ratio": 10}),
        ("10 x", {"ratio": 10}),
        ("0.9", {"keep": 0.1}),
        ("2:4 ", {"pattern": "2:4"}),
    ],
)
def test_pruning_targets(text: str, keys: dict[str, Any]) -> None:
    assert parse_prune(text) == keys


@pytest.mark.parametrize("text", ["100%", "0%", "%", "x", "1X", "-5%", "90%x", "nan%", "10", "150%"])
def test_impossible_pruning_targets(text: str) -> None:
    with pytest.raises(RecipeError, match="impossible pruning target"):
        parse_prune(text)


def test_points_factors_and_shares() -> None:
    assert [parse_points(text, "--max-drop") for text in ("0.5", "0.5%", " 0.5 % ")] == [0.5] * 3
    assert [parse_times(text, "--min-ratio") for text in ("20", "20x", "20X", "20 x")] == [20] * 4
    assert [parse_share(text, "--shares") for text in ("0.2", "20%", "0.2x")] == [0.2] * 3


@pytest.mark.parametrize("parse", [parse_points, parse_times, parse_share])
@pytest.mark.parametrize("text", ["", "half", "nan", "inf", "%", "x", "1e999"])
def test_what_is_no_number_is_refused(parse: Any, text: str) -> None:
    with pytest.raises(UsageError, match="--flag: not a number; got"):
        parse(text, "--flag")


def test_budgets_as_percentages_and_by_both_names() -> None:
    assert parse_budgets(["latency_s=50%", "bytes=20X"]) == {"latency": 0.5, "size": 0.05}
    with pytest.raises(UsageError, match="two budgets for one quantity"):
        parse_budgets(["latency_s=50%", "latency=0.5x"])
    with pytest.raises(UsageError, match="impossible budget"):
        parse_budgets(["latency=200%"])


def test_a_quantity_has_two_names() -> None:
    macs = cost_model("macs")
    assert chosen_quantity(macs, "macbits") == chosen_quantity(macs, "mac_bits") == "mac_bits"


def test_several_bindings_in_one_flag() -> None:
    assert parse_bindings(["N=1,x[1]=160", "T=8"]) == {"N": 1, "x[1]": 160, "T": 8}
    assert parse_bindings(["a,b=3,N=1"]) == {"a,b": 3, "N": 1}
    for text in ("N=1,", "N", "N=1,T"):
        with pytest.raises(UsageError, match="not a binding"):
            parse_bindings([text])
