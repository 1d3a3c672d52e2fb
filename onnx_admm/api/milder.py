"""Repeats a bare command whose result misses its promise, with milder rounding, then without integers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Pass
from onnx_admm.errors import OutputError
from onnx_admm.report.promises import Promise

TRIES = 4
"""Runs of the passes, at most: each takes as long as the first."""

MILDER = "The layers were rounded less"
"""Beginning of the note."""

_INTEGERS = "quantize_activations"
_SEARCHING = frozenset({"auto_quantize", _INTEGERS})
_BOUNDS = ("least_sqnr_db", "blind_sqnr_db")
_ABOUT_OUTPUTS = frozenset({"sqnr_db", "agreement", "elements", "shape"})
_LEAST_STEP_DB, _LARGEST_STEP_DB, _BEYOND_DB, _MOST_DB = 6.0, 20.0, 3.0, 90.0


def next_try(
    first: Recipe, recipe: Recipe, missed: Promise | OutputError | None, tries: int
) -> tuple[Recipe, str] | None:
    """Return the recipe of the next run and the note about it; None where there is none.

    The first miss asks for milder rounding of weights and activations; if that misses too, activations stay
    in float, and weights are rounded as at first. Activations stay in float at once where the result with
    integers fails to run or to be compared.

    Args:
        first: the recipe of the first run.
        recipe: the recipe that was run.
        missed: the promise that was not met, or why the result cannot be compared.
        tries: runs so far.
    """
    if missed is None or tries == TRIES:
        return None
    if isinstance(missed, OutputError):
        floats = without_integers(recipe)
        return None if floats is None else (floats, float_note(missed))
    has_integers = without_integers(recipe) is not None
    if tries > 1 and has_integers and _is_about_outputs(missed):
        floats = without_integers(first)
        return None if floats is None else (floats, float_note(f"{missed.what}."))
    milder = milder_recipe(recipe, missed)
    return None if milder is None else (milder, milder_note(missed))


def without_integers(recipe: Recipe) -> Recipe | None:
    """Return the same passes with activations in float; None where they are already."""
    passes = tuple(step for step in recipe.passes if step.name != _INTEGERS)
    return replace(recipe, passes=passes) if len(passes) < len(recipe.passes) else None


def float_note(reason: object) -> str:
    """Return the note that integer activations were given up."""
    return f"Activations stay in float: with integers, {reason}"


def milder_recipe(recipe: Recipe, missed: Promise | None) -> Recipe | None:
    """Return the same passes with a higher required signal-to-noise ratio: by the gap and 3 dB.

    Args:
        recipe: the recipe that was run.
        missed: the promise that was not met.

    Returns:
        None where nothing was missed, the promise is not about outputs, or no pass searches roundings.
    """
    if missed is None or not _is_about_outputs(missed):
        return None
    step_db = _LEAST_STEP_DB
    if missed.name == "sqnr_db" and missed.required is not None and missed.got is not None:
        step_db = min(max(missed.required - missed.got + _BEYOND_DB, _LEAST_STEP_DB), _LARGEST_STEP_DB)
    passes = tuple(_closer(step, step_db) for step in recipe.passes)
    return replace(recipe, passes=passes) if passes != recipe.passes else None


def milder_note(missed: Promise) -> str:
    """Return the note that layers were rounded less than their measurements allowed."""
    return f"{MILDER}: the result as a whole missed a promise ({missed.what})."


def _is_about_outputs(missed: Promise) -> bool:
    return not missed.stated and missed.name in _ABOUT_OUTPUTS


def _closer(step: Pass, step_db: float) -> Pass:
    keys = {entry.name for entry in fields(step)}  # type: ignore[arg-type]
    if step.name not in _SEARCHING or not keys.issuperset(_BOUNDS):
        return step
    bounds: dict[str, Any] = {key: min(getattr(step, key) + step_db, _MOST_DB) for key in _BOUNDS}
    return replace(step, **bounds)  # type: ignore[type-var]
