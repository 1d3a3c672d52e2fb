"""Repeats a bare command whose result misses its promise, with milder rounding."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Pass
from onnx_admm.report.promises import Promise

TRIES = 3
"""Runs of the passes, at most: each takes as long as the first."""

MILDER = "The layers were rounded less"
"""Beginning of the note."""

_SEARCHING = "auto_quantize"
_BOUNDS = ("least_sqnr_db", "blind_sqnr_db")
_ABOUT_OUTPUTS = frozenset({"sqnr_db", "agreement", "elements", "shape"})
_LEAST_STEP_DB, _LARGEST_STEP_DB, _BEYOND_DB, _MOST_DB = 6.0, 20.0, 3.0, 90.0


def milder_recipe(recipe: Recipe, missed: Promise | None) -> Recipe | None:
    """Return the same passes with a higher required signal-to-noise ratio: by the gap and 3 dB.

    Args:
        recipe: the recipe that was run.
        missed: the promise that was not met.

    Returns:
        None where nothing was missed, the promise is not about outputs, or no pass searches roundings.
    """
    if missed is None or missed.stated or missed.name not in _ABOUT_OUTPUTS:
        return None
    step_db = _LEAST_STEP_DB
    if missed.name == "sqnr_db" and missed.required is not None and missed.got is not None:
        step_db = min(max(missed.required - missed.got + _BEYOND_DB, _LEAST_STEP_DB), _LARGEST_STEP_DB)
    passes = tuple(_closer(step, step_db) for step in recipe.passes)
    return replace(recipe, passes=passes) if passes != recipe.passes else None


def milder_note(missed: Promise, tries: int) -> str:
    """Return the note that layers were rounded less than their measurements allowed."""
    times = "once" if tries == 1 else f"{tries} times"
    return f"{MILDER}, {times}: the result as a whole missed a promise ({missed.what})."


def _closer(step: Pass, step_db: float) -> Pass:
    keys = {entry.name for entry in fields(step)}  # type: ignore[arg-type]
    if step.name != _SEARCHING or not keys.issuperset(_BOUNDS):
        return step
    bounds: dict[str, Any] = {key: min(getattr(step, key) + step_db, _MOST_DB) for key in _BOUNDS}
    return replace(step, **bounds)  # type: ignore[type-var]
