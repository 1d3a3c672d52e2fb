"""Budgets by quantity: ``latency=0.5x`` as a share of the dense model's cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from onnx_admm.contracts import QUANTITY_OF, CompressionOption, Cost, CostModel, LayerProfile
from onnx_admm.errors import UsageError
from onnx_admm.settings.amounts import number_before_x
from onnx_admm.settings.tables import did_you_mean

_LEAST_SHARE = Decimal("1e-9")

WEIGHTS = "weights"
"""Nonzeros: a quantity that needs no cost model."""


def parse_budgets(texts: Iterable[str], where: str = "--budget") -> dict[str, float]:
    """Return budgets such as ``["latency=0.5x", "size=20x"]`` as shares, 0.5 and 0.05, by quantity.

    Below 1 is a share and above 1 a factor: ``0.05x`` and ``20x`` are the same.

    Raises:
        UsageError: not of that form, an unknown quantity, or one that is named twice.
    """
    budgets: dict[str, float] = {}
    for text in texts:
        quantity, equals, amount = (part.strip() for part in text.partition("="))
        quantity = short_name(quantity)
        if not equals or (number_before_x(amount) is None and not amount.endswith("%")):
            raise UsageError("not a budget", where=where, got=repr(text), expected="such as latency=0.5x")
        require_quantity(quantity, where)
        if quantity in budgets:
            raise UsageError("two budgets for one quantity", where=where, got=quantity)
        budgets[quantity] = _share(amount, text, where)
    return budgets


def short_name(quantity: str) -> str:
    """Return the name of a quantity in commands: ``latency`` for ``latency_s``; other names unchanged."""
    return next((name for name, field in QUANTITY_OF.items() if field == quantity), quantity)


def require_quantity(quantity: str, where: str) -> None:
    """Refuse a quantity that no cost has.

    Raises:
        UsageError: names the known ones and the nearest.
    """
    known = (*QUANTITY_OF, WEIGHTS)
    if quantity not in known:
        raise UsageError(
            f"unknown quantity '{quantity}'",
            where=where,
            expected=f"one of {', '.join(known)}",
            hint=did_you_mean(quantity, known),
        )


def amount(quantity: str, cost: Cost, layer: LayerProfile, option: CompressionOption) -> float:
    """Return the amount of a budget that a priced row takes.

    Raises:
        UsageError: the cost model does not give a quantity that it lists.
    """
    if quantity == WEIGHTS:
        return option.density * layer.parameters
    value: float | None = getattr(cost, QUANTITY_OF[quantity])
    if value is None:
        raise UsageError(
            "the cost model gives no such quantity for this node", where=layer.node, got=quantity
        )
    return value


def require_given(budgets: Mapping[str, float], cost_model: CostModel, where: str) -> None:
    """Refuse a budget for a quantity that the cost model does not give.

    Raises:
        UsageError: lists the quantities that it gives.
    """
    for quantity in budgets:
        require_quantity(quantity, where)
        if quantity != WEIGHTS and QUANTITY_OF[quantity] not in cost_model.quantities:
            given = [name for name, field in QUANTITY_OF.items() if field in cost_model.quantities]
            raise UsageError(
                f"the cost model '{cost_model.name}' does not give that quantity",
                where=where,
                got=quantity,
                expected=f"one of {', '.join([*given, WEIGHTS])}",
                hint="`onnx-admm plugins` lists the cost models.",
            )


def _share(amount: str, text: str, where: str) -> float:
    percent = amount.endswith("%")
    try:
        number = Decimal(number_before_x(amount) or amount.removesuffix("%")) / (100 if percent else 1)
    except ArithmeticError:
        number = Decimal(0)
    most = 1 if percent else 1 / _LEAST_SHARE
    if not number.is_finite() or not _LEAST_SHARE <= number <= most or number == 1:
        expected = "a share below 1x (latency=0.5x) or how many times less (size=20x)"
        raise UsageError("impossible budget", where=where, got=repr(text), expected=expected)
    return float(number if number < 1 else 1 / number)
