"""Promises of budgets and of the oldest runtime: what was requested and what was reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model
from onnx_admm.model.runtimes import parse_runtime
from onnx_admm.pipeline import PipelineResult
from onnx_admm.report import ModelFacts, Promise

_LATENCY = "latency"
_ROUNDING = 1e-6


def budget_promises(result: PipelineResult) -> tuple[Promise, ...]:
    """Return the promises of budgets: those that passes report as missed, then all with figures."""
    sentences = (step.report.unmet for step in result.reports)
    missed = [
        Promise(name="budget", what=sentence, met=False, stated=True)
        for sentence in sentences
        if sentence is not None
    ]
    return (*missed, *(_promise(quantity, row) for quantity, row in _budgets(result)))


def runtime_promises(after: ModelFacts, version: str | None) -> tuple[Promise, ...]:
    """Return the promises that the oldest runtime named loads the opset and the IR version of the result."""
    if version is None:
        return ()
    runtime = parse_runtime(version, "min_runtime")
    return tuple(
        Promise(
            name="min_runtime",
            what=f"{runtime} does not load the result's {what}",
            required=most,
            got=got,
            unit=f"({what})",
            bound="at most",
            met=got <= most,
            stated=True,
        )
        for what, got, most in (
            ("opset", after.opset, runtime.opset),
            ("IR version", after.ir_version, runtime.ir_version),
        )
    )


def asks_speed_here(result: PipelineResult, recipe: Recipe) -> bool:
    """Return whether a budget limits the latency on this machine, which the cost model times."""
    if recipe.cost_model is None or not any(quantity == _LATENCY for quantity, _ in _budgets(result)):
        return False
    return bool(getattr(cost_model(recipe.cost_model), "is_this_machine", False))


def _promise(quantity: str, row: Mapping[str, float]) -> Promise:
    return Promise(
        name="budget",
        what=f"the budget for {quantity} is not met",
        required=row["asked"],
        got=row["reached"],
        unit="of the original's cost",
        bound="at most",
        met=row["reached"] <= row["asked"] * (1 + _ROUNDING),
        stated=True,
    )


def _budgets(result: PipelineResult) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the budgets that passes report, with requested and reached figures."""
    for step in result.reports:
        found = step.report.figures.get("budget")
        if isinstance(found, Mapping):
            for quantity, row in found.items():
                if isinstance(row, Mapping) and {"asked", "reached"} <= row.keys():
                    yield quantity, row
