"""``onnx-admm inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_admm.cli.console import show


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, on stdout.")] = False,
) -> None:
    """Show a model's layers.

    Operator, shape, weights, nonzeros, bits, MACs and bytes of each. Bytes are what the file stores: of kept
    weights alone, with the index of where they stand, and with everything needed to decode them.

    \b
      onnx-admm inspect net.onnx
      onnx-admm inspect net.onnx --json | jq '.layers[] | {weight, nonzeros}'
    """
    from onnx_admm.api import inspect_model

    facts = inspect_model(model)
    if as_json:
        from onnx_admm.report import to_json

        typer.echo(to_json(facts), nl=False)
        return
    from rich.text import Text

    from onnx_admm.report.tables import model_table

    origin = f", made by {facts.provenance}" if facts.provenance else ""
    summary = f"{facts.path}: {facts.file_bytes:,} bytes, opset {facts.opset}, IR {facts.ir_version}{origin}"
    show([Text(summary), model_table(facts)])
