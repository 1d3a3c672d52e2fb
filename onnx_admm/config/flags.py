"""From the flags of ``compress`` to a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil, isfinite
from typing import Any

from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model, pass_class
from onnx_admm.contracts import TrainingSettings
from onnx_admm.errors import RecipeError, UsageError
from onnx_admm.settings.amounts import number_before_x, parse_share
from onnx_admm.settings.ranges import MOST_EPOCHS, parse_pattern
from onnx_admm.targeting.quantities import parse_budgets

_TRAINED_RATE, _TRAINED_END_RATE = 1e-3, 1e-5
"""Learning rates of training behind pruning by reconstruction: those of ``admm_prune``'s retraining."""

_STEPS, _MOST_EPOCHS = 4000, 60

_REMOVED = ("macs", "latency", "energy", "size")
"""Quantities that the removal of channels can be asked for."""

THIS_MACHINE = "onnxruntime"
"""The cost model that times this machine."""

_MOSTLY_GRAPH = 0.5
"""Share of nodes, names and shapes in a result from which on they outweigh the weights."""

_BEHIND_DEQUANTIZE = ("transposed_weight", "row_bias", "relu_after_weight", "unfused_weight")
"""Rewrites without which a layer with a dequantised weight is slower than it was with floats.

The coders may choose such a form although none is asked for, where the others are slower.
"""

_BEHIND_ENCODING = ("function_of_rows",)
"""Rewrites that would hide a weight from the coders."""

_BESIDE_ACTIVATIONS_DB = 25.0
"""Ratio that rounded weights keep where activations are rounded too: half of the error that 22 dB allow."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Settings of the command line without a recipe.

    Attributes:
        remove: ``0.5x`` (share of the multiply-accumulates that may be left when channels are removed),
            ``latency=0.5x`` (of another quantity), or None.
        prune: ``85x`` (weights over nonzeros), ``0.9`` (share of zeros), ``2:4`` (2 kept of every 4) or None.
        bits: bits of a weight, 1 to 8; None: not quantised (chosen by measurement where ``prune`` is None
            too).
        budget: limits on the target, such as ``latency=0.5x``; in place of ``prune`` and ``bits``.
        format: form in which weights are stored.
        epochs: ADMM epochs of each pass (pruning retrains half as many); None: see `default_epochs`.
        samples: number of training samples, where known; `default_epochs` depends on it.
        fine_tune: whether to train.
        rebuild_first: with ``prune``, where the model is trained: prune by reconstruction and train what is
            left, then quantise by reconstruction; in place of ADMM over the whole model.
        include, exclude: patterns of layer names or operators; other layers are left unchanged.
        layers: form of single layers by pattern, as in a recipe's table; see `layer_table`.
        keep_docs: keep doc strings and exporters' notes.
        weights_only: leave activations in float, also where there is data.
        cost_model: the target, where one is named; a budget for latency alone is for this machine else.
    """

    remove: str | None = None
    prune: str | None = None
    bits: int | None = None
    budget: tuple[str, ...] = ()
    format: str = "auto"
    epochs: int | None = None
    samples: int | None = None
    fine_tune: bool = True
    rebuild_first: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    layers: Mapping[str, Any] = field(default_factory=dict)
    keep_docs: bool = False
    weights_only: bool = False
    cost_model: str | None = None


