"""Pruning budgets: one number for the whole model, one for each layer, or a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from onnx_admm.contracts import ModelView, WeightSite
from onnx_admm.errors import PassRefused
from onnx_admm.selection.layers import PerLayer, choose_layers
from onnx_admm.settings import ranges

_KEYS = ("ratio", "keep", "pattern", "layers")


class Budgeted(Protocol):
    """Budget of a pruning pass; exactly one of the first four.

    Attributes:
        ratio: weights over nonzeros, over all layers.
        keep: share of nonzeros, 0 to 1, over all layers.
        pattern: ``"2:4"``: at most 2 nonzeros in 4 consecutive weights along the input channels.
        layers: share of nonzeros by layer.
        include, exclude: patterns of layer names or operators.
    """

    @property
    def ratio(self) -> float | None:
        """Weights over nonzeros, over all layers."""

    @property
    def keep(self) -> float | None:
        """Share of nonzeros, 0 to 1, over all layers."""

    @property
    def pattern(self) -> str | None:
        """N:M along the input channels."""

    @property
    def layers(self) -> PerLayer | None:
        """Share of nonzeros by layer."""

    @property
    def include(self) -> tuple[str, ...]:
        """Patterns of layers to work on."""

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of layers to leave."""


def given_budgets(asked: Budgeted) -> list[str]:
    """Return the keys of the budgets that are stated.

    Raises:
        PassRefused: more than one, or an impossible one.
    """
    given = [key for key in _KEYS if getattr(asked, key) is not None]
    if len(given) > 1:
        raise PassRefused("no single budget", got=", ".join(given), expected=f"one of {', '.join(_KEYS)}")
    if asked.ratio is not None and not asked.ratio >= 1:
        raise PassRefused("impossible pruning ratio", got=asked.ratio, expected="1 or more")
    if asked.keep is not None and not 0 < asked.keep <= 1:
        raise PassRefused("impossible share to keep", got=asked.keep, expected="above 0, at most 1")
    if asked.pattern is not None:
        parse_pattern(asked.pattern)
    return given


def require_budget(asked: Budgeted) -> None:
    """Refuse none, more than one, or an impossible budget.

    Raises:
        PassRefused: says which.
    """
    if not given_budgets(asked):
        raise PassRefused("no single budget", got="none", expected=f"exactly one of {', '.join(_KEYS)}")


def global_density(asked: Budgeted, sites: Sequence[WeightSite], reference: ModelView) -> float:
    """Return the share of the weights of ``sites`` that ``ratio`` or ``keep`` leaves.

    The budget counts the weights of the reference: what earlier passes removed stays removed.
    """
    density = asked.keep if asked.keep is not None else 1.0 / (asked.ratio or 1.0)
    original, _ = choose_layers(reference, asked.include, asked.exclude)
    here = sum(site.size for site in sites)
    total = max(sum(site.size for site in original), here)
    if not density * total >= 1:
        raise PassRefused(
            "not a single weight would be kept",
            got=f"a share of {density:g} of {total} weights",
            expected=f"a pruning ratio of at most {total}",
        )
    return min(1.0, density * total / here)


def parse_pattern(pattern: str) -> tuple[int, int]:
    """Return ``"2:4"`` as (2, 4).

    Raises:
        PassRefused: not N:M with 0 < N < M.
    """
    found = ranges.parse_pattern(pattern)
    if found is None:
        raise PassRefused(
            "impossible pattern", where="pattern", got=pattern, expected="N:M with 0 < N < M, such as 2:4"
        )
    return found
