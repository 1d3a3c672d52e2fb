"""Preparation of a run: decisions about a model before any pass, with notes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from onnx_admm.api.notes import ONE_AT_A_TIME, choices_note, frozen_note, random_note, target_note
from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.data.samples import one_at_a_time
from onnx_admm.errors import UnsupportedModel, UsageError
from onnx_admm.model.analysis.shapes import forget_wrong_shapes
from onnx_admm.model.opsets.lower_for_runtime import lower_for_runtime
from onnx_admm.model.rewrite.comparing.fixed_choices import choosing_operators
from onnx_admm.model.rewrite.comparing.fixed_draws import random_operators
from onnx_admm.model.rewrite.minify import erase_exporter_text
from onnx_admm.model.runtimes import parse_runtime
from onnx_admm.report import ModelFacts
from onnx_admm.runtime.children.probe import runs_together

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
        lowered: whether the model was lowered for an older runtime.
        one_at_a_time: whether the model takes one sample in a run, though its inputs allow more.

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
    lowered: bool = False
    one_at_a_time: bool = False


def in_runs(plan: Plan) -> Plan:
    """Return the plan with samples that the model runs with: one at a time where it refuses several.

    Raises:
        WorkError, LimitReached: a first run, in the worker process, killed it or took too much.
    """
    given = [each for each in (plan.validation, plan.train) if each is not None]
    if plan.validation is None or runs_together(plan.model, max(given, key=len)):
        return plan
    return replace(
        plan,
        train=None if plan.train is None else one_at_a_time(plan.train),
        validation=one_at_a_time(plan.validation),
        notes=(*plan.notes, ONE_AT_A_TIME),
        one_at_a_time=True,
    )


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


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What was decided about a model before any pass.

    Attributes:
        frozen, text, lowered: see `Plan`.
        notes: notes of the report on it.
    """

    frozen: tuple[str, ...]
    text: int
    notes: tuple[str, ...]
    lowered: bool


def prepare_model(model: ModelView, recipe: Recipe) -> Preparation:
    """Prepare a model for the passes of a recipe, in place.

    Raises:
        UsageError: its opset cannot be lowered to what the oldest runtime loads.
    """
    frozen = frozen_defaults(model, recipe.freeze_defaults)
    text = 0 if recipe.keep_docs else erase_exporter_text(model)
    notes = (*frozen_note(frozen, recipe.freeze_defaults), *without_wrong_shapes(model))
    fitted = fit_runtime(model, recipe.min_runtime)
    notes = (*notes, *fitted)
    priced = None if recipe.cost_model is None else cost_model(recipe.cost_model)
    notes = (
        *notes,
        *target_note(priced, integers=_may_use_integers(recipe)),
        *random_note(random_operators(model)),
    )
    notes = (*notes, *choices_note(choosing_operators(model)))
    return Preparation(frozen=frozen, text=text, notes=notes, lowered=len(fitted) > 1)


def _may_use_integers(recipe: Recipe) -> bool:
    """Return whether a pass of the recipe may compute layers with integers."""
    return any(
        step.name == "quantize_activations"
        or (step.name == "meet_latency" and getattr(step, "integers", False))
        for step in recipe.passes
    )


def fit_runtime(model: ModelView, version: str | None) -> tuple[str, ...]:
    """Lower a model to what an older runtime loads; return the notes on it.

    Args:
        model: the model; changed in place.
        version: of the oldest runtime that must load the result; None: nothing is done.

    Raises:
        UsageError: the opset cannot be lowered.
    """
    if version is None:
        return ()
    runtime = parse_runtime(version, "min_runtime")
    try:
        done = lower_for_runtime(model, runtime)
    except UnsupportedModel as error:
        raise UsageError(
            f"the model cannot be brought to an opset that {runtime} loads",
            where="--min-runtime",
            got=f"opset {model.opset}: {error}",
            expected=f"at most {runtime.opset}",
        ) from error
    lowered = [f"The model was lowered for {runtime}: {', '.join(done)}."] if done else []
    note = f"No form is written that {runtime} does not load. Latencies are those of the installed runtime."
    return (*lowered, note)


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
