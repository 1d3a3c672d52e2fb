"""Flags of several commands: the cost model, extents of open axes, and the trainer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import typer

from onnx_admm.errors import UsageError
from onnx_admm.settings.amounts import parse_points, parse_times

COST_MODEL: Any = typer.Option(
    "--cost-model",
    metavar="M",
    help="NAME, NAME:PROFILE or NAME:PROFILE,KEY=VALUE; `onnx-admm plugins` lists names. A profile is a TOML "
    "file or a tag.",
)
TARGET: Any = typer.Option(
    "--target",
    metavar="T",
    help="Processor: this, x86-avx2, x86-avx512, x86-vnni or arm64; short for --cost-model onnxruntime:T. "
    "What was not measured on this machine is called predicted.",
)
TRAINER: Any = typer.Option(
    "--trainer",
    metavar="T",
    help="Name of the trainer: graph (any ONNX Runtime), onnxruntime-training or auto (graph).",
)
LABEL: Any = typer.Option(
    "--label", metavar="NAME", help="Name of the array of labels in the data. Default: labels."
)
METRIC: Any = typer.Option(
    "--metric",
    metavar="M",
    help="Measure that replaces accuracy: top-5, miou, log-likelihood, cosine, sqnr, or your own as "
    "module:function, called as function(outputs, labels). Higher is better.",
)


def cost_model_of(target: str | None, cost_model: str | None) -> str | None:
    """Return the cost model that ``--target`` or ``--cost-model`` names; None for neither.

    Raises:
        UsageError: both are given, or no such target.
    """
    if target is None:
        return cost_model
    if cost_model is not None:
        raise UsageError(
            "a target and a cost model both set the costs",
            got=f"--target {target}, --cost-model {cost_model}",
        )
    from onnx_admm.pricing.processors import THIS, find_target

    find_target(target)
    return "onnxruntime" if target == THIS else f"onnxruntime:{target}"


def read_max_drop(text: str) -> float:
    """Read percentage points; a named function, since old releases of typer need its name."""
    return parse_points(text, "--max-drop")


def read_min_ratio(text: str) -> float:
    """Read a factor."""
    return parse_times(text, "--min-ratio")


BIND: Any = typer.Option(
    "--bind", metavar="AXIS=N,..", help="Extents of open axes, such as N=1 or x[1]=160,T=8; for costs."
)


def parse_bindings(texts: Iterable[str]) -> dict[str, int]:
    """Return bindings such as ``["N=1,T=8", "x[1]=160"]`` as a table.

    Raises:
        UsageError: not of that form.
    """
    bindings = {}
    for text in (part for several in texts for part in _several(several)):
        axis, _, extent = text.rpartition("=")
        if not axis or not re.fullmatch(r"\d{1,18}", extent.strip(), re.ASCII):
            raise UsageError(
                "not a binding", where="--bind", got=repr(text), expected="such as N=1 or x[1]=160"
            )
        bindings[axis.strip()] = int(extent)
    return bindings


def _several(text: str) -> list[str]:
    """Split at commas between bindings; a comma in the name of an axis stays."""
    parts: list[str] = []
    for piece in text.split(","):
        if parts and "=" not in parts[-1]:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts
