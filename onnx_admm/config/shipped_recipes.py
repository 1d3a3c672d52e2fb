"""Recipes shipped with the package, by name."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path
from typing import TypeVar

from onnx_admm.errors import RecipeError
from onnx_admm.settings.tables import did_you_mean

Given = TypeVar("Given")


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the shipped recipes, by name."""
    folder = Path(str(importlib.resources.files("onnx_admm.recipes")))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def recipe_file(given: Given) -> Given | Path:
    """Return the file of a recipe that is given by name; any other value is returned as it is.

    Args:
        given: a path, a name such as ``lenet5-85x``, a `Recipe`, or None.

    Raises:
        RecipeError: a bare name that no recipe has.
    """
    if not isinstance(given, str | os.PathLike):
        return given
    name = str(given)
    if Path(name).exists() or Path(name).suffix or os.sep in name or "/" in name:
        return given
    known = shipped_recipes()
    if name not in known:
        raise RecipeError(
            "no such recipe",
            got=name,
            expected=f"a TOML file, or one of {', '.join(known)}",
            hint=did_you_mean(name, known),
        )
    return known[name]
