"""The built-in gradient rules, one module for each family of operators."""

from __future__ import annotations

import importlib

_FAMILIES = (
    "activations",
    "convolutions",
    "elementwise",
    "indexing",
    "normalisation",
    "padding",
    "pooling",
    "products",
    "recurrence.gates",
    "reductions",
    "reshaping",
    "resizing",
    "rounding",
)


def load() -> None:
    """Import every family, which registers its rules."""
    for family in _FAMILIES:
        importlib.import_module(f"{__name__}.{family}")