def recipe_from_flags(flags: Flags) -> Recipe:
    """Return the recipe for the flags: remove channels, prune, quantise, drop dead channels, rewrite, encode.

    Without fine-tuning, layers are pruned and quantised together by reconstruction. With neither ``prune``
    nor ``bits``: for each layer the strongest rounding that the outputs tolerate, no training, and with data
    integer activations where these are faster on this machine, unless ``weights_only``; with ``prune``
    alone the remaining weights are rounded so, compared with the pruned model. With a budget: density and
    bits of each layer by their cost on the target; trained only where ``epochs`` is given.

    Raises:
        RecipeError: an impossible value; names the flag.
    """
    prune = None if flags.prune is None else parse_prune(flags.prune)
    if flags.bits is not None and not 1 <= flags.bits <= 8:
        raise RecipeError("impossible number of bits", where="--bits", got=flags.bits, expected="1 to 8")
    if flags.epochs is not None and not 0 <= flags.epochs <= MOST_EPOCHS:
        raise RecipeError(
            "impossible number of epochs",
            where="--epochs",
            got=flags.epochs,
            expected=f"0 to {MOST_EPOCHS}",
        )
    latency = measured_latency(flags.budget, flags.cost_model)
    removal = [] if flags.remove is None else _removal(flags.remove, flags)
    plain = prune is None and flags.bits is None and not flags.budget
    steps: list[dict[str, Any]] = [
        {"name": "share_constants"},
        {"name": "fold_batchnorm"},
        {"name": "fold_bias"},
    ]
    faster = plain and flags.samples is not None and not flags.weights_only
    against = {"against": "before"} if removal else {}
    if plain:
        shared = {"least_sqnr_db": _BESIDE_ACTIVATIONS_DB} if faster else {}
        compressing: list[dict[str, Any]] = [{"name": "auto_quantize", **shared, **against}]
    elif latency is not None:
        steps.append({"name": "rewrite_for_runtime"})  # what is exact counts first
        compressing = [{"name": "meet_latency", "share": latency, **_epochs_of_latency(flags)}]
        compressing[0] |= {"integers": False} if flags.weights_only else {}
    elif flags.budget:
        epochs = {"epochs": flags.epochs} if flags.epochs and flags.fine_tune else {}
        compressing = [{"name": "meet_budget", "budget": list(flags.budget), **epochs}]
    elif flags.fine_tune and flags.rebuild_first and prune is not None:
        compressing = _rebuilt_and_trained(prune, flags)
    elif flags.fine_tune:
        compressing = _trained(prune, flags)
    else:
        compressing = [{"name": "reconstruct_layers", **(prune or {}), **_bits(flags)}]
    if prune is not None and flags.bits is None:
        compressing.append({"name": "auto_quantize", "against": "before"})
    chosen = {"include": list(flags.include), "exclude": list(flags.exclude)}
    chosen = {key: patterns for key, patterns in chosen.items() if patterns}
    steps += [{**step, **chosen} for step in (*removal, *compressing)]
    has_pattern = prune is not None and "pattern" in prune  # fewer channels would shift its groups
    if (prune is not None or flags.budget or removal) and not has_pattern:
        steps.append({"name": "drop_dead_channels"})
    steps.append({"name": "rewrite_for_runtime"})
    if faster:
        steps.append({"name": "quantize_activations", **against, **chosen})
        steps.append({"name": "rewrite_for_runtime", "rules": ["view_behind_dequantise"]})
    elif latency is not None:
        steps.append({"name": "auto_quantize", "against": "before", **chosen})
    steps.append({"name": "encode", "format": flags.format})
    steps.append({"name": "rewrite_for_runtime", "rules": [*_BEHIND_DEQUANTIZE, *_BEHIND_ENCODING]})
    if not flags.keep_docs:
        steps.append({"name": "minify", "least_share": _MOSTLY_GRAPH})
    trains = flags.fine_tune and (not plain or bool(removal))
    switches = {"fine_tune": trains, "keep_docs": flags.keep_docs}
    is_timed = latency is not None or any(step.get("quantity") == "latency" for step in removal)
    target = {"cost_model": flags.cost_model or THIS_MACHINE} if is_timed else {}
    layers = {"layers": dict(flags.layers)} if flags.layers else {}
    return Recipe.parse({"pass": steps, **switches, **target, **layers}, source="flags")


def measured_latency(budget: Sequence[str], target: str | None) -> float | None:
    """Return the share of the latency that may be left; None where more is limited or nothing is timed here.

    Args:
        budget: budgets as users write them.
        target: the cost model, as `registry.cost_model` reads it; None: this machine.

    Raises:
        UsageError: an impossible budget, or an unknown cost model.
    """
    budgets = parse_budgets(budget)
    if set(budgets) != {"latency"}:
        return None
    is_here = target is None or getattr(cost_model(target), "is_this_machine", False)
    return budgets["latency"] if is_here else None


def _epochs_of_latency(flags: Flags) -> dict[str, int]:
    """Return the epochs that a narrowed model may be trained for, where it may be."""
    if not flags.fine_tune or flags.samples is None:
        return {}
    epochs = default_epochs(flags.samples, 1) if flags.epochs is None else flags.epochs
    return {"epochs": epochs}


def _removal(text: str, flags: Flags) -> list[dict[str, Any]]:
    """Return the passes for ``--remove``: the removal, and fine-tuning where nothing behind it trains."""
    quantity, share = parse_remove(text)
    steps: list[dict[str, Any]] = [{"name": "remove_channels", "keep": share, "quantity": quantity}]
    if flags.fine_tune and flags.prune is None and flags.bits is None and not flags.budget:
        epochs = {} if flags.epochs is None else {"epochs": flags.epochs}
        steps.append({"name": "fine_tune", **epochs})
    return steps


