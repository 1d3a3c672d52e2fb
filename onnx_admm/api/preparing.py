"""Preparation of a run: decisions about a model before any pass, with notes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.errors import UsageError
from onnx_admm.model.analysis.shapes import forget_wrong_shapes
from onnx_admm.report import ModelFacts

Stated: TypeAlias = tuple[int | str | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A prepared run: recipe, model and samples.

    Attributes:
        facts: facts of the original.
        notes: notes of the report on the preparation.
        frozen: inputs that callers can no longer override.
        teacher: the model whose outputs training learns, where it is another one.
        text: characters of an exporter's text that are left out.

    Example:
        >>> from onnx_admm.api import Compression, Plan
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> plan: Plan = Compression(threads=1).plan("net.onnx")
        >>> plan.facts.parameters, plan.train is None
        (324, True)
    """

    source: Path
    model: ModelView
    facts: ModelFacts
    recipe: Recipe
    train: Dataset | None
    validation: Dataset | None
    notes: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    teacher: ModelView | None = None
    text: int = 0


def trains(recipe: Recipe) -> bool:
    """Return whether a recipe trains where there is data: it may, and a pass has epochs."""
    return recipe.fine_tune and any(getattr(step, "epochs", 0) for step in recipe.passes)


def open_teacher(path: str | os.PathLike[str], model: ModelView) -> ModelView:
    """Return a teacher for a model.

    Raises:
        UsageError: its inputs or outputs have other names, types or shapes than the model's.
        OnnxAdmmError: see `ModelView.load`.
    """
    teacher = ModelView.load(path)
    asked, given = model.signature(), teacher.signature()
    for what, expected, found in (
        ("inputs", asked.inputs, given.inputs),
        ("outputs", asked.outputs, given.outputs),
    ):
        names, others = ([port.name for port in ports] for ports in (expected, found))
        if names != others:
            raise UsageError(
                f"the teacher has other {what} than the model",
                where=f"--teacher {path}",
                got=", ".join(others),
                expected=", ".join(names),
            )
        for port, other in zip(expected, found, strict=True):
            if port.dtype != other.dtype or not _may_be_equal(port.shape, other.shape):
                raise UsageError(
                    f"the teacher's {port.name} is another one than the model's",
                    where=f"--teacher {path}",
                    got=f"{other.dtype} {_shape_text(other.shape)}",
                    expected=f"{port.dtype} {_shape_text(port.shape)}",
                )
    return teacher


def _may_be_equal(first: Stated, second: Stated) -> bool:
    """Return whether two stated shapes agree in rank and in all extents that are numbers."""
    if first is None or second is None:
        return True
    return len(first) == len(second) and all(
        one == other or not (isinstance(one, int) and isinstance(other, int))
        for one, other in zip(first, second, strict=True)
    )


def _shape_text(shape: Stated) -> str:
    return "of unknown shape" if shape is None else str([extent or "?" for extent in shape])


def without_wrong_shapes(model: ModelView) -> tuple[str, ...]:
    """Remove stored inner shapes where some are wrong; return the note about it."""
    wrong = forget_wrong_shapes(model)
    if not wrong:
        return ()
    name, (stored, right) = next(iter(wrong.items()))
    return (
        f"{len(wrong)} stored shapes contradict the graph. The first: {name} is stored as {list(stored)}, "
        f"and the graph gives {list(right)} (open extents: 640). The runtime trusts stored shapes and then "
        "fails or computes something else, so the result stores none.",
    )


def frozen_defaults(model: ModelView, freeze: bool | None) -> tuple[str, ...]:
    """Turn initializers that are listed as inputs into constants, on request or where nearly all are.

    Args:
        model: the model; changed in place.
        freeze: whether to; None: where nine tenths of its initializers are listed or more.

    Returns:
        Names of the inputs that callers can no longer override.
    """
    freezes = model.lists_by_habit if freeze is None else freeze
    return model.freeze_defaults() if freezes else ()
