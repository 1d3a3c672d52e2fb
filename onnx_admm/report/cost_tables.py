"""Terminal tables of a price list."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from onnx_admm.contracts import Cost
from onnx_admm.pricing.pricing import Unpriced
from onnx_admm.report.costs import CostFacts, CostRowFacts
from onnx_admm.report.plain_table import PlainTable, line

_TITLES = {
    "latency_s": "latency",
    "energy_j": "energy",
    "bytes": "bytes",
    "macs": "MACs",
    "mac_bits": "MACs x bits",
}
_UNITS = {"latency_s": "s", "energy_j": "J"}
_SCALES = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"))


def costs_view(facts: CostFacts) -> Iterator[RenderableType]:
    """Yield a table of layers, other nodes by operator, the total, and notes."""
    yield costs_table(facts)
    title = _TITLES[facts.quantity]
    yield line(f"Break-even ratios (weights over nonzeros), and factors if a weight were changed: {title}.")
    doubt = facts.total.uncertainty
    give_or_take = "" if doubt is None else f", uncertain by {100 * doubt:.0f} %"
    yield line(f"The total is {facts.composition}{give_or_take}; the costs are {facts.basis}.")
    yield line(f"'{facts.cost_model}' assumes: {facts.assumes}.")
    if facts.unpriced:
        yield line(f"Not priced, not in the total: {_unpriced(facts.unpriced)}.")


def costs_table(facts: CostFacts) -> PlainTable:
    """Return a table with a row for each weight and each operator without: costs, shares, gains.

    Ratios and gains are in one quantity; gains are factors on it.
    """
    scales = {name: _scale(facts, name) for name in facts.quantities}
    gains = list(dict.fromkeys(what for row in facts.rows for what in row.gains))
    table = PlainTable()
    table.add_column("layer", overflow="fold")
    table.add_column("op")
    for name, (_, unit) in scales.items():
        table.add_column(f"{_TITLES[name]}, {unit}" if unit else _TITLES[name], justify="right")
        table.add_column("%", justify="right")
    for title in ("break-even", *gains):
        table.add_column(title, justify="right")
    for row in facts.rows:
        if row.weight:
            quantities = _quantities([row], scales)
            factors = [_factor(row.cost, row.gains.get(what), facts.quantity) for what in gains]
            table.add_row(row.weight, row.op_type, *quantities, _ratio(row.break_even), *factors)
    for op_type, rows in _by_operator(facts):
        table.add_row(f"{len(rows)} without weights", op_type, *_quantities(rows, scales))
    total = [
        cell
        for name, (scale, _) in scales.items()
        for cell in (_number(getattr(facts.total, name), scale), "")
    ]
    table.add_row("all that is priced" if facts.unpriced else "all", "", *total, style="bold")
    return table


def _by_operator(facts: CostFacts) -> Iterator[tuple[str, list[CostRowFacts]]]:
    """Yield rows without weights that cost anything, by operator."""
    groups: dict[str, list[CostRowFacts]] = defaultdict(list)
    for row in facts.rows:
        if not row.weight and any(getattr(row.cost, name) for name in facts.quantities):
            groups[row.op_type].append(row)
    yield from groups.items()


def _quantities(rows: Sequence[CostRowFacts], scales: dict[str, tuple[float, str]]) -> list[str]:
    cells = []
    for name, (scale, _) in scales.items():
        shares = [row.shares[name] for row in rows]
        share = math.fsum(share for share in shares if share is not None)
        cells.append(_number(math.fsum(getattr(row.cost, name) for row in rows), scale))
        cells.append("" if None in shares else f"{100 * share:.1f}")
    return cells


def _scale(facts: CostFacts, name: str) -> tuple[float, str]:
    """Return the divisor of a quantity, and the resulting unit."""
    if name not in _UNITS:
        return 1.0, ""
    total = math.fsum(getattr(row.cost, name) for row in facts.rows)
    scale, prefix = next((entry for entry in _SCALES if total >= entry[0]), _SCALES[-1])
    return scale, prefix + _UNITS[name]


def _number(quantity: float | None, scale: float) -> str:
    if quantity is None:
        return "-"
    return f"{quantity:,.0f}" if scale == 1 and quantity >= 100 else f"{quantity / scale:,.4g}"


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return "never" if math.isinf(ratio) else f"{ratio:,.2f}x"


def _factor(cost: Cost, other: Cost | None, name: str) -> str:
    now = getattr(cost, name)
    return "" if other is None or not now else f"{getattr(other, name) / now:.2f}x"


def _unpriced(rows: Sequence[Unpriced]) -> str:
    groups: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        groups[row.op_type, row.why] += 1
    return "; ".join(f"{count} {op_type} ({why})" for (op_type, why), count in groups.items())