def parse_remove(text: str) -> tuple[str, float]:
    """Return ``--remove`` as a quantity and the share of it that may be left.

    Raises:
        RecipeError: no such quantity, or no share above 0 and below 1.
    """
    quantity, _, share = text.rpartition("=")
    quantity = quantity.strip() or "macs"
    expected = "what may be left, such as 0.5x or 50% (of the multiply-accumulates), or latency=0.5x"
    if quantity not in _REMOVED:
        raise RecipeError("unknown quantity", where="--remove", got=repr(text), expected=expected)
    try:
        number = parse_share(share, "--remove")
    except UsageError:
        number = 0.0
    if not 0 < number < 1:
        raise RecipeError("impossible share", where="--remove", got=repr(text), expected=expected)
    return quantity, number


def _trained(prune: dict[str, Any] | None, flags: Flags) -> list[dict[str, Any]]:
    """Return the passes that prune and quantise by fine-tuning."""
    steps: list[dict[str, Any]] = []
    if prune is not None:
        tuned = _tuned("admm_prune", flags)
        retrained = {"retrain_epochs": (tuned["epochs"] + 1) // 2} if tuned else {}
        steps.append({"name": "admm_prune", **prune, **tuned, **retrained})
    if flags.bits is not None:
        steps.append({"name": "admm_quantize", "bits": flags.bits, **_tuned("admm_quantize", flags)})
    return steps


def _rebuilt_and_trained(prune: dict[str, Any], flags: Flags) -> list[dict[str, Any]]:
    """Return the passes that prune by reconstruction, train what is left, and quantise by reconstruction."""
    rates = {"learning_rate": _TRAINED_RATE, "end_rate": _TRAINED_END_RATE}
    steps = [
        {"name": "reconstruct_layers", **prune},
        {"name": "fine_tune", **rates, **_tuned("fine_tune", flags)},
    ]
    return [*steps, {"name": "reconstruct_layers", **_bits(flags)}] if flags.bits is not None else steps


def _bits(flags: Flags) -> dict[str, int]:
    return {} if flags.bits is None else {"bits": flags.bits}


def default_epochs(samples: int, least: int) -> int:
    """Return the default of ADMM epochs of a pass: as many as take about 4,000 optimizer steps.

    ``ceil(4000 / ceil(samples / batch size))``, no fewer than ``least`` and no more than 60.

    Args:
        samples: number of training samples.
        least: the pass's own default.
    """
    steps_per_epoch = max(1, ceil(samples / TrainingSettings().batch_size))
    return max(least, min(_MOST_EPOCHS, ceil(_STEPS / steps_per_epoch)))


def _tuned(name: str, flags: Flags) -> dict[str, int]:
    """Return the pass's key ``epochs``; nothing where the pass decides."""
    if flags.epochs is not None:
        return {"epochs": flags.epochs}
    if flags.samples is None or not flags.fine_tune:
        return {}
    return {"epochs": default_epochs(flags.samples, getattr(pass_class(name), "epochs", 0))}


def parse_prune(text: str) -> dict[str, Any]:
    """Return ``--prune`` as keys of a pruning pass: ``ratio``, ``keep`` or ``pattern``.

    Raises:
        RecipeError: not a ratio above 1x, a share strictly between 0 and 1, or N:M with 0 < N < M.
    """
    impossible = RecipeError(
        "impossible pruning target",
        where="--prune",
        got=repr(text),
        expected="a ratio such as 85x (weights over nonzeros, above 1x), a share of zeros such as 0.9 "
        "or 90% (between 0 and 1) or a pattern such as 2:4 (2 kept of every 4)",
    )
    text = text.strip()
    if ":" in text:
        if (pattern := parse_pattern(text)) is None:
            raise impossible
        return {"pattern": f"{pattern[0]}:{pattern[1]}"}
    try:
        factor, percent = number_before_x(text), text.endswith("%")
        number = Decimal(factor or text.removesuffix("%")) / (100 if percent else 1)
    except ArithmeticError:
        raise impossible from None
    if factor is not None:
        if not (number.is_finite() and number > 1 and isfinite(float(number))):
            raise impossible
        return {"ratio": float(number)}
    if not (number.is_finite() and 0 < number < 1):
        raise impossible
    return {"keep": float(1 - number)}
