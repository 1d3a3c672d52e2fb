"""``onnx-admm inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_admm.cli.console import show
from onnx_admm.cli.target import BIND, COST_MODEL, TARGET, cost_model_of, parse_bindings
from onnx_admm.errors import UsageError

if TYPE_CHECKING:
    from onnx_admm.report import CostFacts, ModelFacts


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model.")],
    cost_model: Annotated[str | None, COST_MODEL] = None,
    target: Annotated[str | None, TARGET] = None,
    bind: Annotated[list[str] | None, BIND] = None,
    quantity: Annotated[
        str | None,
        typer.Option(
            "--quantity",
            metavar="F",
            help="Quantity of break-even ratios and gains: latency_s, energy_j, bytes, macs or mac_bits. "
            "Default: the first quantity of the cost model.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show a model's layers.

    Prints operator, shape, weights, nonzeros, bits, MACs and bytes of each layer. Bytes are as in the file:
    of kept weights alone, with the index of their positions, and with everything needed to decode them.

    With --cost-model: prints time, energy and bytes of each layer, its break-even pruning ratio, and the
    factor of its cost with 90 % zeros, at 8 and at 4 bits.

    \b
      onnx-admm inspect net.onnx
      onnx-admm inspect net.onnx --cost-model roofline:raspberry-pi-4 --bind N=1
      onnx-admm inspect net.onnx --json | jq '.layers[] | {weight, nonzeros}'
    """
    cost_model = cost_model_of(target, cost_model)
    if cost_model is not None:
        from onnx_admm.api import inspect_costs
        from onnx_admm.config.registry import cost_model as find

        _show_costs(
            inspect_costs(model, find(cost_model), parse_bindings(bind or ()), quantity), as_json=as_json
        )
        return
    if bind or quantity:
        raise UsageError("--bind and --quantity need --cost-model or --target")
    from onnx_admm.api import inspect_model

    facts = inspect_model(model)
    if as_json:
        from onnx_admm.report import to_json

        typer.echo(to_json(facts), nl=False)
        return
    from onnx_admm.report.tables import model_table

    origin = f", made by {facts.provenance}" if facts.provenance else ""
    summary = f"{facts.path}: {facts.file_bytes:,} bytes, opset {facts.opset}, IR {facts.ir_version}{origin}"
    show([summary, model_table(facts), *_other_weights(facts)])


def _other_weights(facts: ModelFacts) -> list[str]:
    """Return a line on constants that may be weights and have no row."""
    others = sorted(facts.other_weights, key=lambda weight: -weight.bytes)
    if not others:
        return []
    largest = others[0]
    named = f"{largest.name}, {largest.bytes:,} bytes: {largest.why}."
    if len(others) == 1:
        return [f"One constant is no layer that the tool knows: {named}"]
    total = sum(weight.bytes for weight in others)
    those = f"{len(others)} constants of {total:,} bytes are no layers that the tool knows."
    return [f"{those} The largest: {named}"]


def _show_costs(facts: CostFacts, *, as_json: bool) -> None:
    from onnx_admm.report import to_json
    from onnx_admm.report.cost_tables import costs_view

    if as_json:
        typer.echo(to_json(facts), nl=False)
    else:
        show(costs_view(facts))
