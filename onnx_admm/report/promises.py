"""A promise about a result: what was required, what was measured, whether it is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx_admm.errors import BudgetExceeded, PromiseMissed


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One promise and whether it is met.

    Attributes:
        name: ``max_drop``, ``min_ratio``, ``budget``, ``min_runtime``, ``latency``, ``size``, ``sqnr_db``,
            ``agreement``, ``elements`` or ``shape``.
        what: the sentence of its miss, without figures.
        required: the bound; None where ``what`` states it.
        got: measured value, in the same unit; None where ``what`` states it.
        unit: unit of both.
        bound: allowed side of ``required``.
        met: whether it holds.
        stated: whether the user stated it; else it is a default.
        hint: advice for a miss.
    """

    name: str
    what: str
    required: float | None = None
    got: float | None = None
    unit: str = ""
    bound: Literal["at least", "at most"] = "at least"
    met: bool
    stated: bool
    hint: str | None = None

    def error(self, hint: str | None = None) -> PromiseMissed:
        """Return the miss as an error; ``hint`` comes after the promise's own."""
        kind = BudgetExceeded if self.stated else PromiseMissed
        return kind(
            self.what,
            got=None if self.got is None else f"{_figure(self.got)} {self.unit}",
            expected=None if self.required is None else f"{self.bound} {_figure(self.required)}",
            hint=" ".join(part for part in (self.hint, hint) if part) or None,
        )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
